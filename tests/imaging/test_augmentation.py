"""Random changes of training images, against the published transforms and by hand."""

import collections
import math
import random

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from imaging import augmentation
from imaging.augmentation import Augmentation
from sources.panoramas import polar_transform


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_edge_window_is_pad_and_crop():
    """Every offset of the published Pad and RandomCrop, bit for bit."""
    image, pad = noise(9, 11), 3
    padded = v2.functional.pad(Image.fromarray(image), pad, padding_mode="edge")
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            expected = v2.functional.crop(padded, top, left, 9, 11)
            ours = augmentation.edge_window(image, top - pad, left - pad, 9, 11)
            assert np.array_equal(ours, np.asarray(expected)), (top, left)


@pytest.mark.parametrize("angle", [-90, -33.3, 0, 12.5, 45, 90])
def test_a_turned_window_is_pad_affine_and_crop(angle):
    """The published Pad, RandomAffine and RandomCrop on a Pillow image, bit for bit."""
    image, pad = noise(40, 52), 4
    padded = v2.functional.pad(Image.fromarray(image), pad, padding_mode="edge")
    # torchvision counts a positive affine angle clockwise, and draws both signs alike.
    turned = v2.functional.affine(padded, -angle, [0, 0], 1.0, [0.0, 0.0])
    for top, left in ((0, 0), (4, 4), (8, 3)):
        expected = np.asarray(v2.functional.crop(turned, top, left, 40, 52))
        ours = augmentation.turned_window(image, angle, top, left, pad)
        differing = (ours != expected).any(axis=2).mean()
        assert differing < 0.002, (top, left, differing)  # a border between pixels, hit exactly


def draws_of(augmentation, image, count):
    return [augmentation.rearrange(image, random.Random(seed)) for seed in range(count)]


