"""What it costs to cut a map and to search in it, and what the estimate from several tiles gains.

python benchmarks/locate.py --json locate.json
"""

import json
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import add_options, interleave, print_table, ratio, run_process, write_json  # noqa: E402

from evaluation import mercator  # noqa: E402
from evaluation.index import open_index  # noqa: E402
from evaluation.map_folder import read_map  # noqa: E402
from locating.search import (  # noqa: E402
    SHARPNESS,
    estimate,
    find_by_index,
    find_tiles,
    spread_of,
)
from runtime.cli import Parser, example_in, script  # noqa: E402
from runtime.optional import require  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("cut", "search", "estimate")
WIDTH = 512
TOP = 5
MAPS = {"full": (3000, 10_000, 30_000), "quick": (600,)}  # pixels of a side
METRES_PER_PIXEL = 0.25
# Tiles of a map, photos, and the indexes to compare with.
SEARCHES = {
    "full": ((10_000, 128, ("HNSW32",)), (100_000, 128, ("HNSW32", "IVF1024,SQ8")),
             (1_000_000, 128, ("IVF1024,SQ8",))),
    "quick": ((3000, 16, ("IVF16,Flat",)),),
}  # fmt: skip
REACH, NOISE = 60.0, 1.2  # metres over which features change; noise of a photo, of 1 for a tile
# Metres over which features change, overlap of the tiles, noise of a photo, sizes of tiles.
FLIGHTS = tuple((reach, overlap, noise, (100.0,)) for reach in (40, 80, 160)
                for overlap in (0.25, 0.5, 0.75) for noise in (0.5, 1.5)) + tuple(
    (reach, 0.5, 1.0, (100.0, 200.0)) for reach in (40, 80, 160))  # fmt: skip
SHARPNESSES = (0.1, 0.25, 0.5, 1.0, 2.0)
COUNTS = (9, 25, 100)


# ---------------------------------------------------------------- cutting
def write_map(path, side, block=512, seed=0):
    """Write a GeoTIFF of `side` pixels in UTM, a block at a time: grey hills, JPEG in blocks."""
    rasterio = require("rasterio", "this benchmark", "-r requirements-maps.txt")
    generator = np.random.default_rng(seed)
    settings = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8",
        "crs": "EPSG:32632", "tiled": True, "blockxsize": block, "blockysize": block,
        "compress": "JPEG", "photometric": "YCBCR", "BIGTIFF": "IF_SAFER",
        "transform": rasterio.transform.from_origin(690_000, 5_340_000, *[METRES_PER_PIXEL] * 2),
    }  # fmt: skip
    with rasterio.open(path, "w", **settings) as file:
        for _, window in file.block_windows(1):
            cells = generator.integers(0, 256, (3, 16, 16), np.uint8)
            pixels = cells.repeat(block // 16, axis=1).repeat(block // 16, axis=2)
            file.write(pixels[:, : window.height, : window.width], window=window)


def cut_maps(sides):
    """Cut maps of several sizes, each in a process of its own: a list of figures."""
    found = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder, "map.tif"), Path(folder, "map")
            write_map(path, side)
            argv = [sys.executable, ROOT / "prepare.py", "tiles", path, "--out", out]
            seconds, peak, _ = run_process([*argv, "--metres", "100", "--overlap", "0"])
            tiles = len(read_map(out).paths)
        each = {"pixels": side, "tiles": tiles, "seconds": seconds}
        found.append({**each, "a thousand": 1000 * seconds / tiles, "peak_mib": peak})
    return found


# ---------------------------------------------------------------- search
class Ground:
    """A plane whose features (N, 512) change smoothly from place to place, as a map's do."""

    def __init__(self, reach, seed=0):
        self.generator = np.random.default_rng(seed)
        self.waves = self.generator.standard_normal((2, WIDTH), dtype=np.float32) / reach
        self.phases = self.generator.uniform(0, 2 * np.pi, WIDTH).astype(np.float32)

    def features(self, points, noise):
        """Unit features of points (N, 2) in metres, float32."""
        found = self.generator.standard_normal((len(points), WIDTH), dtype=np.float32)
        found *= noise
        found += np.cos(points.astype(np.float32) @ self.waves + self.phases)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def grid(count, step):
    """The points (count, 2) of a square grid, in metres."""
    side = int(np.ceil(count**0.5))
    rows, columns = np.divmod(np.arange(count), side)
    return np.stack([columns, -rows], axis=1) * step


