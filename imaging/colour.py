"""Brightness in the six colour spaces that imgaug's brightness changes draw from.

Each function takes planes, float32 (3, H, W) of red, green and blue from 0 to 255, and `change`, a
function of the space's brightness (H, W) from 0 to 255. It replaces the brightness, in place, and
leaves the space's other two numbers, whatever the range of the result. The definitions are those of
OpenCV's cvtColor for bytes, without its rounding; their formulas stand in weather.md.
"""

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, BT.601
# Linear sRGB to CIE XYZ with white as Y = 1, BT.709 primaries and the white point D65.
XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ],
    np.float32,
)
RGB = np.linalg.inv(XYZ.astype(np.float64)).astype(np.float32)
WHITE = XYZ.sum(axis=1)  # X, Y and Z of white
LEAST = np.float32(1e-6)  # in place of a divisor of 0


def luma(planes, change):
    """YCrCb and YUV: the mean weighted by LUMA; the differences from it stay."""
    before = sum(np.float32(weight) * plane for weight, plane in zip(LUMA, planes, strict=True))
    planes += change(before) - before


def hsv(planes, change):
    """The largest colour, V; hue and the ratios of the colours stay. Black becomes grey."""
    before = planes.max(axis=0)
    after = change(before)
    planes *= after / np.maximum(before, LEAST)
    planes[:, before == 0] = after[before == 0]


def hls(planes, change):
    """The mean of the largest and the least colour, L; hue and saturation stay.

    The saturation is the distance of the colours as a part of the largest that L allows.
    """
    before = (planes.max(axis=0) + planes.min(axis=0)) / 2
    after = change(before)
    allowed, allows = (np.minimum(each, 255 - each) for each in (before, after))
    planes -= before
    planes *= np.where(allowed > 0, allows / np.maximum(allowed, LEAST), 0)
    planes += after


def lab(planes, change):
    """CIE L*, as 255 / 100 L*; a* and b* stay."""
    x, y, z = _xyz(planes)
    lightness, roots = _lightness(y), [_root(x / WHITE[0]), _root(y), _root(z / WHITE[2])]
    step = (change(lightness) - lightness) * np.float32(100 / 255 / 116)
    for plane, root, white in zip(planes, roots, WHITE, strict=True):
        plane[:] = white * _cube(root + step)
    _to_rgb(planes)


def luv(planes, change):
    """CIE L*, as 255 / 100 L*; u* and v* stay."""
    x, y, z = _xyz(planes)
    before = _lightness(y) * np.float32(100 / 255)
    after = change(before * np.float32(2.55)) * np.float32(1 / 2.55)
    total = np.maximum(x + 15 * y + 3 * z, LEAST)
    white_u, white_v = (each / (WHITE @ (1, 15, 3)) for each in (4 * WHITE[0], 9 * WHITE[1]))
    # 13 L u' and 13 L v' of the new colour.
    u = 13 * (before * (4 * x / total - white_u) + after * white_u)
    v = 13 * (before * (9 * y / total - white_v) + after * white_v)
    part = (0.25 / np.where(np.abs(v) < LEAST, LEAST, v)).clip(-0.25, 0.25)  # OpenCV's limit
    planes[1] = _cube((after + 16) / 116)
    planes[0] = planes[1] * 9 * u * part
    planes[2] = planes[1] * ((156 * after - 3 * u) * part - 5)
    np.clip(planes, 0, 2, out=planes)  # again as OpenCV
    _to_rgb(planes)


def _xyz(planes):
    """CIE X, Y and Z (3, H, W) of colours from 0 to 255."""
    parts = planes / np.float32(255)
    high = ((parts + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    linear = np.where(parts > 0.04045, high, parts / np.float32(12.92))
    return np.tensordot(XYZ, linear, 1)


def _to_rgb(planes):
    """X, Y and Z become colours from 0 to 255, in place; what is no colour is cut off."""
    linear = np.tensordot(RGB, planes, 1).clip(0, 1)
    high = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    planes[:] = 255 * np.where(linear > 0.0031308, high, np.float32(12.92) * linear)


def _root(part):
    """CIE's cube root, straight near black; `_cube` is its inverse."""
    return np.where(part > 0.008856, np.cbrt(part), np.float32(7.787) * part + np.float32(16 / 116))


def _cube(root):
    straight = (root - np.float32(16 / 116)) / np.float32(7.787)
    return np.where(root > 0.20689, root * root * root, straight)


def _lightness(y):
    """255 / 100 of L*, from Y."""
    return np.float32(2.55) * (116 * _root(y) - 16)


COLOUR_SPACES = (luma, hsv, hls, lab, luv, luma)  # YCrCb, HSV, HLS, Lab, Luv, YUV
