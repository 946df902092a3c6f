"""Classes, labels, the input of a network, and batches."""

import numpy as np
import pytest
import torch
from PIL import Image

import dataset
from imaging import cache, files
from imaging.augmentation import Augmentation
from imaging.cache import open_view
from training import samplers


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


def test_only_images_count_and_only_views_asked_for_are_opened(folder):
    """Published defect 15: all views had to exist, and google was decoded even when unused."""
    (folder / "train" / "street").rename(folder / "train" / "unused")
    scanned = dataset.scan_training_views(folder, ["satellite", "drone"])
    counts = {view: sum(map(len, classes.values())) for view, classes in scanned.items()}
    assert counts == {"satellite": 3, "drone": 9}
    with pytest.raises(FileNotFoundError, match="street not found: there are drone, google"):
        dataset.scan_training_views(folder, ["satellite", "street"])


def test_labels_stay_aligned_by_name(folder):
    """Published defect 22: labels came from each folder's own class list, shifted by empty ones."""
    scanned = dataset.scan_training_views(folder, files.VIEWS)
    assert scanned["google"]["0012"] == []
    names = dataset.class_list(scanned)
    assert names == dataset.paired_classes(scanned) == ["0003", "0007", "0012"]
    pair = {view: scanned[view] for view in ("street", "google")}
    assert dataset.paired_classes(pair) == ["0003"]
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


def test_network_input_is_imagenet_normalisation():
    images = torch.full((2, 3, 20, 24), 255, dtype=torch.uint8)
    images[1] = 0
    out = dataset.to_network_input(images.contiguous(memory_format=torch.channels_last), "cpu")
    assert out.shape == (2, 3, 20, 24) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)  # no copy before the network
    mean, std = torch.tensor(dataset.IMAGENET_MEAN), torch.tensor(dataset.IMAGENET_STD)
    torch.testing.assert_close(out[0, :, 7, 9], (1 - mean) / std)
    torch.testing.assert_close(out[1, :, 7, 9], -mean / std)
    assert images[0].eq(255).all()


def training_views(folder, views=("satellite", "drone"), cache="none", **options):
    """TrainingViews at 32 pixels of a data folder."""
    scanned = dataset.scan_training_views(folder, views)
    samples = dataset.label_samples(scanned, dataset.class_list(scanned))
    images = {
        view: open_view([path for path, _ in pairs], 32, 32, cache)
        for view, pairs in samples.items()
    }
    augmentations = {
        view: Augmentation(32, 32, turned=view == "satellite", **options) for view in samples
    }
    return dataset.TrainingViews(samples, images, augmentations)


@pytest.mark.parametrize("view", ["satellite", "drone"])
@pytest.mark.parametrize("option", ["color_jitter", "DA", "erasing_p"])
def test_every_option_changes_every_view(toy, view, option):
    """Published defect 24: `--DA` and `--erasing_p` were never applied to satellite images."""
    draws = [dataset.Draw(view, 0, seed) for seed in range(30)]
    plain = training_views(toy)[draws][view][0]
    changed = training_views(toy, **{option: 1})[draws][view][0]
    assert changed.shape == plain.shape == (30, 3, 32, 32) and changed.dtype == torch.uint8
    differing = (changed != plain).flatten(1).any(dim=1).float().mean()
    assert differing > (0.5 if option == "DA" else 0.9)  # some policies change nothing


@pytest.mark.parametrize("color_jitter", [False, True], ids=["threads", "processes"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(toy, num_workers, color_jitter):
    def batches(workers):
        views = training_views(
            toy, ["satellite", "drone", "google"], pad=4, color_jitter=color_jitter, erasing_p=0.5
        )
        assert views.needs_processes == color_jitter
        sampler = samplers.PairedSampler(views.samples, 4, seed=5)
        torch.manual_seed(workers)  # must not matter
        return list(dataset.batch_loader(views, sampler, workers))

    for ours, reference in zip(batches(num_workers), batches(0), strict=True):
        assert ours.keys() == reference.keys()
        for view in ours:
            assert ours[view][0].is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(ours[view][0], reference[view][0])
            assert torch.equal(ours[view][1], reference[view][1])


def test_augmentation_leaves_the_global_generator_alone(toy):
    views = training_views(toy, color_jitter=True, DA=True, erasing_p=1.0)
    draws = [dataset.Draw("satellite", 0, seed) for seed in (11, 12, 11)]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, other, again = views[draws]["satellite"][0]
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_draw_says_whether_its_image_is_mirrored(toy):
    plain, mirrored = (
        training_views(toy)[[dataset.Draw("drone", 0, 5, flip)] * 2]["drone"][0]
        for flip in (False, True)
    )
    assert torch.equal(plain.flip(3), mirrored)


def test_a_lone_image_of_a_view_is_left_out_of_the_batch(toy):
    views = training_views(toy)
    batch = views[[dataset.Draw(*draw) for draw in (("satellite", 0, 1), ("satellite", 4, 2),
                                                    ("drone", 4, 3))]]  # fmt: skip
    assert list(batch) == ["satellite"]
    images, labels = batch["satellite"]
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [0, 4] and labels.dtype == torch.int64


def test_threads_stop_at_an_error_and_when_nobody_listens(folder):
    asked = []

    class Numbers:
        needs_processes = False

        def __getitem__(self, number):
            asked.append(number)
            if number == 20:
                raise OSError("number 20 cannot be read")
            return torch.full((2,), number)

    loader = dataset.batch_loader(Numbers(), range(1000), 2)
    assert len(loader) == 1000
    seen = []
    with pytest.raises(OSError, match="number 20"):
        for batch in loader:
            seen.append(int(batch[0]))
    assert seen == list(range(20)) and len(asked) < 40
    asked.clear()
    for batch in loader:
        if int(batch[0]) == 3:
            break
    del batch
    assert len(asked) < 20


def test_test_batches_keep_the_order_of_the_paths(toy):
    (paths,) = dataset.scan_training_views(toy, ["drone"]).values()
    paths = [path for images in paths.values() for path in images]
    images = cache.open_view(paths, 24, 32)
    for num_workers in (0, 2):
        batches = list(
            dataset.batch_loader(
                dataset.ImageBatches(images), dataset.in_batches(paths, 5), num_workers
            )
        )
        assert [len(batch) for batch in batches] == [5, 5, 5, 1]
        expected = np.stack([cache.load_resized(path, 24, 32) for path in paths])
        assert np.array_equal(torch.cat(batches).permute(0, 2, 3, 1).numpy(), expected)
