"""Folders, labels, transforms, samplers and batches."""

import collections
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import dataset
from imaging import augmentation, cache, files
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


def test_data_folder_or_its_split(folder):
    assert files.split_folder(folder, "train") == folder / "train"
    assert files.split_folder(folder / "train", "train") == folder / "train"
    with pytest.raises(FileNotFoundError, match="neither test/.*query_satellite.*found train"):
        files.split_folder(folder, "test")
    with pytest.raises(FileNotFoundError, match="prepare.py toy"):
        files.split_folder(folder / "absent", "train")


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
        files.scan_classes(tmp_path)


def test_labels_stay_aligned_by_name(folder):
    """Published defect 22: labels came from each folder's own class list, shifted by empty ones."""
    scanned = dataset.scan_training_views(folder, files.VIEWS)
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
            files.read_image(path)
    assert files.read_image(whole).shape == (64, 64, 3)


def test_sixteen_bits_are_refused(tmp_path):
    """Pillow would cut them off at 255."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(path)
    with pytest.raises(OSError, match="deep.png cannot be read as an image .*expected 8 bits"):
        files.read_image(path)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(path)
        image = files.read_image(path)
        assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("decoder", ["simplejpeg", "Pillow"])
def test_jpegs_are_decoded_as_by_pillow(tmp_path, monkeypatch, decoder):
    """Sampling of colours, progressive, grey, CMYK, cut, turned by EXIF, larger than allowed."""
    if decoder == "Pillow":
        monkeypatch.setattr(files, "simplejpeg", None)
    noise = Image.effect_noise((70, 50), 90)
    noise = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    turned = Image.Exif()
    turned[0x0112] = 6
    saved = {
        "444.jpg": (noise, {"subsampling": 0}),
        "420.jpg": (noise, {"subsampling": 2, "quality": 60}),
        "progressive.jpg": (noise, {"progressive": True}),
        "exif.jpg": (noise, {"exif": turned}),
        "grey.jpg": (noise.convert("L"), {}),
        "cmyk.jpg": (noise.convert("CMYK"), {}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        ours = files.read_image(tmp_path / name)
        assert ours.flags.writeable and ours.flags.c_contiguous
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(ours, np.asarray(image.convert("RGB"))), name
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OSError, match=r"444.jpg cannot be read as an image \(.*bomb"):
        files.read_image(tmp_path / "444.jpg")


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


def test_resize_matches_pillow_bicubic():
    """The published resize is Pillow's; ours runs on tensors and differs by one level at most."""
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((32, 24), Image.Resampling.BICUBIC)
    ours = cache.resize_bicubic(pixels, 24, 32)
    assert ours.shape == (24, 32, 3) and ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - np.asarray(expected, int)).max() <= 1


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_edge_window_is_pad_and_crop():
    """Every offset of the published Pad and RandomCrop, bit for bit."""
    image, pad = noise(9, 11), 3
    padded = v2.functional.pad(Image.fromarray(image), pad, padding_mode="edge")
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            expected = v2.functional.crop(padded, top, left, 9, 11)
            ours = augmentation.edge_window(image, top - pad, left - pad, 9, 11)
            assert np.array_equal(ours, np.asarray(expected)), (top, left)


@pytest.mark.parametrize("angle", [-90, -33.3, 0, 12.5, 45, 90])
def test_a_turned_window_is_pad_affine_and_crop(angle):
    """The published Pad, RandomAffine and RandomCrop on a Pillow image, bit for bit."""
    image, pad = noise(40, 52), 4
    padded = v2.functional.pad(Image.fromarray(image), pad, padding_mode="edge")
    # torchvision counts a positive affine angle clockwise, and draws both signs alike.
    turned = v2.functional.affine(padded, -angle, [0, 0], 1.0, [0.0, 0.0])
    for top, left in ((0, 0), (4, 4), (8, 3)):
        expected = np.asarray(v2.functional.crop(turned, top, left, 40, 52))
        ours = augmentation.turned_window(image, angle, top, left, pad)
        differing = (ours != expected).any(axis=2).mean()
        assert differing < 0.002, (top, left, differing)  # a border between pixels, hit exactly


def draws_of(augmentation, image, count):
    return [augmentation.rearrange(image, random.Random(seed)) for seed in range(count)]


