"""A run on a small computer: PyTorch in float32 and bfloat16, exported files in float32 and 8 bits.

python benchmarks/deploy.py --name toy --data_dir data/toy

Each way is locate.py in a process of its own: the drone photos of the data folder's test, on its
satellite images as a map. `start` is such a process with one photo and two tiles, images/s is of
what the whole one does beyond that, Recall@1 of its first tiles.
"""

import csv
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import measure  # noqa: E402

import export  # noqa: E402
import utils  # noqa: E402
from imaging.files import scan_classes, split_folder  # noqa: E402
from runtime.cli import Parser, example_in, script  # noqa: E402

PLAIN = "PyTorch float32"
PYTORCH = {PLAIN: [], "PyTorch bfloat16": ["--bf16"]}
ONNX = {"ONNX float32": "fp32", "ONNX int8": "int8"}
VIEWS = ("drone", "satellite")


def write_files(opts, folder):
    """Export both views of the run: <folder>/fp32-drone.onnx, ..."""
    for precision in ONNX.values():
        more = ["--int8", "--data_dir", opts.data_dir] if precision == "int8" else []
        for view in VIEWS:
            path = str(folder / f"{precision}-{view}.onnx")
            export.main(["--name", opts.name, "--view", view, "--output", path, *more])


def network_options(opts, folder):
    """{way: options of locate.py that name its network}."""
    run = {way: ["--name", opts.name, *more] for way, more in PYTORCH.items()}
    return run | {
        way: ["--name", ",".join(str(folder / f"{precision}-{view}.onnx") for view in VIEWS)]
        for way, precision in ONNX.items()
    }


def link_some(folder, target, count):
    """A folder with links to the first images of another; returns how many images that one has."""
    paths = [path for images in scan_classes(folder).values() for path in images]
    target.mkdir()
    for path in paths[:count]:
        (target / path.name).symlink_to(path.resolve())
    return len(paths)


def megabytes(folder, way, opts):
    """The size of the weights of a way."""
    paths = (
        folder.glob(f"{ONNX[way]}-*.onnx")
        if way in ONNX
        else [utils.find_checkpoint(utils.run_folder(opts.name))]
    )
    return sum(path.stat().st_size for path in paths) / 1e6


def recall_of(table):
    """Recall@1, in percent, of a locations.csv whose photos and tiles lie in folders by ID."""
    with open(table, newline="", encoding="utf-8") as file:
        pairs = [[Path(row[key]).parent.name for key in ("photo", "tile")]
                 for row in csv.DictReader(file)]  # fmt: skip
    return 100 * sum(photo == tile for photo, tile in pairs) / len(pairs)


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=3)
    parser.add_argument("--name", required=True, help="name of the run folder in model/")
    parser.add_argument("--data_dir", required=True, metavar="DIR", help="data folder with a test")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Time whole processes in turn and print a table; returns what --json writes."""
    opts = parse_args(argv)
    device = "cpu" if opts.device == "auto" else opts.device
    test_dir = split_folder(opts.data_dir, "test")
    folders = test_dir / "query_drone", test_dir / "gallery_satellite"
    peaks, recalls = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(opts, folder)
        small = folder / "photos", folder / "tiles"
        images = sum(map(link_some, folders, small, (1, 2))) - 3
        ways = {}
        for way, network in network_options(opts, folder).items():
            for part, (photos, tiles) in {"start": small, "whole": folders}.items():
                argv = [sys.executable, ROOT / "locate.py", photos, "--map", tiles, *network,
                        "--device", device, "--output", folder / "found"]  # fmt: skip
                ways[way, part] = argv

        def start(name):
            _, peaks[name], _ = measure.run_process(ways[name])
            recalls[name] = recall_of(folder / "found.csv")

        runs = {name: lambda name=name: start(name) for name in ways}
        seconds = measure.interleave(runs, opts.rounds)
        sizes = {way: megabytes(folder, way, opts) for way, _ in ways}
    rows, results = [], {}
    for way in dict.fromkeys(way for way, _ in ways):
        began, whole = seconds[way, "start"], seconds[way, "whole"]
        found = {
            "start": median(began),
            "images/s": images / max(1e-9, median(whole) - median(began)),
            "peak MiB": float(peaks[way, "whole"]),
            "Recall@1": recalls[way, "whole"],
            "MB": sizes[way],
        }
        rows.append([way, *found.values()])
        results[way] = {**found, "seconds": {"start": began, "whole": whole}}
    print(f"{images} images, {opts.rounds} rounds")
    measure.print_table(rows, ["way", *found])
    measure.write_json(opts.json, results)
    return results


if __name__ == "__main__":
    main()
