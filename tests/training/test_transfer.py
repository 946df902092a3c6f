"""`--init`: what of another run fits a network, what is said of the rest, what is refused."""

from pathlib import Path

import pytest
import torch
from conftest import NARROW, SMALL, fails
from torch import nn

import model
import train
import utils
from networks import musenet
from training import build, options, transfer

THREE = list(model.THREE_VIEWS)
CLASSES = [f"{number:04d}" for number in range(8)]
BRANCH = 128  # tensors of a narrow ResNet-18, its ImageNet classifier among them
HEAD = 9  # of a head: two linear layers, and batch norm with three buffers


def randomised(network):
    """The network with norms that are not those of a fresh one."""
    for name, tensor in network.state_dict().items():
        if "running" in name or (tensor.ndim == 1 and tensor.is_floating_point()):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return network


def write_run(name, class_names=CLASSES, views=("satellite", "drone"), trained=None, **settings):
    """A run folder with random weights, options `trained` of its training; its network."""
    settings = {"backbone": NARROW, **settings}
    torch.manual_seed(1)
    network = randomised(model.build_model(len(class_names), views, **settings))
    run_dir = utils.run_folder(name)
    opts = {"view_names": list(views), "nclasses": len(class_names), **(trained or {})}
    utils.write_opts(run_dir, {**settings, **opts})
    utils.save_tensors(run_dir / "net_last.pth", network.state_dict())
    utils.save_tensors(run_dir / "train_state.pth", {"class_names": list(class_names)})
    return network


def start(init, class_names=CLASSES, views=("satellite", "drone"), name="new", **settings):
    """A network that starts from a run, and what it was before: (network, before)."""
    settings = {"backbone": NARROW, **settings}
    torch.manual_seed(2)
    of_network = {name: value for name, value in settings.items() if name != "freeze"}
    network = model.build_model(len(class_names), views, **of_network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    opts = options.parse_args(["--name", name])
    vars(opts).update(view_names=list(views), **settings)
    transfer.start_from(init, network, opts, class_names)
    return network, before


def equal(first, second, *, but=()):
    """Assert that two modules have equal tensors, but for names that begin with one of `but`."""
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) is not key.startswith(but or ("-",)), key


@pytest.mark.parametrize("share", [True, False])
def test_the_same_network_starts_as_the_other_ended(workdir, capsys, share):
    """By name, by run folder, by file; a tensor of a shared branch counts once."""
    other = write_run("clear", share=share)
    count = BRANCH * (1 if share else 2) + HEAD
    elsewhere = (workdir / "model" / "clear").rename(workdir / "moved")
    for init in (elsewhere, elsewhere / "net_last.pth", Path("moved/net_last.pth")):
        equal(start(str(init), share=share)[0], other)
        expected = f"starts from {elsewhere if init.is_absolute() else 'moved'}/net_last.pth"
        assert capsys.readouterr().out == f"{expected}: all {count} tensors\n"
    elsewhere.rename(workdir / "model" / "clear")
    equal(start("clear", share=share)[0], other)
    assert capsys.readouterr().out == f"starts from model/clear/net_last.pth: all {count} tensors\n"


@pytest.mark.parametrize(
    ("class_names", "said"),
    [
        (CLASSES[:5], "8 classes there, 5 here"),
        (["other", *CLASSES[1:]], "other classes"),
        (CLASSES, "no train_state.pth tells which classes"),
    ],
)
def test_other_classes(workdir, capsys, class_names, said):
    """Also as many others: rows of the wrong classes would be worse than none."""
    other = write_run("clear")
    if class_names is CLASSES:
        Path("model/clear/train_state.pth").unlink()
    network, before = start("clear", class_names)
    for number in (1, 2):
        equal(getattr(network, f"model_{number}"), getattr(other, f"model_{number}"))
    equal(network.classifier.add_block, other.classifier.add_block)
    for part in ("weight", "bias"):
        key = f"classifier.classifier.0.{part}"
        assert torch.equal(network.state_dict()[key], before[key])
    line = f"all but 2 of {2 * BRANCH + HEAD} tensors (classifier: {said})\n"
    assert capsys.readouterr().out == f"starts from model/clear/net_last.pth: {line}"


