"""SUES-200 and DenseUAV: drone images from several flight heights, and satellite images."""

from pathlib import Path

from imaging.files import is_image_name, list_classes, list_images
from sources.command import converter, option
from sources.plan import Entry, Plan
from sources.reading import DEGREES, check_numbers, need_folder, read_lines

SUES200_HEIGHTS = (150, 200, 250, 300)  # metres
# The 120 places to train on: script/indexs.yaml of SUES-200-Benchmark.
SUES200_TRAIN = (
    "1-7 9-11 13 15-16 20-21 24-34 36-37 39 43-45 51 55-58 60 64 66-67 69-70 73-74 76-77 80-82 "
    "84-91 94 96-97 100-106 113 116 118-120 123 125-127 129 132 134 137 139 141-142 145-149 "
    "151-152 155-160 163 166-169 171 174 179-180 182-187 191-193 196-200"
)
DENSEUAV_HEIGHTS = (80, 90, 100)  # metres
# {folder: (classes, images of a class)}
DENSEUAV = {
    "train/drone": (2256, 3),
    "train/satellite": (2256, 6),
    "test/query_drone": (777, 3),
    "test/query_satellite": (777, 6),
    "test/gallery_drone": (3033, 3),
    "test/gallery_satellite": (3033, 6),
}


# ---------------------------------------------------------------- SUES-200
def plan_sues200(source, *, heights=SUES200_HEIGHTS, mixed=False):
    """SUES-200 (Zhu et al., TCSVT 2023): a data folder <height>/ for each flight height in metres.

    Reads the release (satellite-view/<ID>/ and drone*/<ID>/<height>/, or <height>/<ID>/), divided
    by the published list of 120 training places, or what its script made of it
    (Training/<height>/..., Testing/<height>/..., also in lower case), divided as found there. The
    gallery holds all 200 places. `mixed` puts all heights into one data folder, mixed/, whose drone
    images have the height before their names.
    """
    source = need_folder(source, "the folder of SUES-200, with satellite-view/ and drone images")
    plan = Plan("SUES-200")
    for height in heights:
        top = "mixed" if mixed else str(height)
        drone, satellite, train_names = _sues200_height(source, height)
        if mixed and height != heights[0]:
            satellite = {}
        for view, classes in (("drone", drone), ("satellite", satellite)):
            prefix = f"{height}_" if mixed and view == "drone" else ""
            for name, paths in classes.items():
                first = "train/" if name in train_names else "test/query_"
                for folder in (first, "test/gallery_"):
                    target = f"{top}/{folder}{view}/{name}/{prefix}"
                    plan.entries += [Entry(path, f"{target}{path.name}") for path in paths]
        images = 50 * (len(heights) if mixed else 1)
        for folder, count in (("train/", 120), ("test/query_", 80), ("test/gallery_", 200)):
            plan.official[f"{top}/{folder}drone"] = (count, count * images)
            plan.official[f"{top}/{folder}satellite"] = (count, count)
    return plan


def _sues200_height(source, height):
    """({ID: drone images}, {ID: satellite images}, the training IDs) of one height."""
    for training, testing in (("Training", "Testing"), ("train", "test")):
        gallery = source / testing / str(height)
        if (gallery / "gallery_drone").is_dir():
            train = need_folder(source / training / str(height) / "drone", "training images")
            satellite = need_folder(gallery / "gallery_satellite", "satellite images")
            train_names = {path.name for path in train.iterdir()}
            return list_classes(gallery / "gallery_drone"), list_classes(satellite), train_names
    satellites = sorted(path for path in source.glob("satellite*") if path.is_dir())
    if not satellites:
        raise FileNotFoundError(f"{source} holds neither satellite-view/ nor Testing/{height}/")
    drone = {}
    for folder in (source, *sorted(filter(Path.is_dir, source.glob("drone*")))):
        if (folder / str(height)).is_dir():
            drone = list_classes(folder / str(height))
        elif folder != source:
            places = [path for path in sorted(folder.iterdir()) if (path / str(height)).is_dir()]
            drone |= {path.name: list_images(path / str(height)) for path in places}
    if not drone:
        raise FileNotFoundError(
            f"{source} has no drone images of {height} m: expected drone*/<ID>/{height}/ or "
            f"{height}/<ID>/; name the heights there are with --height"
        )
    satellite = {n: p for n, p in list_classes(satellites[0]).items() if n in drone}
    return drone, satellite, numbered(SUES200_TRAIN)


