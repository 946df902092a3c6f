"""Tiny trees in the formats in which public data sets are published, for the tests of converters.

Folder names, split files, line formats and .mat keys are those of the releases; images are small
rectangles of noise. Each maker fills an empty folder and returns it.
"""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

VIGOR_CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")


def picture(path, height=40, width=40):
    """Write an image of noise that depends on the path's end alone; returns the path."""
    seed = sum(b * 31**i for i, b in enumerate("/".join(path.parts[-3:]).encode()))
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height)).save(path)
    return path


def text(path, lines):
    """Write lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def cvusa(root):
    """bingmap/19, streetview/panos, splits/*-19zl.csv without a header, split_locations/all.csv."""
    for split, numbers in (("train", (1, 3, 4, 7)), ("val", (2, 6, 9))):
        lines = []
        for number in numbers:
            name = f"{number:07d}"
            picture(root / f"bingmap/19/{name}.jpg")
            picture(root / f"streetview/panos/{name}.jpg", 24, 64)
            lines.append(f"bingmap/19/{name}.jpg,streetview/panos/{name}.jpg,"
                         f"streetview/annotations/{name}.png")  # fmt: skip
        text(root / f"splits/{split}-19zl.csv", lines)
    rows = [f"{30 + n}.5,{-80 - n}.25,{30 + n}.6,{-80 - n}.3,0" for n in range(1, 11)]
    text(root / "split_locations/all.csv", rows)
    return root


CVACT_IDS = [f"{letter}-_Ab{number:017d}" for number, letter in enumerate("zyxwvutsr")]


def cvact(root):
    """ACT_data.mat with 1-based indices as columns, ANU_data_small and ANU_data_test.

    IDs 0-4 train, 5-7 validate; image 4 is listed but missing, as some are in the release.
    """
    for number, name in enumerate(CVACT_IDS[:8]):
        if number != 4:
            small = root / "ANU_data_small"
            picture(small / f"satview_polish/{name}_satView_polish.jpg")
            picture(small / f"streetview/{name}_grdView.jpg", 32, 64)
    for name in CVACT_IDS[7:]:
        picture(root / f"ANU_data_test/satview_polish/{name}_satView_polish.jpg")
        picture(root / f"ANU_data_test/streetview/{name}_grdView.jpg", 32, 64)
    utm = np.array([[690000.5 + n, 6.09e6 + n] for n in range(9)])
    train, val = np.array([[1], [2], [3], [4], [5]]), np.array([[6], [7], [8]])
    savemat(
        root / "ACT_data.mat",
        {
            "panoIds": np.array(CVACT_IDS),
            "utm": utm,
            "trainSet": {"trainNum": 5, "trainInd": train},
            "valSet": {"valNum": 3, "valInd": val},
        },
    )
    return root


def vigor(root, suffix=""):
    """Cities with panorama/ and satellite/; four satellite images and four panoramas each.

    Panoramas 0 and 1 have satellite 0 as positive, 2 has 1, 3 has 2; satellite 3 has none. In the
    same-area split 0 and 2 train, 1 and 3 test.
    """
    for index, city in enumerate(VIGOR_CITIES):
        tiles = [f"satellite_{41 + index}.{n}_-87.{n}.png" for n in range(4)]
        panoramas = [f"p{n}Id_-x,{41 + index}.00{n},-87.00{n},.jpg" for n in range(4)]
        for name in tiles:
            picture(root / city / "satellite" / name)
        lines = []
        for number, (name, positive) in enumerate(zip(panoramas, (0, 0, 1, 2), strict=True)):
            picture(root / city / "panorama" / name, 24, 64)
            four = [tiles[(positive + k) % 4] for k in range(4)]
            parts = (f"{tile} {number + k}.5 -{k}.25" for k, tile in enumerate(four))
            lines.append(f"{name} " + " ".join(parts))
        labels = root / f"splits{suffix}" / city
        text(labels / "satellite_list.txt", tiles)
        text(labels / f"pano_label_balanced{suffix}.txt", lines)
        text(labels / f"same_area_balanced_train{suffix}.txt", lines[::2])
        text(labels / f"same_area_balanced_test{suffix}.txt", lines[1::2])
    return root


SUES200_PLACES = ("0001", "0002", "0008", "0012")  # the published list trains on the first two


def sues200(root, heights=(150, 200, 250, 300)):
    """The release: satellite-view/<ID>/0.png, drone_view_512/<ID>/<height>/<n>.jpg."""
    for place in SUES200_PLACES:
        picture(root / f"satellite-view/{place}/0.png")
        for height in heights:
            for number in range(2):
                picture(root / f"drone_view_512/{place}/{height}/{number}.jpg")
    return root


def sues200_divided(root, height=150):
    """What split_datasets.py makes of it; here 0001 and 0012 are the ones to train on."""
    for place in SUES200_PLACES:
        folder = "Training/{}/" if place in ("0001", "0012") else "Testing/{}/query_"
        for top in (folder, "Testing/{}/gallery_"):
            picture(root / f"{top.format(height)}satellite/{place}/0.png")
            picture(root / f"{top.format(height)}drone/{place}/0.jpg")
    return root


def denseuav(root, gallery=True):
    """train/, test/ with H80|H90|H100 in .JPG, .tif and _old.tif, and Dense_GPS_*.txt."""
    lines = {"train": [], "test": []}
    for split, names in (("train", ("000000", "000001", "000002")), ("test", ("002256", "002257"))):
        for number, name in enumerate(names):
            folders = ["train/{}"] if split == "train" else ["test/query_{}"]
            for folder in folders + ["test/gallery_{}"] * gallery:
                for height in (80, 90, 100):
                    picture(root / folder.format("drone") / name / f"H{height}.JPG")
                    for old in ("", "_old"):
                        picture(root / folder.format("satellite") / name / f"H{height}{old}.tif")
            for height in (80, 90, 100):
                lines[split].append(f"{split}/drone/{name}/H{height}.JPG "
                                    f"E120.{number}1 N30.{number}2 {height}.5")  # fmt: skip
    for split, all_lines in {**lines, "ALL": lines["train"] + lines["test"]}.items():
        text(root / f"Dense_GPS_{split}.txt", all_lines)
    return root


def university(root):
    """University-1652: three buildings to train on, one in google without an image; two to test."""
    for name in ("0839", "0842", "1057"):
        picture(root / f"train/satellite/{name}/{name}.jpg")
        picture(root / f"train/street/{name}/1.jpg")
        for frame in range(1, 55):
            picture(root / f"train/drone/{name}/image-{frame:02d}.jpeg", 16, 16)
        (root / f"train/google/{name}").mkdir(parents=True)
        if name != "1057":
            picture(root / f"train/google/{name}/0.jpg")
    for name in ("0000", "0001"):
        for role in ("query", "gallery"):
            picture(root / f"test/{role}_satellite/{name}/{name}.jpg")
            for frame in (1, 2):
                picture(root / f"test/{role}_drone/{name}/image-{frame:02d}.jpeg", 16, 16)
    picture(root / "test/4K_drone/0000/0.jpg")
    return root


def university160k(root):
    """The additions to University-1652: masked queries, flat, and a gallery with sub-folders."""
    university(root)
    queries = ("zQ1x", "aB2y", "mC3z")
    for name in queries:
        picture(root / f"test/query_drone_160k/{name}.jpeg")
    text(root / "test/query_drone_name.txt", [f"{name}.jpeg" for name in queries])
    picture(root / "test/gallery_satellite_160k/s1Ab.jpg")
    picture(root / "test/gallery_satellite_160k/part/s2Cd.webp")
    picture(root / "test/gallery_satellite_160k/part/deep/s3Ef.jpg")
    return root


GEOTEXT_TRAIN = ("0839/image-01.jpeg", "0839/image-02.jpeg", "0839/0839.jpg", "0839/1.jpg",
                 "0842/0842.jpg", "0842/image-54.jpeg")  # fmt: skip
# Not in the order of names: some image comes first, and it is the one with the wrong number.
GEOTEXT_TEST = (
    "query(701)/0003/3.jpg", "query(701)/0003/image-01.jpeg", "query(701)/0003/0003.jpg",
    "gallery_no_train(250)/0001/image-07.jpeg", "gallery_no_train(250)/0001/0001.jpg",
)  # fmt: skip


def geotext(root):
    """GeoText-1652: two buildings to train on, two to test, three descriptions an image.

    train.json has an entry for each description, the test files have one for each image. In the
    small test there is only the first building.
    """
    train, test = [], []
    for name in GEOTEXT_TRAIN:
        path = picture(root / "images/train" / name).relative_to(root / "images").as_posix()
        for number in range(3):
            caption = f"Train {name}:\n a caf\u00e9, number {number}."
            boxes = {"sentences": ["a café", None], "bboxes": [[0.5, 0.5, 1, 1], None]}
            train.append({"image_id": name, "image": path, "caption": caption, **boxes})
    for name in GEOTEXT_TEST:
        path = picture(root / "images/test" / name).relative_to(root / "images").as_posix()
        captions = [f"Test {name}, number {number}." for number in range(3)]
        image_id = "/".join(name.split("/")[-2:])
        test.append({"image_id": image_id, "image": path, "caption": captions})
    files = {"train": train, "test_951_version": test, "test_24G_version": test[:3]}
    for name, entries in files.items():
        (root / f"{name}.json").write_text(json.dumps(entries))
    return root


def pair_folders(root):
    """The user's photos and tiles with equal stems, a photo without a tile, and a stray text."""
    for number in range(6):
        picture(root / f"photos/place {number}.jpg")
        picture(root / f"tiles/place {number}.png")
    picture(root / "photos/alone.jpg")
    (root / "tiles/readme.txt").write_text("no image")
    return root


def pair_table(root):
    """A CSV of five buildings without IDs: two photos of the first share its satellite tile."""
    lines = ["Drone, Satellite, lat, lon"]
    for number, building in enumerate((0, 0, 1, 2, 3, 4)):
        picture(root / f"photos/{number}/view.jpg")
        picture(root / f"tiles/{building}.png")
        place = f"48.{number}, 11.{number}" if number != 3 else ","
        lines.append(f"photos/{number}/view.jpg, tiles/{building}.png, {place}")
    text(root / "pairs.csv", lines)
    return root