def test_branches_follow_their_views(workdir, capsys):
    """Satellite and drone to three views: the street starts from the drone."""
    other = write_run("two")
    network, _ = start("two", views=THREE)
    for branch, begins in ((1, 1), (2, 2), (3, 2)):
        equal(getattr(network, f"model_{branch}"), getattr(other, f"model_{begins}"))
    out = capsys.readouterr().out
    assert out.endswith(f"all {3 * BRANCH + HEAD} tensors; street from the drone branch\n")
    other = write_run("three", views=THREE, share=False)
    network, _ = start("three", views=("satellite", "drone"))
    equal(network.model_1, other.model_1)
    equal(network.model_2, other.model_3)
    assert capsys.readouterr().out.endswith(f"all {2 * BRANCH + HEAD} tensors\n")
    network, _ = start("three", share=True)  # of two branches there, the first view's
    equal(network.model_2, other.model_1)
    assert capsys.readouterr().out.endswith("; drone from the satellite branch\n")
    network, _ = start("two", views=("street", "satellite"))
    equal(network.model_2, write_run("two").model_1)
    assert capsys.readouterr().out.endswith("; street from the drone branch\n")


@pytest.mark.parametrize(
    ("view", "known", "expected"),
    [
        ("street", {"street": 1, "drone": 2}, "street"),
        ("street", {"satellite": 1, "drone": 2}, "drone"),
        ("satellite", {"street": 1, "drone": 2}, "drone"),
        ("drone", {"street": 1, "satellite": 2}, "satellite"),
        ("drone", {"google": 1, "street": 2}, "google"),
        ("google", {"satellite": 1, "street": 2, "drone": 3, "google": 2}, "google"),
    ],
)
def test_the_view_a_branch_starts_from(view, known, expected):
    assert transfer.source_view(view, known) == expected


def test_other_pools_and_parts(workdir, capsys):
    other = write_run("clear", share=True)
    network, before = start("clear", share=True, pool="gem")
    assert torch.equal(network.model_1.model.gem2.p, before["model_1.model.gem2.p"])
    count = BRANCH + HEAD + 1
    assert f"all but 1 of {count} tensors (new: model_1.model.gem2 (1))" in capsys.readouterr().out
    network, before = start("clear", share=True, pool="avg+max")
    assert all(torch.equal(network.state_dict()[k], before[k]) for k in before if k[0] == "c")
    equal(network.model_2, other.model_2)
    assert ("all but 9 of 137 tensors (new: classifier (9); --pool avg there, avg+max here)"
            in capsys.readouterr().out)  # fmt: skip
    network, _ = start("clear", CLASSES[:5], share=True, LPN=True, block=2, usam=True)
    assert torch.equal(network.model_1.model.conv1.weight, other.model_1.model.conv1.weight)
    assert capsys.readouterr().out.endswith(
        "all but 32 of 160 tensors (classifier: 8 classes there, 5 here; new: classifier0 (7), "
        "classifier1 (7), model_1.usam_1 (7), model_1.usam_2 (7); --LPN off there, on here)\n"
    ), "two heads, their class layers apart, and twice two kernels and a norm of five"
    kept = write_run("rings", share=True, LPN=True, block=2, usam=True)
    equal(start("rings", share=True, LPN=True, block=2, usam=True)[0], kept)


def test_other_maps_and_heads(workdir, capsys):
    """Exponents of a map of another size are new, and so is a head of another kind or that was
    trained on features that were centred, or were not."""
    pooling = {"share": True, "pool": "gem", "maps": [2, "last"]}
    other = write_run("maps", **pooling)
    network, before = start("maps", **{**pooling, "maps": [3, "last"]})
    gems = [network.model_1.model.gem2[n].p for n in (0, 1)]
    assert torch.equal(gems[0], before["model_1.model.gem2.0.p"])
    assert torch.equal(gems[1], other.model_1.model.gem2[1].p)
    count = BRANCH + HEAD + 2
    assert (f"all but 10 of {count} tensors (new: classifier (9), model_1.model.gem2 (1); "
            "--maps 2,last there, 3,last here)" in capsys.readouterr().out)  # fmt: skip
    equal(start("maps", **pooling)[0], other)

    write_run("linear", share=True, head="linear")
    for head, tensors in (("block", HEAD), ("none", 2)):
        network, before = start("linear", share=True, head=head)
        assert all(torch.equal(network.state_dict()[k], before[k]) for k in before if k[0] == "c")
        assert f"new: classifier ({tensors})" in capsys.readouterr().out
    _, before = start("linear", share=True, head="linear", center=True)
    assert ("all but 4 of 132 tensors (new: center.means (1), classifier (3); --center off there, "
            "on here)" in capsys.readouterr().out)  # fmt: skip


