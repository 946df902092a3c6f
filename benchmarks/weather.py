"""The ten weather conditions: images a second of one core, and how much they change an image.

python benchmarks/weather.py
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

from runtime.cli import Parser, example_in, positive_int, script  # noqa: E402
from runtime.startup import keep_freed_memory  # noqa: E402

SEEDS_EACH = 4  # drawings of every image and condition; those of a fall differ much in their time


def drone_images(count, side):
    """Rendered drone images, a list of `count` uint8 arrays (side, side, 3), each of a building."""
    from sources.campus.camera import SPIRAL_FRAMES
    from sources.campus.site import make_site
    from sources.campus.views import render_view

    sites = [make_site(seed=0, building=number) for number in range(1, count + 1)]
    frames = np.linspace(1, SPIRAL_FRAMES, count).astype(int)
    return [
        render_view(site, "drone", int(frame), side)
        for site, frame in zip(sites, frames, strict=True)
    ]


def ssim(a, b):
    """Structural similarity of two images uint8 (H, W, 3) in grey, -1 to 1; 1 for equal ones.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, IEEE
    TIP 2004, eq. 13 with the Gaussian window of 11 x 11 pixels and sigma 1.5; the mean over all
    windows inside the image.
    """
    from scipy.ndimage import gaussian_filter

    x, y = (image @ np.array([0.299, 0.587, 0.114]) for image in (a, b))
    inside = np.s_[5:-5, 5:-5]

    def mean(values):
        return gaussian_filter(values, 1.5, radius=5)[inside]

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (var_x + var_y + c2)))


def likeness(images, drawn):
    """Mean and least SSIM of weathered images with their originals, `SEEDS_EACH` of each."""
    found = [ssim(image, drawn[n]) for n, image in enumerate(repeated(images))]
    return float(np.mean(found)), min(found)


def repeated(images):
    """Every image as often as it is drawn."""
    return [image for image in images for _ in range(SEEDS_EACH)]


def draw_all(condition, images):
    """All images under all seeds in one condition."""
    from imaging.weather import apply_weather, weather_seed

    return [
        apply_weather(image, condition, weather_seed(str(number), condition))
        for number, image in enumerate(repeated(images))
    ]


def check_same(conditions, images):
    """Raise AssertionError unless threads draw in any order what this thread draws, to the bit."""
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda name: draw_all(name, images), conditions[::-1]))[::-1]
    for condition, drawn in zip(conditions, threaded, strict=True):
        if not np.array_equal(drawn, draw_all(condition, images)):
            raise AssertionError(f"{condition} is another picture in another thread")


def parse_args(argv=None):
    """Options of the measurement."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=5)
    parser.add_argument(
        "--side", type=positive_int, default=512, help="pixels of the square images (default 512)"
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Time all conditions in turn and print the table; returns what --json writes."""
    opts = parse_args(argv)
    from imaging.weather import CONDITIONS, SPEC_VERSION

    keep_freed_memory()  # as train.py does
    count, side = (2, 48) if opts.quick else (4, opts.side)
    images = drone_images(count, side)
    check_same(CONDITIONS, images[:1])
    pictures = {}
    ways = {
        name: lambda name=name: pictures.update({name: draw_all(name, images)})
        for name in CONDITIONS
    }
    seconds = measure.interleave(ways, opts.rounds)
    rows = [
        [name, count * SEEDS_EACH / float(np.median(its)), *likeness(images, pictures[name])]
        for name, its in seconds.items()
    ]
    print(f"specification {SPEC_VERSION}, {count} images of {side} x {side} pixels, one thread")
    measure.print_table(rows, ["condition", "images/s", "mean SSIM", "least SSIM"])
    table = {name: {"images_per_s": r, "ssim": s, "least_ssim": low} for name, r, s, low in rows}
    result = {"spec_version": SPEC_VERSION, "side": side, "conditions": table, "seconds": seconds}
    measure.write_json(opts.json, result)
    return result


if __name__ == "__main__":
    main()
