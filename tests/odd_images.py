"""Image files that Pillow writes not at all, or not by one call."""

import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag


def exif(orientation):
    """EXIF data that says how a stored image is to be turned."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def write_deep_png(path, pixels):
    """Write uint16 (H, W), or (H, W, C) of 2, 3 or 4 channels, as a PNG of 16 bits."""
    height, width = pixels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels[0, 0].size]

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_deep_tiff(path, pixels):
    """Write uint16 (H, W, 3) as a TIFF of 16 bits a colour: one strip, little endian."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    start = 8 + 2 + 9 * 12 + 4  # header, directory of nine tags
    bits = start + len(data)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, 1, start), (277, 3, 1, channels), (278, 4, 1, height),
            (279, 4, 1, len(data))]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0)
        + data + struct.pack(f"<{channels}H", *[16] * channels)
    )  # fmt: skip


def damaged_jpeg(path):
    """Make a JPEG lose the second half of its pixels, which become zeros; its end is there."""
    content = path.read_bytes()
    half = (content.index(b"\xff\xda") + len(content)) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half - 2) + content[-2:])


def noise(height, width, seed=0):
    """Smooth noise, uint8 (height, width, 3): no row, column or colour like another."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