RINGED = {"pool": "rings", "block": 4}


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"maps": [1, 2]}, {"maps": [2, 1]}, "--maps 1,2 there, 2,1 here"),
        ({"pool": "avg", "whiten": 16}, {"pool": "max"}, "--pool avg there, max here"),
        (RINGED, {"pool": "gem+rings", "block": 3}, "--pool rings there, gem+rings here; --block"),
        ({"LPN": True, "block": 4}, {"block": 2}, "--block 4 there, 2 here"),
        ({"pool": "avg"}, {"pool": "max"}, ""),
        ({"usam": True}, {"usam": False}, "--usam on there, off here"),
        ({"usam": False}, {"usam": True}, ""),
        ({"pool": "avg", "block": 2}, {"block": 3}, ""),
    ],
)
def test_heads_know_their_features(workdir, capsys, there, here, said):
    """Features of one length may mean something else: it took the head without a word."""
    center = not there.get("LPN")
    there = {"share": True, "head": "linear" if center else "block", "center": center, **there}
    other = write_run("there", **there)
    network, before = start("there", **there | here)
    kept = before if said else other.state_dict()
    for key, value in network.state_dict().items():
        if key.startswith(("classifier", "center.directions")):
            assert torch.equal(value, kept[key]), key
    out = capsys.readouterr().out
    assert said in out and (said or "--" not in out)


def test_means_of_a_backbone_that_has_trained(workdir, capsys):
    """They are of the backbone as it was, and its head has learnt with them."""
    settings = {"share": True, "head": "linear", "center": True, "whiten": 16}
    for trained in ({"freeze": True, "train_blocks": 1}, {"freeze": False}):
        other = write_run("trained", trained=trained, **settings)
        other.center.means.copy_(torch.arange(2)[:, None] + 1)
        other.center.directions.fill_(2.0)
        utils.save_tensors(utils.run_folder("trained") / "net_last.pth", other.state_dict())
        capsys.readouterr()
        equal(start("trained", **settings)[0], other)
        assert "net_last.pth: all 133 tensors\n" in capsys.readouterr().out
        network, _ = start("trained", views=("drone", "street"), **settings)
        assert network.center.means[:, 0].tolist() == [2, 0]  # street's: of its images
        assert not network.center.is_set({1, 2}) and network.center.is_set({1})
        assert "(new: center.means (1)); street from the drone branch" in capsys.readouterr().out


def test_a_muse_net_is_not_frozen_as_a_plain_network(workdir, monkeypatch):
    """Its norms are new there, and were never trained: features meant nothing."""
    monkeypatch.setitem(musenet.STAGES, NARROW, (2, 2))
    write_run("muse", musenet=True)
    with pytest.raises(ValueError, match="net_last.pth is a MuSe-Net.*leave --freeze out"):
        start("muse", freeze=True)


def test_damaged_heads_are_refused(workdir):
    """Their NaN was taken, and training said to lower --lr."""
    state = write_run("damaged").state_dict()
    state["classifier.add_block.0.weight"][0, 0] = float("inf")
    utils.save_tensors(utils.run_folder("damaged") / "net_last.pth", state)
    with pytest.raises(ValueError, match="net_last.pth holds NaN or infinity in 1 of .*add_block"):
        start("damaged")