def write_tiles(path, ground, points):
    """Write the features of tiles as .npy, a block at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(points), WIDTH)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(points), 2**15):
            file.write(ground.features(points[start : start + 2**15], 1.0))


def whole_matrix(photos, tiles, top):
    """The first tiles of photos (N, D), from all scores at once and a full sort: the plain way."""
    return np.argsort(-(photos @ tiles.T), axis=1, kind="stable")[:, :top]


def measure_search(folder, rounds, factories):
    """Time the search in the files of a folder: figures as plain values."""
    photos, tiles = np.load(folder / "photos.npy"), np.load(folder / "tiles.npy", mmap_mode="r")
    found, ways = {}, {}

    def keeping(name, search):
        def run():
            found[name] = search()

        return run

    ways["all at once"] = keeping("all at once", lambda: whole_matrix(photos, tiles, TOP))
    ways["blocks"] = keeping("blocks", lambda: find_tiles(photos[np.newaxis], tiles, TOP).tiles)
    built = {}
    for factory in factories:
        start = time.perf_counter()
        index = open_index(tiles, factory)
        built[factory] = time.perf_counter() - start
        ways[factory] = keeping(
            factory,
            lambda index=index: find_by_index(photos[np.newaxis], tiles, TOP, index).tiles,
        )
    for run in ways.values():  # the pages of the file are in memory before the clock runs
        run()
    seconds = interleave(ways, rounds)
    same = (found["blocks"] == found["all at once"]).mean()
    if same < 0.99:  # scores of the last digit may change places
        raise AssertionError(f"only {same:.1%} of the first tiles are the same")
    figures = {}
    for name, run in ways.items():
        tracemalloc.start()
        run()
        figures[name] = {
            "seconds": seconds[name],
            "mib": tracemalloc.get_traced_memory()[1] / 2**20,
        }
        tracemalloc.stop()
        exact = found["all at once"]
        figures[name]["first"] = float((found[name][:, 0] == exact[:, 0]).mean())
        shared = (found[name][:, :, np.newaxis] == exact[:, np.newaxis]).any(axis=2)
        figures[name]["of_five"] = float(shared.mean())
        figures[name]["built"] = built.get(name, 0.0)
    return figures


def search_maps(sizes, rounds):
    """Search in maps of several sizes, each in a process of its own: a list of figures."""
    rows = []
    for count, num_photos, factories in sizes:
        with tempfile.TemporaryDirectory() as folder:
            ground, points = Ground(REACH), grid(count, 50.0)
            write_tiles(Path(folder, "tiles.npy"), ground, points)
            shown = ground.generator.choice(count, num_photos)
            where = points[shown] + ground.generator.uniform(-25, 25, (num_photos, 2))
            np.save(Path(folder, "photos.npy"), ground.features(where, NOISE))
            argv = [sys.executable, Path(__file__).resolve(), "--point", folder]
            argv += ["--rounds", rounds, "--indexes", *factories]
            _, peak, out = run_process(argv)
        found = json.loads(out.splitlines()[-1])
        for name, figures in found.items():
            rows.append({
                "tiles": count, "way": name, "seconds": float(np.median(figures["seconds"])),
                "gain": ratio(found["all at once"]["seconds"], figures["seconds"]),
                "gain_on_blocks": ratio(found["blocks"]["seconds"], figures["seconds"]),
                **{key: figures[key] for key in ("mib", "first", "of_five", "built")},
                "peak_mib_of_all": peak,
            })  # fmt: skip
    return rows


# ---------------------------------------------------------------- the estimate
def fly(reach, overlap, noise, sizes, count=300, side=1500.0, seed=0):
    """A simulated flight anywhere over a map, its edges too, with noise of its own and another
    platform's part that all photos share: (photos (1, N, D), tiles, centres, sides, truth).
    """
    ground = Ground(reach, seed)
    points, sides = [], []
    for size in sizes:
        steps = np.arange(size / 2, side, size * (1 - overlap))
        points.append(np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2))
        sides.append(np.full(len(points[-1]), size))
    points, sides = np.concatenate(points), np.concatenate(sides)
    truth = ground.generator.uniform(0, side, (count, 2))
    tiles = ground.features(points, 0.5)
    platform = 0.3 * ground.generator.standard_normal(WIDTH, dtype=np.float32)
    photos = ground.features(truth, noise) + platform / WIDTH**0.5
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    return photos[np.newaxis], tiles, points, sides, truth


def measure_estimates(flights):
    """Median errors of the first centre and of estimates, of photos whose first tile is right."""
    rows = []
    for reach, overlap, noise, sizes in flights:
        photos, tiles, points, sides, truth = fly(reach, overlap, noise, sizes)
        found = find_tiles(photos, tiles, max(COUNTS))
        spread = spread_of(photos, tiles)
        first = found.tiles[:, 0]
        right = np.abs(points[first] - truth).max(axis=1) <= sides[first] / 2
        centre = np.hypot(*(points[first] - truth).T)[right]
        # Around latitude 0 a metre of the projection is one on the ground.
        places = np.stack(mercator.unproject(points[:, 0], points[:, 1]), axis=1)
        row = {"reach": reach, "overlap": overlap, "noise": noise,
               "sides": "+".join(f"{size:g}" for size in sizes), "right": float(right.mean()),
               "centre": float(np.median(centre)), "settings": {}}  # fmt: skip
        for count in COUNTS:
            near = found.tiles[:, :count]
            for sharpness in SHARPNESSES:
                place = estimate(places[near], sides[near], found.scores[:, :count],
                                 spread * sharpness / SHARPNESS)  # fmt: skip
                x, y = mercator.project(place[:, 0], place[:, 1])
                errors = np.hypot(x - truth[:, 0], y - truth[:, 1])[right]
                row["settings"][f"{count}/{sharpness:g}"] = float(np.median(errors))
        rows.append(row)
    return rows


def summarise(rows):
    """{setting: (mean, worst) error of the estimate as a share of the first centre's}."""
    shares = {
        name: [row["settings"][name] / row["centre"] for row in rows]
        for name in rows[0]["settings"]
    }
    return {
        name: (float(np.exp(np.mean(np.log(each)))), max(each)) for name, each in shares.items()
    }


# ---------------------------------------------------------------- the command
def parse_args(argv=None):
    """Options of the measurement."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    add_options(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--point", metavar="DIR", help="only search in this folder's files, print "
                        "one line of JSON, and end")  # fmt: skip
    parser.add_argument("--indexes", nargs="*", default=[], metavar="FACTORY", help="for --point")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print a table of each part; returns {part: figures}."""
    opts = parse_args(argv)
    if opts.point:
        figures = measure_search(Path(opts.point), opts.rounds, opts.indexes)
        print(json.dumps(figures))
        return figures
    size, results = "quick" if opts.quick else "full", {}
    if "cut" in opts.parts:
        results["cut"] = cut_maps(MAPS[size])
        print("\na map cut into tiles of 100 m, one process\n")
        headers = ["pixels of a side", "tiles", "seconds", "s a thousand", "peak MiB"]
        print_table([list(row.values()) for row in results["cut"]], headers)
    if "search" in opts.parts:
        results["search"] = search_maps(SEARCHES[size], opts.rounds)
        print("\nphotos searched for among tiles of 512 numbers\n")
        headers = ["tiles", "way", "seconds", "gain", "gain on blocks", "MiB", "first tile"]
        headers += ["first five", "s to build", "peak MiB of all"]
        print_table([list(row.values()) for row in results["search"]], headers)
    if "estimate" in opts.parts:
        rows = results["estimate"] = measure_estimates(FLIGHTS[:: 7 if opts.quick else 1])
        print("\nmedian error in metres where the first tile is right\n")
        usual = f"25/{SHARPNESS:g}"
        keys = ("reach", "overlap", "noise", "sides", "right", "centre")
        print_table([[*(row[key] for key in keys), row["settings"][usual]] for row in rows],
                    [*keys[:5], "first centre", "estimate"])  # fmt: skip
        print("\nthe estimate's share of that error, by number of tiles and sharpness\n")
        print_table([[name, *both] for name, both in summarise(rows).items()],
                    ["tiles/sharpness", "mean", "worst"])  # fmt: skip
    write_json(opts.json, results)
    return results


if __name__ == "__main__":
    main()