def test_shifts_and_flips_are_drawn_evenly():
    """Published RandomCrop and RandomHorizontalFlip: all offsets alike, half of all flipped."""
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    image = np.stack([rows, columns, rows], axis=2).astype(np.uint8) * 8
    seen = draws_of(Augmentation(30, 30, pad=2), image, 3000)
    tops = collections.Counter(int(out[15, 15, 0]) // 8 - 15 for out in seen)
    flipped = np.mean([out[15, 20, 1] < out[15, 10, 1] for out in seen])
    assert sorted(tops) == [-2, -1, 0, 1, 2]
    assert max(abs(count / 3000 - 0.2) for count in tops.values()) < 0.03
    assert flipped == pytest.approx(0.5, abs=0.03)


def test_satellites_are_turned_evenly_between_a_quarter_left_and_right():
    """Published RandomAffine(90): the angle of a bright line is uniform over half a turn."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20:] = 255  # a ray to the right
    image[19:22, 20:] = 255
    angles = []
    for out in draws_of(Augmentation(41, 41, turned=True, pad=0), image, 2000):
        y, x = np.nonzero(out[..., 0])
        angles.append(np.degrees(np.arctan2(20 - y.mean(), abs(x.mean() - 20))))
    angles = np.sort(angles)
    assert np.abs(angles - np.linspace(-90, 90, len(angles))).max() < 8
    still = draws_of(Augmentation(41, 41, pad=0), image, 20)
    assert all((out[20] > 0).any() and not out[0].any() for out in still)


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_panorama_rolls_with_its_satellite_image(quarters, mirrored):
    """Aligned pairs stay aligned: the polar form of the satellite image is the panorama."""
    smooth = Image.fromarray(noise(4, 4)).resize((240, 240), Image.Resampling.BICUBIC)
    satellite = np.asarray(smooth)
    panorama = polar_transform(satellite, 40, 240)
    satellite_view, street_view = (
        Augmentation(height, 240, pad=0, rolled=rolled) for height, rolled in ((240, 0), (40, 1))
    )
    turned = satellite_view.rearrange(satellite, random.Random(0), mirrored, quarters)
    rolled = street_view.rearrange(panorama, random.Random(1), mirrored, quarters)
    expected = polar_transform(turned, 40, 240)
    differences = [
        np.abs(np.roll(rolled, 60 * more, axis=1).astype(float) - expected).mean()
        for more in range(4)
    ]
    # Half a pixel, because the middle lies between pixels; another roll is far off.
    assert differences[0] < 4 and 4 * differences[0] < min(differences[1:])


def test_rearranging_leaves_the_cached_image_alone():
    image = noise(20, 20)
    before = image.copy()
    image.flags.writeable = False
    for turned in (False, True):
        changes = Augmentation(20, 20, turned=turned, pad=0, erasing_p=1.0)
        for out in draws_of(changes, image, 10):
            assert out.shape == image.shape and out.dtype == np.uint8
    assert np.array_equal(image, before)


class Fixed:
    """A random.Random whose uniform numbers are given."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def uniform(self, low, high):
        number = self.numbers.pop(0)
        assert low <= number <= high
        return number


def test_tone_curves_are_their_formula():
    assert np.array_equal(augmentation.tone_curves(0, Fixed(*[0] * 5)), [np.arange(256)] * 3)
    brightness, contrast, gammas = 0.2, -0.3, (0.1, 0.0, -0.25)
    curves = augmentation.tone_curves(0.4, Fixed(brightness, contrast, *gammas))
    assert curves.shape == (3, 256) and curves.dtype == np.uint8
    for channel, gamma in enumerate(gammas):
        for level in (0, 1, 77, 128, 254, 255):
            value = (level / 255) ** math.exp(gamma) - 0.5
            value = 255 * (value * math.exp(contrast) + 0.5 + brightness / 4)
            assert curves[channel, level] == min(max(round(value), 0), 255)


def test_recolouring_applies_one_curve_to_each_colour():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    plain = Augmentation(20, 24, pad=0).rearrange(image, random.Random(3))
    recoloured = Augmentation(20, 24, pad=0, recolour=0.3)
    changed = recoloured.rearrange(image, random.Random(3))
    if np.array_equal(plain[:, ::-1], image):
        plain = plain[:, ::-1]
    for mirrored in (changed, changed[:, ::-1]):
        pairs = [
            len({(a, b) for a, b in zip(plain[..., c].flat, mirrored[..., c].flat, strict=True)})
            for c in range(3)
        ]
        if pairs == [len(np.unique(plain[..., c])) for c in range(3)]:
            break
    else:
        raise AssertionError("a level of a colour became several levels")
    assert (changed != image).mean() > 0.5


def test_autoaugment_fills_with_grey():
    """As published: 128 where an image was moved away, not black."""
    white = np.full((24, 24, 3), 255, np.uint8)
    policy = Augmentation(24, 24, DA=True)
    found = [np.unique(policy.before_resizing(white, seed)).tolist() for seed in range(60)]
    assert [128, 255] in found and [0, 255] not in found


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_zoom_magnifies_about_the_middle(zoom):
    """A linear ramp stays one under bilinear interpolation, steeper or flatter by the zoom."""
    ramp = np.linspace(0, 250, 41)[None, :, None] * np.ones((41, 1, 3))
    out = augmentation.turned_window(ramp.round().astype(np.uint8), 0.0, 0, 0, 0, zoom)
    middle = out[20, 14:27, 0].astype(float)
    expected = 125 + (np.arange(14, 27) - 20) * (250 / 40) / zoom
    assert np.abs(middle - expected).max() < 1.5


def test_zoom_is_drawn_evenly_up_and_down(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augmentation, "turned_window", lambda image, *where: drawn.append(where[-1]) or image
    )
    changes = Augmentation(8, 8, pad=1, zoom=1.5)
    image = np.zeros((8, 8, 3), np.uint8)
    for seed in range(400):
        changes.rearrange(image, random.Random(seed))
    logs = np.log(drawn) / math.log(1.5)
    assert logs.min() > -1 and logs.max() < 1 and abs(logs.mean()) < 0.1
    assert abs((np.abs(logs) < 0.5).mean() - 0.5) < 0.1