def test_centred_and_whitened_features(workdir, capsys):
    """Means are of the images, so they are of this run; directions come with their head."""
    settings = {"share": True, "head": "linear", "center": True}
    frozen = {"trained": {"freeze": True, "train_blocks": 0}}
    other = write_run("centred", **frozen, **settings)
    other.center.means.fill_(1.0)
    utils.save_tensors(utils.run_folder("centred") / "net_last.pth", other.state_dict())
    network, _ = start("centred", CLASSES[:5], **settings)
    equal(network.classifier.add_block, other.classifier.add_block)
    assert not network.center.means.any()  # computed when training begins

    settings["whiten"] = 16
    other = write_run("whitened", **frozen, **settings)
    other.center.directions.fill_(2.0)
    other.center.means.fill_(1.0)
    utils.save_tensors(utils.run_folder("whitened") / "net_last.pth", other.state_dict())
    capsys.readouterr()
    for change, tensors, said in (
        ({}, 1, "new: center.means (1)"),
        ({"whiten": 24}, 5, "--whiten 16 there, 24 here"),
        ({"whiten": None}, 4, "--whiten 16 there, 0 here"),
        ({"embedding_dim": 24}, 5, "--embedding_dim 512 there, 24 here"),
        ({"pool": "avg+max"}, 5, "--pool avg there, avg+max here"),
        ({"center": False, "whiten": None}, 3, "--center on there, off here; --whiten 16 there"),
    ):
        network, before = start("whitened", **{**settings, **change})
        head = {key: value for key, value in before.items() if key[0] == "c"}
        after = {key: value for key, value in network.state_dict().items() if key[0] == "c"}
        if change:
            assert all(torch.equal(after[key], value) for key, value in head.items()), change
        else:
            equal(network.classifier, other.classifier)
            assert torch.equal(network.center.directions, other.center.directions)
            assert not network.center.means.any()
        out = capsys.readouterr().out
        assert f"all but {tensors} of" in out and said in out, out
    write_run("bare", **frozen, share=True, head="none", center=True, whiten=16)
    network, _ = start("bare", share=True, head="none", center=True, whiten=16)
    assert network.state_dict()["classifier.classifier.0.weight"].shape == (8, 16)
    assert "all but 1 of 132 tensors (new: center.means (1))" in capsys.readouterr().out


# ---------------------------------------------------------------- MuSe-Net
def test_clear_to_weather(workdir, capsys, monkeypatch):
    """A plain ResNet to an adaptive one, as torchvision's weights go there; then on, and back."""
    monkeypatch.setitem(musenet.STAGES, NARROW, (2, 2))
    plain = write_run("clear")
    network, before = start("clear", musenet=True, return_weather=True)
    for number in (1, 2):
        trained = getattr(plain, f"model_{number}").model.state_dict()
        found = getattr(network, f"model_{number}").model.state_dict()
        expected = musenet.ibn_state(trained)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    style = network.pt_model.model.state_dict()
    trained = plain.model_2.model.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in style.items())
    rest = [key for key in before if key.startswith(("pt_model.layer", "pt_model.classifier"))]
    assert len(rest) == 4 + 7
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in rest)
    equal(network.classifier, plain.classifier)
    assert f"all but {len(rest)} of" in (out := capsys.readouterr().out)
    assert out.endswith("tensors (new: pt_model (11))\n")

    muse = write_run("muse", musenet=True)
    settings = {"musenet": True}
    equal(start("muse", **settings)[0], muse)
    network, _ = start("muse", **settings, btnk=[1, 1, 0, 0])
    equal(network.model_1, muse.model_1)
    assert capsys.readouterr().out.endswith("(new: pt_model (4))\n"), "one more block"
    network, before = start("muse")
    assert torch.equal(network.model_1.model.layer1[0].conv1.weight,
                       muse.model_1.model.layer1[0].conv1.weight)  # fmt: skip
    assert torch.equal(network.model_1.model.layer1[0].bn1.weight, torch.ones(8))
    layers = ", ".join(f"model_{n}.model.layer{layer} (10)" for n in (1, 2) for layer in (1, 2, 3))
    assert capsys.readouterr().out.endswith(f"all but 60 of 265 tensors (new: {layers})\n")


# ---------------------------------------------------------------- published runs
def test_a_published_run(workdir, capsys):
    """Options without names of views, no train_state.pth, weights of an epoch."""
    torch.manual_seed(3)
    published = model.build_model(5, THREE, share=True, backbone=NARROW)
    run_dir = utils.run_folder("published")
    utils.write_opts(
        run_dir, {"views": 3, "share": True, "nclasses": 5, "h": 256, "backbone": NARROW}
    )
    utils.save_tensors(run_dir / "net_119.pth", published.state_dict())
    network, _ = start("published", views=("drone", "street"))
    equal(network.model_1, published.model_3)
    equal(network.model_2, published.model_2)
    out = capsys.readouterr().out
    assert out.startswith("starts from model/published/net_119.pth: all but 2 of ")
    assert out.endswith("tensors (classifier: 5 classes there, 8 here)\n")


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("cleer", FileNotFoundError, "no run folder model/cleer: there are clear; check the name"),
        ("model/clear", ValueError, "--init model/clear is the run that this one would replace"),
        (
            "net.pth",
            FileNotFoundError,
            "has no opts.yaml of a run beside it.*--weights net.pth",
        ),
        ("a/b", FileNotFoundError, "no run folder a/b"),
        ("a/net_last.pth", FileNotFoundError, "--init a/net_last.pth not found: check the path"),
    ],
)
def test_no_such_run(workdir, init, error, message):
    write_run("clear")
    Path("net.pth").touch()
    with pytest.raises(error, match=message):
        start(init, name="clear")