def numbered(ranges):
    """The four-digit IDs that a text such as "1-7 9" stands for."""
    bounds = [part.partition("-") for part in ranges.split()]
    return {f"{n:04d}" for a, _, b in bounds for n in range(int(a), int(b or a) + 1)}


# ---------------------------------------------------------------- DenseUAV
def plan_denseuav(source, *, heights=DENSEUAV_HEIGHTS, old=True):
    """DenseUAV (Dai et al., TIP 2024): its layout is this one, so folders are taken as they are.

    Images are H<height>.JPG, H<height>.tif and, of an older satellite, H<height>_old.tif; those of
    other `heights` (metres) are left out, and the older ones without `old`. Where the release has
    no test/gallery_*, it is train and query together, as documented. coordinates.csv comes from
    Dense_GPS_*.txt, lines `path E<longitude> N<latitude> <height>`; its IDs are class folders.
    """
    source = need_folder(source, "the folder of DenseUAV, with train/, test/, Dense_GPS_ALL.txt")
    plan = Plan("DenseUAV")
    stems = {f"H{height}{suffix}" for height in heights for suffix in ("", "_old")[: 1 + old]}

    def is_chosen(path):
        return path.stem in stems and is_image_name(path)

    found = {f: list_classes(source / f, is_chosen) for f in DENSEUAV if (source / f).is_dir()}
    for view in ("drone", "satellite"):
        parts = [found.get(f"train/{view}"), found.get(f"test/query_{view}")]
        if f"test/gallery_{view}" not in found and all(parts):
            found[f"test/gallery_{view}"] = {**parts[0], **parts[1]}
    for folder, classes in found.items():
        plan.add_classes(folder, classes)
    for folder, (classes, images) in DENSEUAV.items():
        if folder in found or folder != "test/query_satellite":  # only satellite -> drone needs it
            images = images // 3 * len(heights) // (2 if images == 6 and not old else 1)
            plan.official[folder] = (classes, classes * images)
    coordinates = _denseuav_coordinates(source)
    names = sorted({name for classes in found.values() for name in classes})
    if coordinates:
        rows = [[name, *coordinates[name]] for name in names if name in coordinates]
        plan.add_coordinates(rows)
        if len(rows) < len(names):
            plan.notes.append(f"Dense_GPS has no line for {len(names) - len(rows)} classes")
    else:
        plan.notes.append("no Dense_GPS_*.txt, so no coordinates.csv")
    return plan


def _denseuav_coordinates(source):
    """{class folder: (latitude, longitude)} as texts."""
    files = [source / "Dense_GPS_ALL.txt"]
    if not files[0].is_file():
        files = [source / f"Dense_GPS_{split}.txt" for split in ("train", "test")]
    coordinates = {}
    for path in filter(Path.is_file, files):
        for number, line in read_lines(path, "coordinates").items():
            parts = line.replace("\\", "/").split()
            marked = {part[0]: part[1:] for part in parts[1:]}  # E and N, in either order
            if len(parts) < 3 or "/" not in parts[0] or not {"E", "N"} <= marked.keys():
                raise ValueError(
                    f"{path} line {number} is {line!r}: expected `path E<lon> N<lat> <height>`"
                )
            place = marked["N"], marked["E"]
            check_numbers(place, f"{path} line {number}", DEGREES)
            coordinates[parts[0].split("/")[-2]] = place  # the last height's, as published
    return coordinates


def _height_option(heights):
    return option("--height", dest="heights", type=int, nargs="+", choices=heights,
                  default=list(heights), help="flight heights, metres")  # fmt: skip


COMMANDS = (
    converter("sues200", plan_sues200,
              "SUES-200: a data folder OUT/<height>/ for each flight height",
              "folder with satellite-view/ and drone*/, or Training/ and Testing/",
              _height_option(SUES200_HEIGHTS),
              option("--mixed", action="store_true",
                     help="all heights in one data folder, OUT/mixed/")),
    converter("denseuav", plan_denseuav, "DenseUAV: drone and satellite images with coordinates",
              "folder with train/, test/ and Dense_GPS_ALL.txt",
              _height_option(DENSEUAV_HEIGHTS),
              option("--no_old", dest="old", action="store_false",
                     help="leave out the older satellite images, *_old.tif")),
)  # fmt: skip
