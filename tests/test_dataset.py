"""Folders, labels, transforms, samplers and batches."""

import collections

import pytest
import torch
from PIL import Image

import dataset


def make_images(folder, names, size=(20, 16), colour=(200, 100, 50)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            Image.new("RGB", size, colour).save(path)
        else:
            path.mkdir()


@pytest.fixture
def folder(tmp_path):
    """Three buildings; 0007 has no street image, 0012 none in google (an empty folder)."""
    train = tmp_path / "train"
    make_images(train / "satellite", ["0003/0003.jpg", "0007/0007.jpg", "0012/0012.JPG"])
    make_images(
        train / "drone",
        [f"{i}/image-{n:02}.jpeg" for i in ("0003", "0007", "0012") for n in (1, 2, 3)],
    )
    make_images(train / "street", ["0003/1.png", "0012/1.png", "0012/2.png"])
    make_images(train / "google", ["0003/1.jpg", "0007/1.jpg", "0012"])
    (train / "drone" / "0003" / "notes.txt").write_text("not an image")
    (train / "drone" / "0003" / ".hidden.jpg").write_text("not an image")
    return tmp_path


def test_data_folder_or_its_split(folder):
    assert dataset.split_folder(folder, "train") == folder / "train"
    assert dataset.split_folder(folder / "train", "train") == folder / "train"
    with pytest.raises(FileNotFoundError, match="neither test/.*query_satellite.*found train"):
        dataset.split_folder(folder, "test")
    with pytest.raises(FileNotFoundError, match="prepare.py toy"):
        dataset.split_folder(folder / "absent", "train")


def test_only_images_count_and_only_views_asked_for_are_opened(folder):
    """Published defect 15: all views had to exist, and google was decoded even when unused."""
    (folder / "train" / "street").rename(folder / "train" / "unused")
    scanned = dataset.scan_training_views(folder, ["satellite", "drone"])
    counts = {view: sum(map(len, classes.values())) for view, classes in scanned.items()}
    assert counts == {"satellite": 3, "drone": 9}
    with pytest.raises(FileNotFoundError, match="street not found: there are drone, google"):
        dataset.scan_training_views(folder, ["satellite", "street"])


def test_empty_view_is_an_error(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "a.txt").touch()
    with pytest.raises(ValueError, match="holds no images"):
        dataset.scan_classes(tmp_path)


def test_labels_stay_aligned_by_name(folder):
    """Published defect 22: labels came from each folder's own class list, shifted by empty ones."""
    scanned = dataset.scan_training_views(folder, dataset.VIEWS)
    assert scanned["google"]["0012"] == []
    names = dataset.class_list(scanned)
    assert names == ["0003", "0007", "0012"]
    samples = dataset.label_samples(scanned, names)
    for view, pairs in samples.items():
        assert all(names[label] == path.parent.name for path, label in pairs), view
    assert [label for _, label in samples["street"]] == [0, 2, 2]


def test_classes_are_the_union_of_the_views(folder):
    """Published defect 24: the classes were those of the street view."""
    make_images(folder / "train" / "drone", ["0001/image-01.jpeg"])
    scanned = dataset.scan_training_views(folder, ["satellite", "drone"])
    assert dataset.class_list(scanned) == ["0001", "0003", "0007", "0012"]


def test_hold_out_takes_a_tenth_by_seed():
    names = [f"{i:04}" for i in range(30)]
    held = dataset.hold_out(names, seed=1)
    assert len(held) == 3 and set(held) < set(names)
    assert held == dataset.hold_out(names, seed=1) != dataset.hold_out(names, seed=2)
    with pytest.raises(ValueError, match="--train_all"):
        dataset.hold_out(names[:3], seed=1)


def test_retrieval_labels_are_the_folder_numbers():
    assert dataset.retrieval_labels(["0007", "0003"], ["-1"]) == {"-1": -1, "0003": 3, "0007": 7}
    assert dataset.retrieval_labels(["0001", "1"], ["--5"]) == {"--5": 0, "0001": 1, "1": 2}
    assert dataset.retrieval_labels(["1" * 30]) == {"1" * 30: 0}
    assert dataset.retrieval_labels(["b"], ["a", "0003"]) == {"0003": 0, "a": 1, "b": 2}


def test_unreadable_images_are_named(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 80).convert("RGB").save(whole)
    for name, content in (
        ("text.jpg", b"no image at all"),
        ("cut.jpg", whole.read_bytes()[:-400]),
        ("empty.png", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(OSError, match=f"{name} cannot be read as an image .*replace or remove"):
            dataset.read_image(path)
    assert dataset.read_image(whole).shape == (3, 64, 64)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(path)
        assert dataset.read_image(path).shape == (3, 4, 5)


def test_test_transform_is_resize_then_imagenet_normalisation(tmp_path):
    image = torch.full((3, 30, 50), 255, dtype=torch.uint8)
    out = dataset.test_transform(20, 24)(image)
    assert out.shape == (3, 20, 24) and out.dtype == torch.float32
    mean, std = torch.tensor(dataset.IMAGENET_MEAN), torch.tensor(dataset.IMAGENET_STD)
    torch.testing.assert_close(out[:, 7, 9], (1 - mean) / std)


def test_resize_matches_pillow_bicubic(tmp_path):
    """The published resize is Pillow's; ours runs on tensors and differs by one level at most."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, 61, 83), dtype=torch.uint8)
    image = dataset.image_ops.to_pil_image(pixels).resize((32, 24), Image.Resampling.BICUBIC)
    expected = dataset.image_ops.pil_to_tensor(image).int()
    assert (dataset.resize_bicubic(24, 32)(pixels).int() - expected).abs().max() <= 1


@pytest.mark.parametrize("view", ["satellite", "drone"])
def test_erasing_and_auto_augment_reach_every_view(view):
    """Published defect 24: `--DA` and `--erasing_p` were never applied to satellite images."""
    transform = dataset.train_transform(view, 24, 32, 2, True, True, 1.0)
    steps = [type(step).__name__ for step in transform.transforms]
    assert steps[:3] == ["ColorJitter", "AutoAugment", "Resize"]
    assert steps[-1] == "RandomErasing"
    assert ("RandomAffine" in steps) == (view == "satellite")
    assert transform(torch.zeros(3, 60, 60, dtype=torch.uint8)).shape == (3, 24, 32)


def samples_of(counts):
    """{view: {label: number of images}} -> samples with made-up paths."""
    return {
        view: [(f"{view}/{label}/{n}", label) for label in labels for n in range(labels[label])]
        for view, labels in counts.items()
    }


def test_paired_batches_hold_distinct_buildings_and_all_their_views():
    """Published defect 18: views were shuffled on their own, so a batch had almost no positives."""
    samples = samples_of(
        {
            "satellite": dict.fromkeys(range(9), 1),
            "drone": dict.fromkeys(range(9), 4),
            "street": {0: 2, 5: 1},
        }
    )
    sampler = dataset.PairedSampler(samples, batch_size=4, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    shown = collections.Counter()
    for batch in batches:
        labels = collections.defaultdict(list)
        for draw in batch:
            labels[draw.view].append(samples[draw.view][draw.index][1])
        assert len(set(labels["satellite"])) == len(labels["satellite"]) == 3
        assert labels["satellite"] == labels["drone"]
        assert set(labels["street"]) == set(labels["satellite"]) & {0, 5}
        shown.update(labels["satellite"])
    assert shown == dict.fromkeys(range(9), 1)


def test_paired_epoch_shows_every_satellite_image_once():
    samples = samples_of({"satellite": {0: 3, 1: 1, 2: 2}, "drone": {0: 1, 1: 1, 2: 1, 3: 1}})
    draws = [draw for batch in dataset.PairedSampler(samples, 2) for draw in batch]
    satellites = sorted(draw.index for draw in draws if draw.view == "satellite")
    # The third image of building 0 would be alone in its round, and batch norm needs two.
    assert len(satellites) == 5 and len(set(satellites)) == 5
    assert 3 in [samples["drone"][d.index][1] for d in draws if d.view == "drone"]


def test_no_batch_is_too_small_for_batch_norm():
    for count in range(2, 40):
        samples = samples_of({"satellite": dict.fromkeys(range(count), 1)})
        for batch_size in (1, 2, 3, 8):
            sizes = [len(batch) for batch in dataset.PairedSampler(samples, batch_size)]
            assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= max(3, batch_size)
    with pytest.raises(ValueError, match="at least 2"):
        dataset.PairedSampler(samples_of({"satellite": {0: 5}}), 4)


def test_samplers_depend_on_seed_and_epoch_only():
    counts = {"satellite": dict.fromkeys(range(8), 1), "drone": dict.fromkeys(range(8), 5)}
    samples = samples_of(counts)
    for kind in dataset.SAMPLERS.values():
        sampler, again, other = kind(samples, 4, 1), kind(samples, 4, 1), kind(samples, 4, 2)
        assert list(sampler) == list(again) != list(other)
        again.epoch = 1
        assert list(sampler) != list(again)


def test_independent_sampler_is_the_published_zip():
    samples = samples_of({"satellite": dict.fromkeys(range(10), 1), "drone": {0: 30, 1: 30}})
    batches = list(dataset.IndependentSampler(samples, 4))
    assert len(batches) == 2  # the last, partial batch of the ten satellites is skipped
    for batch in batches:
        assert collections.Counter(draw.view for draw in batch) == {"satellite": 4, "drone": 4}
    with pytest.raises(ValueError, match="10 satellite images do not fill a batch of 16"):
        dataset.IndependentSampler(samples, 16)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(toy, num_workers):
    def batches(workers):
        scanned = dataset.scan_training_views(toy, ["satellite", "drone", "google"])
        samples = dataset.label_samples(scanned, dataset.class_list(scanned))
        transforms = {v: dataset.train_transform(v, 32, 32, 4, True, False, 0.5) for v in samples}
        sampler = dataset.PairedSampler(samples, 4, seed=5)
        views = dataset.TrainingViews(samples, transforms)
        torch.manual_seed(workers)  # must not matter
        return list(dataset.training_loader(views, sampler, workers))

    for ours, reference in zip(batches(num_workers), batches(0), strict=True):
        assert ours.keys() == reference.keys()
        for view in ours:
            assert torch.equal(ours[view][0], reference[view][0])
            assert torch.equal(ours[view][1], reference[view][1])


def test_augmentation_leaves_the_global_generator_alone(folder):
    scanned = dataset.scan_training_views(folder, ["satellite"])
    samples = dataset.label_samples(scanned, dataset.class_list(scanned))
    views = dataset.TrainingViews(
        samples, {"satellite": dataset.train_transform("satellite", 32, 32, erasing_p=1.0)}
    )
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = views[dataset.Draw("satellite", 0, 11)][1]
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, views[dataset.Draw("satellite", 0, 11)][1])
    assert not torch.equal(first, views[dataset.Draw("satellite", 0, 12)][1])


def test_a_lone_image_of_a_view_is_left_out_of_the_batch():
    image = torch.zeros(3, 2, 2)
    items = [("satellite", image, 1), ("satellite", image, 4), ("street", image, 4)]
    batch = dataset.collate_views(items)
    assert list(batch) == ["satellite"]
    images, labels = batch["satellite"]
    assert images.shape == (2, 3, 2, 2)
    assert labels.tolist() == [1, 4] and labels.dtype == torch.int64