def test_shifts_and_flips_are_drawn_evenly():
    """Published RandomCrop and RandomHorizontalFlip: all offsets alike, half of all flipped."""
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    image = np.stack([rows, columns, rows], axis=2).astype(np.uint8) * 8
    seen = draws_of(Augmentation(30, 30, pad=2), image, 3000)
    tops = collections.Counter(int(out[15, 15, 0]) // 8 - 15 for out in seen)
    flipped = np.mean([out[15, 20, 1] < out[15, 10, 1] for out in seen])
    assert sorted(tops) == [-2, -1, 0, 1, 2]
    assert max(abs(count / 3000 - 0.2) for count in tops.values()) < 0.03
    assert flipped == pytest.approx(0.5, abs=0.03)


def test_satellites_are_turned_evenly_between_a_quarter_left_and_right():
    """Published RandomAffine(90): the angle of a bright line is uniform over half a turn."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20:] = 255  # a ray to the right
    image[19:22, 20:] = 255
    angles = []
    for out in draws_of(Augmentation(41, 41, turned=True, pad=0), image, 2000):
        y, x = np.nonzero(out[..., 0])
        angles.append(np.degrees(np.arctan2(20 - y.mean(), abs(x.mean() - 20))))
    angles = np.sort(angles)
    assert np.abs(angles - np.linspace(-90, 90, len(angles))).max() < 8
    still = draws_of(Augmentation(41, 41, pad=0), image, 20)
    assert all((out[20] > 0).any() and not out[0].any() for out in still)


def test_rearranging_leaves_the_cached_image_alone():
    image = noise(20, 20)
    before = image.copy()
    image.flags.writeable = False
    for turned in (False, True):
        changes = Augmentation(20, 20, turned=turned, pad=0, erasing_p=1.0)
        for out in draws_of(changes, image, 10):
            assert out.shape == image.shape and out.dtype == np.uint8
    assert np.array_equal(image, before)


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
@pytest.mark.parametrize("option", ["color_jitter", "auto_augment", "erasing_p"])
def test_every_option_changes_every_view(toy, view, option):
    """Published defect 24: `--DA` and `--erasing_p` were never applied to satellite images."""
    draws = [dataset.Draw(view, 0, seed) for seed in range(30)]
    plain = training_views(toy)[draws][view][0]
    changed = training_views(toy, **{option: 1})[draws][view][0]
    assert changed.shape == plain.shape == (30, 3, 32, 32) and changed.dtype == torch.uint8
    differing = (changed != plain).flatten(1).any(dim=1).float().mean()
    assert differing > (0.5 if option == "auto_augment" else 0.9)  # some policies change nothing


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
    sampler = samplers.PairedSampler(samples, batch_size=4, seed=1)
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
    draws = [draw for batch in samplers.PairedSampler(samples, 2) for draw in batch]
    satellites = sorted(draw.index for draw in draws if draw.view == "satellite")
    # The third image of building 0 would be alone in its round, and batch norm needs two.
    assert len(satellites) == 5 and len(set(satellites)) == 5
    assert 3 in [samples["drone"][d.index][1] for d in draws if d.view == "drone"]


def test_no_batch_is_too_small_for_batch_norm():
    for count in range(2, 40):
        samples = samples_of({"satellite": dict.fromkeys(range(count), 1)})
        for batch_size in (1, 2, 3, 8):
            sizes = [len(batch) for batch in samplers.PairedSampler(samples, batch_size)]
            assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= max(3, batch_size)
    with pytest.raises(ValueError, match="at least 2"):
        samplers.PairedSampler(samples_of({"satellite": {0: 5}}), 4)


def test_samplers_depend_on_seed_and_epoch_only():
    counts = {"satellite": dict.fromkeys(range(8), 1), "drone": dict.fromkeys(range(8), 5)}
    samples = samples_of(counts)
    for kind in samplers.SAMPLERS.values():
        sampler, again, other = kind(samples, 4, 1), kind(samples, 4, 1), kind(samples, 4, 2)
        assert list(sampler) == list(again) != list(other)
        again.epoch = 1
        assert list(sampler) != list(again)


def test_independent_sampler_is_the_published_zip():
    samples = samples_of({"satellite": dict.fromkeys(range(10), 1), "drone": {0: 30, 1: 30}})
    batches = list(samplers.IndependentSampler(samples, 4))
    assert len(batches) == 2  # the last, partial batch of the ten satellites is skipped
    for batch in batches:
        assert collections.Counter(draw.view for draw in batch) == {"satellite": 4, "drone": 4}
    with pytest.raises(ValueError, match="10 satellite images do not fill a batch of 16"):
        samplers.IndependentSampler(samples, 16)


def test_an_epoch_over_the_drone_images_shows_each_once():
    samples = samples_of(
        {"satellite": dict.fromkeys(range(6), 1), "drone": {0: 7, 1: 4, 2: 4, 3: 4}}
    )
    batches = list(samplers.PairedSampler(samples, 3, anchor_view="drone"))
    drones = [draw.index for batch in batches for draw in batch if draw.view == "drone"]
    # Three images of building 0 are alone in their rounds; buildings 4 and 5 have none to show.
    assert len(drones) == len(set(drones)) == 16
    for batch in batches:
        shown = [samples["satellite"][d.index][1] for d in batch if d.view == "satellite"]
        assert len(shown) == len(set(shown))


def test_p_buildings_of_k_images_each():
    samples = samples_of(
        {"satellite": dict.fromkeys(range(9), 1), "drone": dict.fromkeys(range(9), 5)}
    )
    sampler = samplers.PairedSampler(samples, 12, anchor_view="drone", images_per_building=4)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6  # 5 images are two rounds of 4, the second drawn again
    seen = collections.Counter()
    for batch in batches:
        for view in ("satellite", "drone"):
            labels = [samples[view][draw.index][1] for draw in batch if draw.view == view]
            assert set(collections.Counter(labels).values()) == {4} and len(labels) == 12
        seen.update(draw.index for draw in batch if draw.view == "drone")
    assert set(seen) == set(range(45))
    first = [draw.index for batch in batches[:3] for draw in batch if draw.view == "drone"]
    assert len(set(first)) == 36


def test_joint_flips_mirror_a_building_or_not(toy):
    samples = samples_of(
        {"satellite": dict.fromkeys(range(40), 1), "drone": dict.fromkeys(range(40), 2)}
    )
    flips = {}
    for batch in samplers.PairedSampler(samples, 8, joint_flips=True):
        for draw in batch:
            flips.setdefault(samples[draw.view][draw.index][1], set()).add(draw.mirrored)
    assert all(len(drawn) == 1 for drawn in flips.values())
    assert 10 <= sum(drawn == {True} for drawn in flips.values()) <= 30
    # The image obeys: the same seed, mirrored and not, is the mirror image.
    plain, mirrored = (
        training_views(toy)[[dataset.Draw("drone", 0, 5, flip)] * 2]["drone"][0]
        for flip in (False, True)
    )
    assert torch.equal(plain.flip(3), mirrored)


def brute_force_neighbour_batches(labels, count, neighbours, rng):
    """The definition, by scanning lists: seed, n/4 nearest, n/4 of the n nearest, next seed."""
    left, batches = list(labels), []
    for start in range(count):
        size = len(labels[start::count])
        batch = []
        while len(batch) < size:
            seed, pool = left[0], []
            for other in neighbours[seed][:size]:
                if other in left and other != seed:
                    pool.append(other)
            group = [seed] + pool[: size // 4]
            rest = pool[size // 4 :]
            group += rng.sample(rest, min(size // 4, len(rest)))
            for label in group:
                if len(batch) < size:
                    batch.append(label)
                    left.remove(label)
        batches.append(batch)
    assert not left
    return batches


@pytest.mark.parametrize(("count", "batches"), [(64, 4), (37, 3), (9, 4)])
def test_batches_of_neighbours_are_their_definition(count, batches):
    """Sample4Geo's sampling; its published code left the first sample of the data set out."""
    positions = random.Random(7).choices(range(1000), k=count)
    neighbours = {
        here: sorted(set(range(count)) - {here}, key=lambda o: abs(positions[o] - positions[here]))
        for here in range(count)
    }
    labels = random.Random(1).sample(range(count), count)
    ours = samplers.batches_of_neighbours(labels, batches, neighbours, random.Random(2))
    expected = brute_force_neighbour_batches(labels, batches, neighbours, random.Random(2))
    assert ours == expected
    assert sorted(sum(ours, [])) == list(range(count))  # 0 too, and each once

    samples = samples_of(
        {"satellite": dict.fromkeys(range(count), 1), "drone": dict.fromkeys(range(count), 2)}
    )
    sampler = samplers.PairedSampler(samples, -(-count // batches), seed=1)

    def spread(sampler):
        drawn = [[samples[d.view][d.index][1] for d in batch] for batch in sampler]
        assert sorted(set(sum(drawn, []))) == list(range(count))
        return np.mean([np.std([positions[label] for label in batch]) for batch in drawn])

    far = spread(sampler)
    sampler.neighbours = torch.tensor([neighbours[label] for label in range(count)])
    if count > 9:  # three or two buildings a batch leave no choice
        assert spread(sampler) < 0.8 * far


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["paired", "independent"])
def test_processes_share_the_batches_of_one(kind, world_size):
    counts = {"satellite": dict.fromkeys(range(26), 1), "drone": dict.fromkeys(range(23), 4)}
    samples = samples_of(counts)
    sampler = samplers.SAMPLERS[kind]
    together = list(sampler(samples, 4 * world_size, seed=3))
    alone = [list(sampler(samples, 4, 3, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in alone} == {len(together)}
    for step, whole in enumerate(together):
        parts = [batches[step] for batches in alone]
        assert sorted(sum(parts, [])) == sorted(whole)
        sizes = [sum(draw.view == "satellite" for draw in part) for part in parts]
        assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1
        if kind == "paired":
            labels = [{samples[d.view][d.index][1] for d in part} for part in parts]
            assert len(set.union(*labels)) == sum(map(len, labels))  # distinct buildings
    with pytest.raises(ValueError, match="at least|do not fill"):
        sampler(samples_of({"satellite": {0: 1, 1: 1, 2: 1}}), 1, 0, 0, world_size)


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
    views = training_views(toy, color_jitter=True, auto_augment=True, erasing_p=1.0)
    draws = [dataset.Draw("satellite", 0, seed) for seed in (11, 12, 11)]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, other, again = views[draws]["satellite"][0]
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, again) and not torch.equal(first, other)


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


# ---------------------------------------------------------------- zoom and colours
class Fixed:
    """A random.Random whose uniform numbers are given."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def uniform(self, low, high):
        number = self.numbers.pop(0)
        assert low <= number <= high
        return number


def test_tone_curves_are_their_formula():
    assert np.array_equal(augmentation.tone_curves(0, Fixed(*[0] * 5)), [np.arange(256)] * 3)
    brightness, contrast, gammas = 0.2, -0.3, (0.1, 0.0, -0.25)
    curves = augmentation.tone_curves(0.4, Fixed(brightness, contrast, *gammas))
    assert curves.shape == (3, 256) and curves.dtype == np.uint8
    for channel, gamma in enumerate(gammas):
        for level in (0, 1, 77, 128, 254, 255):
            value = (level / 255) ** math.exp(gamma) - 0.5
            value = 255 * (value * math.exp(contrast) + 0.5 + brightness / 4)
            assert curves[channel, level] == min(max(round(value), 0), 255)


def test_recolouring_applies_one_curve_to_each_colour():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    plain = Augmentation(20, 24, pad=0).rearrange(image, random.Random(3))
    recoloured = Augmentation(20, 24, pad=0, recolouring=0.3)
    changed = recoloured.rearrange(image, random.Random(3))
    if np.array_equal(plain[:, ::-1], image):
        plain = plain[:, ::-1]
    for mirrored in (changed, changed[:, ::-1]):
        pairs = [
            len({(a, b) for a, b in zip(plain[..., c].flat, mirrored[..., c].flat, strict=True)})
            for c in range(3)
        ]
        if pairs == [len(np.unique(plain[..., c])) for c in range(3)]:
            break
    else:
        raise AssertionError("a level of a colour became several levels")
    assert (changed != image).mean() > 0.5


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_zoom_magnifies_about_the_middle(zoom):
    """A linear ramp stays one under bilinear interpolation, steeper or flatter by the zoom."""
    ramp = np.linspace(0, 250, 41)[None, :, None] * np.ones((41, 1, 3))
    out = augmentation.turned_window(ramp.round().astype(np.uint8), 0.0, 0, 0, 0, zoom)
    middle = out[20, 14:27, 0].astype(float)
    expected = 125 + (np.arange(14, 27) - 20) * (250 / 40) / zoom
    assert np.abs(middle - expected).max() < 1.5


def test_zoom_is_drawn_evenly_up_and_down(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augmentation, "turned_window", lambda image, *where: drawn.append(where[-1]) or image
    )
    changes = Augmentation(8, 8, pad=1, zoom=1.5)
    image = np.zeros((8, 8, 3), np.uint8)
    for seed in range(400):
        changes.rearrange(image, random.Random(seed))
    logs = np.log(drawn) / math.log(1.5)
    assert logs.min() > -1 and logs.max() < 1 and abs(logs.mean()) < 0.1
    assert abs((np.abs(logs) < 0.5).mean() - 0.5) < 0.1