def test_another_backbone(workdir):
    write_run("clear")
    with pytest.raises(ValueError, match=f"model/clear/net_last.pth is of --backbone {NARROW} and "
                       "this run of resnet18, so nothing fits: give --backbone"):  # fmt: skip
        start("clear", backbone="resnet18")


@pytest.mark.parametrize("other", [["--no_pretrained"], ["--weights", "x"], ["--ibn_weights", "x"]])
def test_options_that_init_excludes(workdir, capsys, other):
    argv = ["--init", "clear", "--musenet", "--weather", "all", *other]
    fails(train.main, argv, capsys, f"leave {other[0]} out")


def test_the_weights_of_a_run_are_no_backbone(workdir, capsys):
    """Issue 13: it said that 100 of 122 entries are missing."""
    write_run("clear")
    with pytest.raises(ValueError, match="a whole run.*give --init model/clear/net_last.pth$"):
        opts = options.parse_args(["--backbone", NARROW, "--weights", "model/clear/net_last.pth"])
        build.build_network(opts, 5)


# ---------------------------------------------------------------- a whole run
def test_a_run_begins_with_another_and_resumes_without_it(toy, workdir, capsys):
    argv = ["--data_dir", str(toy), *SMALL, "--train_all"]
    pretrained = [part for part in argv if part != "--no_pretrained"]
    train.main(["--name", "clear", *argv, "--epochs", "1"])
    before = utils.load_tensors("model/clear/net_last.pth")
    capsys.readouterr()
    new = ["--init", "clear", "--epochs", "1", "--step_size", "9", "--lr", "1e-12"]
    train.main(["--name", "weather", *pretrained, *new, "--weather", "fog"])
    out = capsys.readouterr().out
    assert "starts from model/clear/net_last.pth: all 265 tensors\n" in out
    saved = utils.read_opts("model/weather")
    assert (saved["init"], saved["backbone_lr"]) == ("clear", 0.1)
    after = utils.load_tensors("model/weather/net_last.pth")
    for key, value in before.items():  # batch norm counts and averages, nothing is learnt
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after[key], value, atol=1e-6, rtol=0)
    fails(train.main, ["--name", "clear", *pretrained, "--init", "clear", "--overwrite"], capsys,
          "would replace")  # fmt: skip
    assert Path("model/clear/net_last.pth").is_file()
    Path("model/clear").rename("gone")
    train.main(["--name", "weather", "--resume", "--epochs", "2"])
    assert "starts from" not in capsys.readouterr().out
    fails(train.main, ["--name", "weather", "--resume", "--init", "b"], capsys,
          "--init b differs from clear")  # fmt: skip


def test_a_whitened_run_goes_on_where_it_ended(toy, workdir, capsys):
    """As few_pairs and then its last blocks: the same features before the first step."""
    argv = ["--data_dir", str(toy), *SMALL, "--train_all", "--turns", "1", "--center", "--whiten",
            "16", "--head", "linear", "--embedding_dim", "8", "--epochs", "1"]  # fmt: skip
    train.main(["--name", "head", *argv, "--freeze", "--pad", "0"])
    before = utils.load_tensors("model/head/net_last.pth")
    assert before["center.directions"].any()
    pretrained = [part for part in argv if part != "--no_pretrained"]
    still = ["--freeze", "--pad", "0", "--lr", "1e-12"]
    train.main(["--name", "on", *pretrained, *still, "--init", "head"])
    after = utils.load_tensors("model/on/net_last.pth")
    for key, value in before.items():  # the same images have the same means
        torch.testing.assert_close(after[key], value, atol=1e-6, rtol=1e-6)
    train.main(["--name", "block", *pretrained, *still, "--train_blocks", "1", "--lr", "0.1",
                "--init", "head"])  # fmt: skip
    before = utils.load_tensors("model/block/net_last.pth")
    assert not torch.equal(before["classifier.add_block.1.weight"],
                           after["classifier.add_block.1.weight"])  # fmt: skip
    train.main(["--name", "again", *pretrained, *still, "--init", "block"])
    after = utils.load_tensors("model/again/net_last.pth")
    for key, value in before.items():  # the means are not those of the backbone as it is now
        torch.testing.assert_close(after[key], value, atol=1e-6, rtol=1e-6)
