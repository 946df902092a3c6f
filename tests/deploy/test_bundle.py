"""A run in one zip file: what is in it, that it is used as the run is, what is refused."""

import io
import json
import pickle
import shutil
import zipfile

import pytest
import torch
import yaml
from conftest import NARROW, SMALL, fails

import export
import model
import test as script
import train
import utils
from deploy import bundle
from locating import run_features
from runtime import bundles
from training import transfer

CPU = torch.device("cpu")


@pytest.fixture
def shared(small_run, workdir):
    """The run `small`, with a share of its paths, as elsewhere/run.zip; the run itself is gone."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    opts = utils.read_opts(small_run) | {"data_dir": "/home/me/toy/train", "weights": None}
    utils.write_opts(small_run, opts)
    (small_run / "result.txt").write_text("drone -> satellite: Recall@1:50.00\n" * 2)
    (workdir / "elsewhere").mkdir()
    export.main(["--name", "small", "--bundle", "elsewhere/run.zip"])
    small_run.rename(workdir / "kept")
    return workdir / "elsewhere" / "run.zip"


def unpacked(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---------------------------------------------------------------- what is in it
def test_files_of_a_bundle(shared, workdir, capsys):
    files = unpacked(shared)
    assert [*files] == ["manifest.json", "opts.yaml", "README.md", "net_last.safetensors"]
    opts = yaml.safe_load(files["opts.yaml"])
    assert opts["data_dir"] == "train" and opts["weights"] is None and opts["backbone"] == NARROW
    card = files["README.md"].decode()
    assert card.count("TO FILL IN") == 2 and card.count("Recall@1:50.00") == 1
    assert "\n`train`: 8 places, images of 32 x 32 pixels.\n" in card
    assert f"- `backbone`: {NARROW}\n- `droprate`: 0.5\n" in card and "/home" not in card
    assert 'two_view_net",' in card and "share" not in card.split("## Recipe")[1]


def test_the_card_of_the_run_folder_goes_along(small_run, workdir, capsys):
    """It is made once, to be filled in; the same files give the same bytes."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    bundle.export_bundle("small", "9", "a.zip")
    assert "fill in what model/small/model_card.md leaves open" in capsys.readouterr().out
    bundle.export_bundle("small", "last", "b.zip")
    assert (workdir / "a.zip").read_bytes().replace(b"a.zip", b"b.zip") == (
        (workdir / "b.zip").read_bytes().replace(b"a.zip", b"b.zip")
    )
    (small_run / "model_card.md").write_text("Licence: MIT")
    capsys.readouterr()
    bundle.export_bundle("small", "last", "b.zip")
    assert unpacked("b.zip")["README.md"] == b"Licence: MIT"
    assert "fill in" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--name b\.zip is a bundle already: copy it"):
        bundle.export_bundle("b.zip", "last", "c.zip")
    entry = {"epoch": 3, "loss": 0.5, "val_recall@1": 7, "val_AP": 8}
    (small_run / "log.jsonl").write_text(json.dumps(entry))
    assert "4 epochs, the last with a loss of 0.5000.\nHeld-out places: Recall@1 7.00" in (
        bundle.results(small_run)
    )
    (small_run / "log.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"log\.jsonl is not what train\.py writes"):
        bundle.results(small_run)


def test_a_shared_branch_is_written_once(workdir, capsys):
    package = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    opts = {"view_names": ["satellite", "drone"], "nclasses": 3, "backbone": NARROW, "share": True}
    network = model.model_from_opts(opts)
    utils.write_opts("model/one", opts)
    utils.save_tensors("model/one/net_last.pth", network.state_dict())
    sizes = bundle.export_bundle("one", "last", "one.zip")
    elements = sum(
        x.numel() * x.element_size()
        for x in {**dict(network.named_parameters()), **dict(network.named_buffers())}.values()
    )
    assert elements < sizes["net_last.safetensors"] < 1.1 * elements
    loaded, numbers, _ = model.load_run("one.zip", "last", CPU)
    assert numbers == {"satellite": 1, "drone": 2} and not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.model_1 is loaded.model_2
    # The safetensors package reads the same, with its words for the second names.
    tensors = package.load(unpacked("one.zip")["net_last.safetensors"])
    assert not any(name.startswith("model_2.") for name in tensors)
    (workdir / "plain.safetensors").write_bytes(unpacked("one.zip")["net_last.safetensors"])
    other = model.model_from_opts(opts)
    package.load_model(other, workdir / "plain.safetensors", strict=False)
    assert torch.equal(other.model_2.model.conv1.weight, network.model_2.model.conv1.weight)


def test_options_of_a_bundle(workdir, capsys):
    fails(export.main, ["--bundle", "run"], capsys, "--bundle run: expected a name ending in .zip")
    argv = ["--bundle", "run.zip", "--fp16"]
    fails(export.main, argv, capsys, "--bundle shares the run as it is: leave --fp16 out")
    argv = ["--bundle", "run.zip", "--name", "none"]
    fails(export.main, argv, capsys, "no run folder model/none")


# ---------------------------------------------------------------- it is used as the run is
def test_a_bundle_tests_as_its_run(shared, toy, workdir, capsys):
    quick = ["--test_dir", str(toy), "--num_workers", "0", "--device", "cpu"]
    of_bundle = script.main(["--name", str(shared), *quick])
    assert f"weights: {shared}/net_last.safetensors" in capsys.readouterr().out
    (result,) = (shared.parent / "run" / "result.txt").read_text().splitlines()
    assert not (workdir / "model" / "small").exists()
    (workdir / "kept").rename(workdir / "model" / "small")
    assert script.main(["--name", "small", *quick]) == of_bundle
    assert (workdir / "model/small/result.txt").read_text().splitlines()[-1] == result
    # Unpacked by hand it is a run folder.
    with zipfile.ZipFile(shared) as archive:
        archive.extractall("model/by_hand")
    assert script.main(["--name", "by_hand", *quick]) == of_bundle


def test_the_kept_features_of_a_map_know_the_weights(shared, workdir):
    class opts:
        name, which_epoch, map_view, fp16, bf16, zero_shot = str(shared), "last", "drone", 0, 0, 0

    weights, _ = run_features._identity(opts, {}, "")
    assert weights == unpacked(shared)["net_last.safetensors"]


def test_a_run_starts_from_a_bundle(shared, toy, workdir, capsys):
    assert transfer.find_run(str(shared)) == (shared, shared / "net_last.safetensors")
    train.main(["--name", "new", "--init", str(shared), "--data_dir", str(toy),
                *SMALL[:2], *SMALL[3:], "--epochs", "1", "--train_all"])  # fmt: skip
    assert f"starts from {shared}/net_last.safetensors: all but" in capsys.readouterr().out
    argv = ["--name", str(shared), "--data_dir", str(toy), *SMALL]
    fails(train.main, argv, capsys, f"--name {shared} is a shared run, which is only read")


def test_names_of_bundles(shared, capsys):
    quick = ["--device", "cpu"]
    fails(script.main, ["--name", "absent.zip", *quick], capsys, "no shared run absent.zip")
    argv = ["--name", str(shared), "--which_epoch", "9", *quick]
    fails(script.main, argv, capsys, f"{shared} has its last weights only")


# ---------------------------------------------------------------- what is refused
def rewritten(path, files, change=None, **settings):
    """Write {name: bytes} as a zip without regard to its manifest."""
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = archive.compression
            if change:
                change(member)
            archive.writestr(member, content)


def tampered(case, path):
    """The bundle changed in the way of a `case`."""
    files = unpacked(path)
    manifest = json.loads(files["manifest.json"])
    listed = manifest["files"]

    def listing(name, content):
        """Add or replace a file and its line in the manifest."""
        files[name] = content
        listed[name] = {"bytes": len(content), "sha256": bundle.hashlib.sha256(content).hexdigest()}

    if case in ("../../slip.md", "/tmp/absolute.md", "..\\slip.md", "C:slip.md", "folder/"):
        listing(case, b"")
    elif case == "weights":
        files[bundles.WEIGHTS] = files[bundles.WEIGHTS][:-1] + b"\xff"
    elif case == "card":
        files["README.md"] = files["README.md"][:-2] + b"!\n"
    elif case == "size":
        listed["README.md"]["bytes"] += 1
    elif case == "pickle in place":
        listing(bundles.WEIGHTS, pickle.dumps(print))
    elif case == "torch in place":
        torch.save({"a": torch.zeros(1)}, content := io.BytesIO())
        listing(bundles.WEIGHTS, content.getvalue())
    elif case == "pickle beside":
        listing("net_last.pth", pickle.dumps(print))
    elif case == "weights no tensors":
        listing(bundles.WEIGHTS, b"\x02\0\0\0\0\0\0\0{}")
    elif case == "no weights":
        del files[bundles.WEIGHTS]
    elif case == "no options":
        del files["opts.yaml"], listed["opts.yaml"]
    elif case == "no manifest":
        del files["manifest.json"]
    elif case == "not listed":
        files["more.md"] = b"more"
    elif case == "large text":
        listing("README.md", bundle.hashlib.sha256().digest() * 2**19 + b"!")
    elif case == "other format":
        manifest["format"] = 2
    elif case == "manifest":
        manifest = ["no"]
    elif case == "no number":
        listed["opts.yaml"]["bytes"] = "9" * 99
    if "manifest.json" in files:
        files["manifest.json"] = json.dumps(manifest).encode()
    change = None
    if case == "link":

        def change(member):
            member.external_attr = (0o120777 << 16) * (member.filename == "README.md")

    if case == "bomb":
        listing("README.md", bytes(2**20))
        rewritten(path, files, compression=zipfile.ZIP_DEFLATED)
    elif case == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif case == "damaged":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif case == "no zip":
        path.write_bytes(b"<html>")
    else:
        rewritten(path, files, change)


@pytest.mark.parametrize(("case", "message"), [
    ("weights", "net_last.safetensors has another SHA-256 than manifest.json says"),
    ("card", "README.md has another SHA-256 than manifest.json says"),
    ("size", "bytes, and manifest.json says"),
    ("../../slip.md", "holds '../../slip.md', a path and no plain name"),
    ("/tmp/absolute.md", "holds '/tmp/absolute.md', a path and no plain name"),
    ("..\\slip.md", "slip.md', a path and no plain name"),
    ("C:slip.md", "holds 'C:slip.md', a path and no plain name"),
    ("folder/", "holds 'folder/', a path and no plain name"),
    ("link", "holds 'README.md', a link and no file"),
    ("pickle in place", "net_last.safetensors is no safetensors file, it is a pickle of Python"),
    ("torch in place", "is no safetensors file, it is a zip file"),
    ("pickle beside", "holds 'net_last.pth', and a bundle holds .json, .md, .safetensors, .yaml"),
    ("weights no tensors", "holds no state dict"),
    ("no weights", "lacks net_last.safetensors"),
    ("no options", "lacks opts.yaml"),
    ("no manifest", "holds no manifest.json, so it is no run"),
    ("not listed", "holds more.md, which its manifest.json does not list"),
    ("large text", "README.md has more than 16,777,216 bytes"),
    ("bomb", "README.md, which unpacks to 1,048,576 bytes, more than 100 times its size"),
    ("other format", "is of format 2, expected 1"),
    ("no number", "has a manifest.json of another kind"),
    ("manifest", "has a manifest.json of another kind"),
    ("truncated", "is no whole zip file (File is not a zip file)"),
    ("damaged", "is no whole zip file (Bad CRC-32 for file 'net_last.safetensors')"),
    ("no zip", "is no whole zip file"),
])  # fmt: skip
def test_what_a_bundle_may_not_be(shared, workdir, capsys, case, message):
    tampered(case, shared)
    before = sorted(workdir.rglob("*"))
    argv = ["--name", str(shared), "--device", "cpu", "--num_workers", "0"]
    fails(script.main, argv, capsys, shared, message)
    assert sorted(workdir.rglob("*")) == before


def test_a_bundle_that_lies_about_its_sizes(shared, workdir):
    """No more is unpacked than is said: the limit holds for what comes out."""
    rewritten(shared, unpacked(shared), compression=zipfile.ZIP_DEFLATED)
    assert model.load_run(str(shared), "last", CPU)  # packed anew by hand it is the same
    content = bytearray(shared.read_bytes())
    for start in (0, content.rindex(b"manifest.json") - 46):
        assert content[start : start + 2] == b"PK"
    large = content.rindex(b"manifest.json") - 46 + 20  # where the directory has its packed size
    content[large : large + 4] = (2**31).to_bytes(4, "little")
    shared.write_bytes(content)
    with pytest.raises(ValueError, match="says that it holds more than its size"):
        utils.read_opts(shared)


def test_the_original_is_not_needed(shared, workdir):
    shutil.rmtree(workdir / "kept")
    network, _, opts = model.load_run(str(shared), "last", CPU)
    assert opts["nclasses"] == 8 and network.classifier.classifier[0].out_features == 8


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("hf:/home/someone/models/minilm", "hf:minilm"),
        ("hf:sentence-transformers/all-MiniLM-L6-v2", "hf:sentence-transformers/all-MiniLM-L6-v2"),
        ("open_clip:ViT-B-32//home/someone/w.pt", "open_clip:ViT-B-32/w.pt"),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        ("resnet50", "resnet50"),
    ],
)
def test_folders_of_weights_stay_at_home(name, shared):
    found = bundle.shared_options({"text_backbone": name, "backbone": name, "pool": "avg"})
    assert found == {"text_backbone": shared, "backbone": shared, "pool": "avg"}


def test_commands_of_the_card_can_be_pasted(small_run, workdir, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    export.main(["--name", "small", "--bundle", "it's; ls.zip"])
    card = (small_run / "model_card.md").read_text()
    assert card.count("--name 'it'\"'\"'s; ls.zip' --") == 2 and 'run="it\'s; ls.zip"' in card
