"""GeoText-1652's metrics against a case worked by hand, plain loops and the published numbering."""

import json

import numpy as np
import pytest
from conftest import fails
from ranking_tasks import write

import evaluate_gpu
from evaluation.feature_file import Features, save_features
from evaluation.geotext import official_numbers, platform_of
from evaluation.protocols import evaluate_protocol, format_protocol, own_metrics

# Four images of three buildings, a text of the first, two of the third, one of the fourth.
IMAGES = ["0001/image-01.jpeg", "0001/0001.jpg", "0002/image-01.jpeg", "0003/1.jpg"]
TEXTS = ["0001/image-01.txt:1", "0002/image-01.txt:1", "0002/image-01.txt:2", "0003/1.txt:1"]
SCORES = [[4, 1, 3, 2], [9, 8, 7, 6], [1, 2, 5, 3], [3, 7, 2, 5]]


def sides(scores, texts=TEXTS, images=IMAGES):
    """`Features` of texts and images whose scores are the given (Nt, Ni) exactly."""
    scores = np.asarray(scores, dtype=np.float32)

    def side(features, folder, names):
        labels = np.array([int(name[:4]) for name in names])
        return Features(features, labels, [f"data/test/{folder}/{name}" for name in names])

    text_features = np.eye(len(texts), dtype=np.float32)
    return side(text_features, "query_text", texts), side(scores.T.copy(), "gallery", images)


def random_sides(seed=0, levels=10**6):
    """Twelve buildings of one to six images, each image with up to three texts, two without any."""
    generator = np.random.default_rng(seed)
    images, texts = [], []
    for building in range(12):
        for number in range(generator.integers(1, 7)):
            stem = f"image-{number:02d}" if number % 2 else str(number)
            images.append(f"{building:04d}/{stem}.jpeg")
            count = generator.integers(1, 4) if building < 10 else 0
            texts += [f"{building:04d}/{stem}.txt:{line + 1}" for line in range(count)]
    scores = generator.integers(0, levels, (len(texts), len(images)))
    return sides(scores, texts, images)


def plain_recalls(scores, query_labels, gallery_labels):
    """Recall@1, 5, 10 by the loop of the published `itm_eval`."""
    first = []
    for row, label in zip(scores, query_labels, strict=True):
        found = np.flatnonzero(gallery_labels[np.argsort(row)[::-1]] == label)
        first.append(found[0] if len(found) else np.inf)
    return {f"recall@{k}": 100 * np.mean(np.array(first) < k) for k in (1, 5, 10)}


# ---------------------------------------------------------------- numbers
def test_by_hand():
    """Ranks of the first hit: texts 1, 3, 1, 2; images 2, 4, 1, 2."""
    texts, images = sides(SCORES)
    metrics = evaluate_protocol("geotext", texts, images)
    to_image, to_text = metrics["text_to_image"], metrics["image_to_text"]
    assert [to_image[f"recall@{k}"] for k in (1, 5, 10)] == [50, 100, 100]
    assert [to_text[f"recall@{k}"] for k in (1, 5, 10)] == [25, 100, 100]
    assert metrics["recall_mean"] == pytest.approx((50 + 25 + 400) / 6)
    assert to_image["recall@1_chance"] == pytest.approx(100 * (2 + 1 + 1 + 1) / 4 / 4)
    assert to_text["recall@1_chance"] == pytest.approx(100 * (1 + 1 + 2 + 1) / 4 / 4)
    drone, street = to_image["platforms"]["drone"], to_image["platforms"]["street"]
    assert drone == {"recall@1": pytest.approx(200 / 3), "recall@5": 100, "recall@10": 100,
                     "num_queries": 3}  # fmt: skip
    assert (street["recall@1"], street["num_queries"]) == (0, 1)
    by_image = {name: each["recall@1"] for name, each in to_text["platforms"].items()}
    assert by_image == {"drone": 50, "satellite": 0, "street": 0}
    assert evaluate_protocol("geotext", images, texts) == metrics  # images as the query
    assert format_protocol(metrics).splitlines() == [
        "as published for geotext:",
        "text -> image: Recall@1:50.00 Recall@5:100.00 Recall@10:100.00",
        "  3 texts of drone images: Recall@1:66.67 Recall@5:100.00 Recall@10:100.00",
        "  1 texts of street images: Recall@1:0.00 Recall@5:100.00 Recall@10:100.00",
        "image -> text: Recall@1:25.00 Recall@5:100.00 Recall@10:100.00",
        "  2 drone images: Recall@1:50.00 Recall@5:100.00 Recall@10:100.00",
        "  1 satellite images: Recall@1:0.00 Recall@5:100.00 Recall@10:100.00",
        "  1 street images: Recall@1:0.00 Recall@5:100.00 Recall@10:100.00",
        "mean of the six: 79.17",
    ]


