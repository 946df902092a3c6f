"""Render a toy campus in the University-1652 layout: buildings seen by satellite, drone and street.

`render_campus("data/campus", seed=0)` writes the picture folders, those of the descriptions and
`coordinates.csv`; nothing is downloaded. A single building is drawn with

    site = make_site(seed=0, building=7)
    picture = render_view(site, "drone", frame=28, size=256)  # (256, 256, 3) uint8

How a picture is made: a site (site.py) is a list of convex solids on a painted ground; on one day
(scene.py) it has a season, cars and a sun. `cast` (solids.py) finds the first solid on each pixel's
ray; in light.py, `shade` colours the hits under the sun with cast shadows, and `develop` turns
radiance into what one particular sensor would have recorded. Lengths are metres, x to the east,
y to the north, z up from the ground; the building stands at the origin.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from imaging.files import TEST_FOLDERS, TEXT, TRAIN_FOLDERS
from runtime.files import write_bytes, write_text
from sources.campus.camera import SPIRAL_FRAMES, spiral_frames
from sources.campus.descriptions import describe
from sources.campus.scene import Scene, stage, stand_cars
from sources.campus.site import Site, Stream, make_site, random_stream
from sources.campus.views import jpeg, photograph, render_view

VERSION = 1  # of the pictures: raised when the same seed renders others
FIRST_TEST_ID = 5001  # train IDs start at 1, so neither split's size moves the other's buildings
LAST_ID = 9999
CAMPUS_ORIGIN = (48.1402, 11.5600)  # latitude, longitude in degrees of the grid's corner
CAMPUS_PITCH = 0.0022  # degrees between neighbours on the campus grid
EMPTY_GOOGLE_SHARE = 0.05
FOLDERS = (*TRAIN_FOLDERS, *TEST_FOLDERS)


class Job(NamedTuple):
    """One building to render; it goes to worker processes, so it is plain data."""

    out_dir: str
    seed: int
    building: int
    split: str  # "train", "query" (in the gallery too) or "gallery" (a distractor)
    frames: tuple[int, ...]
    size: int


def has_google_photo(seed: int, building: int) -> bool:
    """Whether the web search found a photograph of this training building at all."""
    return bool(random_stream(seed, building, Stream.PRESENCE).random() >= EMPTY_GOOGLE_SHARE)


def _google_photo(job: Job, scene: Scene) -> np.ndarray:
    """A web photograph, which now and then shows some other building."""
    if random_stream(job.seed, job.building, Stream.PRESENCE, 1).random() < 0.08:
        site = make_site(job.seed, LAST_ID + job.building)
        return render_view(site, "google", size=job.size)
    return photograph(scene, "google", 0, job.size)


def _folders(job: Job, view: str) -> list[str]:
    if job.split == "train":
        return [f"train/{view}"]
    splits = ("query", "gallery") if job.split == "query" else ("gallery",)
    return [f"test/{split}_{view}" for split in splits]


def _save(job: Job, view: str, name: str, content: bytes) -> None:
    """Write a file to every folder that holds it."""
    for folder in _folders(job, view):
        write_bytes(Path(job.out_dir, folder, f"{job.building:04d}", name), content)


def _save_picture(job: Job, view: str, name: str, picture: np.ndarray) -> None:
    _save(job, view, name, jpeg(Image.fromarray(picture)))


def _save_texts(job: Job, site: Site) -> int:
    """Write the descriptions of a building, a line each; returns how many."""
    texts = [description.text for description in describe(site)]
    _save(job, TEXT, f"{job.building:04d}.txt", "".join(f"{text}\n" for text in texts).encode())
    return len(texts)


def describe_building(job: Job) -> dict[str, int]:
    """Save the descriptions of one building; returns their number per folder."""
    count = _save_texts(job, make_site(job.seed, job.building))
    return dict.fromkeys(_folders(job, TEXT), count)


def render_building(job: Job) -> dict[str, int]:
    """Render, describe and save one building; returns the number of samples per folder."""
    # Freeing one big block teaches glibc to keep later ones instead of returning their pages to
    # the system after every step, a sixth of the time. Elsewhere it does nothing.
    np.empty(30 << 20, np.uint8)
    site = make_site(job.seed, job.building)
    label = f"{job.building:04d}"
    from_space = stage(site, Stream.SATELLITE)
    from_air = stage(site, Stream.DRONE)
    from_street = stand_cars(from_air)
    from_above = photograph(from_space, "satellite", 0, job.size)
    _save_picture(job, "satellite", f"{label}.jpg", from_above)
    for frame in job.frames:
        picture = photograph(from_air, "drone", frame, job.size)
        _save_picture(job, "drone", f"image-{frame:02d}.jpeg", picture)
    _save_picture(job, "street", "1.jpg", photograph(from_street, "street", 0, job.size))
    made = {"satellite": 1, "drone": len(job.frames), "street": 1, TEXT: _save_texts(job, site)}
    if job.split == "train":
        Path(job.out_dir, "train/google", label).mkdir(parents=True, exist_ok=True)
        made["google"] = int(has_google_photo(job.seed, job.building))
        if made["google"]:
            _save_picture(job, "google", "1.jpg", _google_photo(job, from_street))
    return {folder: count for view, count in made.items() for folder in _folders(job, view)}


def _check(seed, num_train, num_test, num_distractors, drone_frames, image_size, num_workers):
    room = FIRST_TEST_ID - 1
    limits = {
        "seed": (seed, 0, 2**32),
        "num_train": (num_train, 0, room),
        "num_test": (num_test, 0, LAST_ID - room),
        "num_distractors": (num_distractors, 0, LAST_ID - room - max(num_test, 0)),
        "drone_frames": (drone_frames, 1, SPIRAL_FRAMES),
        "image_size": (image_size, 32, 4096),
        "num_workers": (num_workers, 0, 1024),
    }
    for name, (value, low, high) in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected an integer from {low} to {high}")


def _write_coordinates(path: Path, buildings: list[int]) -> None:
    """building,latitude,longitude of every building, on one grid of a hundred columns."""
    lines = ["building,latitude,longitude\n"]
    for building in buildings:
        row, column = divmod(building, 100)
        latitude = CAMPUS_ORIGIN[0] + row * CAMPUS_PITCH
        longitude = CAMPUS_ORIGIN[1] + column * CAMPUS_PITCH * 1.5
        lines.append(f"{building:04d},{latitude:.6f},{longitude:.6f}\n")
    write_text(path, "".join(lines))


def _jobs(out_dir, seed, num_train, num_test, num_distractors, frames=(), size=0) -> list[Job]:
    splits = [("train", 1, num_train), ("query", FIRST_TEST_ID, num_test),
              ("gallery", FIRST_TEST_ID + num_test, num_distractors)]  # fmt: skip
    return [Job(str(out_dir), seed, building, split, frames, size)
            for split, first, count in splits
            for building in range(first, first + count)]  # fmt: skip


def _finished(make: Callable, jobs: list[Job], num_workers: int) -> Iterator[dict[str, int]]:
    if num_workers == 0:
        yield from map(make, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(make, jobs, chunksize=2)


def _count(made: Iterator[dict[str, int]], folders, progress) -> dict[str, int]:
    """The number of samples per folder; `progress` hears of each building."""
    counts = dict.fromkeys(folders, 0)
    for number, of_one in enumerate(made, 1):
        for folder, count in of_one.items():
            counts[folder] += count
        if progress:
            progress(number)
    return counts


def describe_campus(
    out_dir: str | Path, *, seed, num_train, num_test, num_distractors, num_workers=0, progress=None
) -> dict[str, int]:
    """Write the descriptions alone, for a campus that was rendered before there were any.

    The arguments are those of `render_campus`. Returns the number of descriptions per folder.
    """
    jobs = _jobs(out_dir, seed, num_train, num_test, num_distractors)
    folders = [folder for folder in FOLDERS if folder.endswith(TEXT)]
    return _count(_finished(describe_building, jobs, num_workers), folders, progress)


def render_campus(
    out_dir: str | Path,
    *,
    seed: int = 0,
    num_train: int = 340,
    num_test: int = 34,
    num_distractors: int = 8,
    drone_frames: int = 7,
    image_size: int = 224,
    num_workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Render the campus into `out_dir`, a fresh folder, in the layout of University-1652.

    The gallery holds the `num_test` query buildings and `num_distractors` more. Each building gets
    one satellite, one street and `drone_frames` of the 54 drone pictures, `image_size` pixels both
    ways; training buildings also get a web photograph or an empty google folder. Each has a file
    of three descriptions too, one a line. The bytes depend on the seed, the drone frames and the
    image size alone, not on `num_workers` (0: this process). `progress` is called with the number
    of buildings finished so far. Returns the number of pictures, or descriptions, per folder, such
    as {"train/satellite": 240}. Raises ValueError on a bad value.
    """
    _check(seed, num_train, num_test, num_distractors, drone_frames, image_size, num_workers)
    frames = tuple(spiral_frames(drone_frames))
    jobs = _jobs(out_dir, seed, num_train, num_test, num_distractors, frames, image_size)
    _write_coordinates(Path(out_dir, "coordinates.csv"), [job.building for job in jobs])
    for folder in FOLDERS:
        Path(out_dir, folder).mkdir(parents=True, exist_ok=True)
    return _count(_finished(render_building, jobs, num_workers), FOLDERS, progress)
