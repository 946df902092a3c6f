"""What off-centre training tiles and positives by overlap are worth, when photos are to be located.

python benchmarks/locate_training.py

An area of the toy is rendered: its map, and photos at random places, which all face north, so that
a short training is enough. `prepare.py pairs PHOTOS --map MAP` makes training pairs of one part of
it, with tiles centred on their photos or off them; each kind trains a network by InfoNCE and one by
the overlap loss. The photos of the other part are located on the whole map, and searched among the
tiles of that part, shifted more and more, by `test.py`.
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

from recipes import quietly, spread  # noqa: E402
from runtime.cli import Parser, example_in, positive_int, script  # noqa: E402

METRES = 120  # side of a tile: about what a photo shows
SHIFTS = (0, 1, 2, 3)  # eighths of a photo
TILES = {"centred": 0, "off-centre": 0.25}
LOSSES = ("infonce", "overlap")


# ---------------------------------------------------------------- data
def plan_photos(frame, seed, count):
    """The shots of photos at random places of an area."""
    from sources.campus.survey import ALTITUDE, TILT, Shot

    rng = np.random.default_rng(seed)
    reach = frame.tiles * frame.tile_metres / 2 - METRES  # no photo shows what is beyond the map
    places = rng.uniform(-reach, reach, (count, 2))
    moves = rng.normal(0, (3, 0.07, 1.5, 1.5), (count, 4))  # gusts
    return [
        Shot(np.array([*place, ALTITUDE + lift]), heading, TILT + tilt, roll)
        for place, (lift, heading, tilt, roll) in zip(places, moves, strict=True)
    ]


def render_area(opts, seed=1):
    """The map of an area in area/map, photos in area/photos."""
    from sources.campus import survey
    from sources.campus.area import make_area
    from sources.campus.scene import stage
    from sources.campus.site import Stream

    survey.render_survey("area", seed=seed, map_plots=opts.plots, flight_photos=0)
    area, frame = make_area(seed, opts.plots), survey.lay_out(opts.plots)
    scene = stage(area, Stream.DRONE, 2 * area.reach)
    for number, shot in enumerate(plan_photos(frame, seed, opts.photos)):
        photo, place = survey.take_photo(scene, shot, number), frame.degrees(*shot.eye[:2])
        survey.write_photo(Path(f"area/photos/{number:04d}.jpg"), photo, place, number)


def cut_area(opts):
    """The map folder, and a data folder for each of TILES."""
    import prepare

    pixels = ["--metres", METRES, "--pixels", 2 * opts.size]
    jobs = [["tiles", "area/map", "--out", "map", *pixels]]
    jobs += [["pairs", "area/photos", "--map", "area/map", "--test_share", 0.25, "--out", name,
              "--off_centre", share, *pixels] for name, share in TILES.items()]  # fmt: skip
    for job in jobs:
        prepare.main([str(word) for word in job])


# ---------------------------------------------------------------- one run
def run_options(tiles, loss, seed, opts):
    """The command line of train.py."""
    options = {
        "name": "run", "data_dir": tiles, "loss_weights": f"instance=0,{loss}=1", "seed": seed,
        "backbone": "resnet18", "h": opts.size, "w": opts.size, "pad": opts.size // 16,
        "droprate": 0, "batchsize": 32, "epochs": opts.epochs, "optimizer": "adamw", "lr": 0.001,
        "backbone_lr": 1, "schedule": "cosine", "warm_epoch": 1, "cache": "ram",
        "device": opts.device,
    }  # fmt: skip
    switches = ["overwrite", "train_all", "share", "no_pretrained", "joint_flips", "no_turn"]
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*argv, *(f"--{name}" for name in switches)]


def run_network(tiles, loss, seed, opts):
    """Train, locate and test: the metrics of `measure_run`."""
    import train

    with quietly():
        train.main(run_options(tiles, loss, seed, opts))
        return measure_run(tiles, opts)


def measure_run(tiles, opts):
    """Locate and test by the run: metrics by name, recalls and shares in percent, metres."""
    import locate
    import test

    shifts = "shift=" + ",".join(str(eighths * opts.size // 8) for eighths in SHIFTS)
    run = ["--name", "run", "--device", opts.device]
    found = locate.main([f"{tiles}/test/query_drone", "--map", "map", *run])["photos"]
    tested = test.main(["--test_dir", tiles, "--perturb", shifts, "--output", "test.npz", *run])
    errors = [row["error_metres"] for row in found]
    return {
        "right tile": 100 * float(np.mean(first_is_nearest(found))),
        "median error": median(errors),
        "within 25 m": 100 * float(np.mean(np.array(errors) <= 25)),
        **{f"shift {by}/8": recall for by, recall in zip(SHIFTS, recalls(tested), strict=True)},
    }


def first_is_nearest(rows):
    """Whether the first tile is the one whose centre is nearest to the photo, of each photo."""
    from evaluation.map_folder import read_map
    from evaluation.places import haversine

    table, right = read_map("map"), []
    for row in rows:
        apart = haversine(row["true_latitude"], row["true_longitude"], *table.places.T)
        right.append(row["tile"] == str(table.paths[apart.argmin()]))
    return right


def recalls(tested):
    """Recall@1 of each variant of `test.py --perturb`, in order."""
    return [metrics["recall@1"] for metrics in tested.values() if "recall@1" in metrics]


# ---------------------------------------------------------------- all
def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    add = parser.add_argument
    add("--seeds", type=positive_int, default=3, help="runs of a network")
    add("--epochs", type=positive_int, default=24, help="each shows every tile once")
    add("--photos", type=positive_int, default=500, help="of the area")
    add("--plots", type=positive_int, default=8, help="buildings along each of its sides")
    add("--size", type=positive_int, default=64, help="of the images, pixels")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    add("--json", metavar="FILE", help="write all metrics to this file")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Render, train and locate, print the table; returns what --json writes."""
    opts = parse_args(argv)
    target = opts.json and Path(opts.json).resolve()
    results = {f"{tiles}, {loss}": [] for tiles in TILES for loss in LOSSES}
    with measure.working_folder():
        with quietly():
            render_area(opts)
            cut_area(opts)
        for seed in range(opts.seeds):
            for name, runs in results.items():
                runs.append(run_network(*name.split(", "), seed, opts))
                print(f"seed {seed}, {name}: {runs[-1]}", file=sys.stderr, flush=True)
    columns = list(next(iter(results.values()))[0])
    rows = [[name, *(spread([run[column] for run in runs]) for column in columns)]
            for name, runs in results.items()]  # fmt: skip
    print(f"{opts.epochs} epochs, {opts.seeds} seed(s), resnet18 from random weights, {opts.size} "
          "pixels; percent, metres, mean ± standard deviation\n")  # fmt: skip
    measure.print_table(rows, ["training", *columns])
    outcome = {"options": vars(opts), "results": results}
    measure.write_json(target, outcome)
    return outcome


if __name__ == "__main__":
    main()