def test_official_by_hand():
    """The first image of 0002 counts as 0001, that of 0003 as 0002, with their texts.

    So texts find their number at 1, 1, 1, 2 and images at 1, 1, 1, 2.
    """
    numbers, moved = official_numbers(IMAGES)
    assert numbers == {"0001/image-01": 0, "0001/0001": 0, "0002/image-01": 0, "0003/1": 1}
    assert moved == {"0002/image-01", "0003/1"}
    metrics = evaluate_protocol("geotext", *sides(SCORES), official=IMAGES)
    assert metrics["text_to_image"]["recall@1"] == metrics["image_to_text"]["recall@1"] == 75
    assert (metrics["num_moved_images"], metrics["num_moved_texts"]) == (2, 3)
    last = format_protocol(metrics).splitlines()[-1]
    assert "(2 images and 3 texts here); text -> image is that code's img_r" in last


@pytest.mark.parametrize("seed", range(3))
def test_official_numbers_are_those_of_the_image_before(seed):
    """The published rule in other words: an image has the number of the run that the one before
    it is in. Runs of one image, and buildings that come again, included."""
    generator = np.random.default_rng(seed)
    buildings = np.repeat(generator.integers(0, 5, 30), generator.integers(1, 4, 30))
    runs = np.cumsum(np.diff(buildings, prepend=buildings[0]) != 0)
    names = [f"{building:04d}/{place}.jpg" for place, building in enumerate(buildings)]
    numbers, moved = official_numbers(names)
    assert list(numbers.values()) == [0, *runs[:-1]]
    assert len(moved) == runs[-1] > 5


@pytest.mark.parametrize("levels", [10**6, 7], ids=["no ties", "ties"])
@pytest.mark.parametrize("official", [False, True])
def test_equals_the_published_loop(official, levels):
    texts, images = random_sides(levels=levels)
    order = [path.split("gallery/")[1] for path in images.paths]
    metrics = evaluate_protocol("geotext", texts, images, official=order if official else None)
    labels = [side.labels for side in (texts, images)]
    if official:
        runs = [0, *np.cumsum(np.diff(images.labels, prepend=0) != 0)[:-1]]
        number = {name.split(".")[0]: run for name, run in zip(order, runs, strict=True)}
        text_images = [path.split("query_text/")[1].split(".")[0] for path in texts.paths]
        labels = [np.array([number[name] for name in text_images]), np.array(runs)]
    scores = texts.features @ images.features.T
    forward = plain_recalls(scores, *labels)
    back = plain_recalls(images.features @ texts.features.T, *labels[::-1])
    assert {k: metrics["text_to_image"][k] for k in forward} == pytest.approx(forward)
    assert {k: metrics["image_to_text"][k] for k in back} == pytest.approx(back)
    six = [*forward.values(), *back.values()]
    assert len(set(six)) > 4 and metrics["recall_mean"] == pytest.approx(np.mean(six))
    if not official:
        assert metrics["image_to_text"]["num_unmatched"] == sum(labels[1] >= 10) > 1
        assert "have no match in the gallery" in format_protocol(metrics)
    tied = [way.get("num_tied", 0) for way in metrics.values() if isinstance(way, dict)]
    assert (min(tied) > 5) == (levels == 7)
    assert ("queries score a wrong item like" in format_protocol(metrics)) == (levels == 7)


@pytest.mark.parametrize(
    "path, platform",
    [
        ("test/gallery_drone/0839/0839.jpg", "drone"),  # the folder says it
        ("test/query_satellite/0839/1.jpg", "satellite"),
        ("test/query_text/0839/image-43.txt:2", "drone"),
        ("test/query_text/0839/0839.txt:1", "satellite"),
        ("test/gallery_text/0839/12.txt:3", "street"),
        ("test/gallery_text/0839/facts.txt:3", "other"),
        ("0839/image-43.jpeg", "drone"),
    ],
)
def test_platforms_by_names(path, platform):
    assert platform_of(path) == platform


def test_a_prepared_folder_tells_the_protocol(tmp_path):
    texts, images = sides(SCORES)
    (tmp_path / "test").mkdir()
    write(tmp_path / "prepare.yaml", "command: geotext\n")
    metrics, text, warnings = own_metrics(tmp_path / "test", ("text", "drone"), texts, images)
    assert metrics == evaluate_protocol("geotext", texts, images) and not warnings
    assert text == format_protocol(metrics)
    assert own_metrics(tmp_path, ("drone", "satellite"), images, images) == ({}, "", [])


# ---------------------------------------------------------------- the command
@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Feature files: all images, those of drones, the others, and ones that do not fit."""
    monkeypatch.chdir(tmp_path)
    texts, images = sides(np.array(SCORES) / 10)
    drones = [True, False, True, False]

    def chosen(which):
        paths = [path for path, take in zip(images.paths, which, strict=True) if take]
        return Features(images.features[which], images.labels[which], paths)

    save_features("all.npz", texts, images)
    save_features("drone.npz", texts, chosen(drones))
    save_features("others.npz", chosen(np.logical_not(drones)), texts)  # the other way round
    save_features("images.npz", images, images)
    save_features("texts.mat", texts, texts)
    other = texts._replace(features=texts.features[::-1])
    save_features("other_run.npz", other, chosen(np.logical_not(drones)))
    write(tmp_path / "order.txt", "\n".join(IMAGES))
    write(tmp_path / "short.txt", "\n".join(IMAGES[:3]))
    return tmp_path


def test_command_of_one_file_and_of_several(scored, capsys):
    one = evaluate_gpu.main(["all.npz", "--protocol", "geotext", "--json", "m.json"])
    out, err = capsys.readouterr()
    assert "text -> image: Recall@1:50.00" in out and "mean of the six: 79.17" in out
    assert "gallery features are not of norm 1" in err
    assert json.loads((scored / "m.json").read_text()) == one
    both = evaluate_gpu.main(["drone.npz", "others.npz", "--protocol", "geotext"])
    assert both == one
    official = ["--protocol", "geotext", "--official", "order.txt"]
    metrics = evaluate_gpu.main(["all.npz", *official])
    assert metrics["text_to_image"]["recall@1"] == 75
    part = evaluate_gpu.main(["drone.npz", *official])  # of the whole list, some images
    assert (part["num_moved_images"], part["num_moved_texts"]) == (1, 3)


@pytest.mark.parametrize(
    "argv, expected",
    [
        ("images.npz", "features: 0 % of the queries and 0 % of the gallery are texts"),
        ("texts.mat", "features: 100 % of the queries and 100 % of the gallery"),
        ("drone.npz images.npz", "images.npz: 0 % of the queries"),
        ("drone.npz other_run.npz", "other_run.npz has other texts than drone.npz"),
        ("drone.npz drone.npz", "the same images"),
        ("all.npz --official short.txt", "has no image 0003/1: give image_order.txt"),
        ("all.npz --official none.txt", "none.txt not found"),
        ("all.npz --multi", "ranks both ways round, in the plain way: leave out --multi"),
        ("all.npz --rerank gnn", "leave out --multi, --ignore_distractors, --query_expansion"),
        ("all.npz --query_list order.txt", "geotext does not use --query_list"),
    ],
)
def test_mistakes_are_one_line(scored, capsys, argv, expected):
    fails(evaluate_gpu.main, [*argv.split(), "--protocol", "geotext"], capsys, expected)


def test_official_needs_the_protocol(scored, capsys):
    fails(evaluate_gpu.main, ["all.npz", "--official", "order.txt"], capsys,
          "no effect without --protocol geotext")  # fmt: skip
    texts, images = sides(SCORES)
    with pytest.raises(ValueError, match="leave re-ranking out"):
        evaluate_protocol("geotext", texts, images, scores=lambda rows: None)
