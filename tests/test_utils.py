"""Run folders, checkpoints, atomic files, devices and the reporting of errors."""

import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

import utils
from runtime import processes


def test_opts_round_trip_and_errors(tmp_path):
    opts = {"h": 256, "view_names": ["satellite", "drone"], "lr": 0.01, "weights": None}
    utils.write_opts(tmp_path, opts)
    assert utils.read_opts(tmp_path) == opts
    (tmp_path / "opts.yaml").write_text("a: [1\nb: {")
    with pytest.raises(ValueError, match=r"opts\.yaml is not YAML"):
        utils.read_opts(tmp_path)
    (tmp_path / "opts.yaml").write_text("just words")
    with pytest.raises(ValueError, match="holds a str"):
        utils.read_opts(tmp_path)
    with pytest.raises(FileNotFoundError, match="--name absent"):
        utils.read_opts(tmp_path / "absent")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp"])
def test_run_names_stay_inside_model(name):
    with pytest.raises(ValueError, match="--name"):
        utils.run_folder(name)


def test_checkpoint_by_number_not_by_name(tmp_path):
    for name in ("net_009", "net_999", "net_1009"):
        (tmp_path / f"{name}.pth").touch()
    assert utils.find_checkpoint(tmp_path).name == "net_1009.pth"
    assert utils.find_checkpoint(tmp_path, "9").name == "net_009.pth"
    with pytest.raises(FileNotFoundError, match="'7'.*can be 9, 999, 1009"):
        utils.find_checkpoint(tmp_path, "7")
    (tmp_path / "net_last.pth").touch()
    assert utils.find_checkpoint(tmp_path).name == "net_last.pth"


def test_missing_run_lists_the_runs_there_are(tmp_path):
    utils.write_opts(tmp_path / "good", {"a": 1})
    with pytest.raises(FileNotFoundError, match="there are good; check the name"):
        utils.find_checkpoint(tmp_path / "bad")


def test_weights_with_wrapper_prefixes_load(tmp_path):
    """Checkpoints of DataParallel and compiled networks load into the plain one."""
    network = torch.nn.Linear(2, 3)
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        state = {prefix + key: value + 1 for key, value in network.state_dict().items()}
        utils.save_tensors(tmp_path / "net.pth", state)
        loaded = torch.nn.Linear(2, 3)
        utils.load_weights(loaded, tmp_path / "net.pth")
        assert torch.equal(loaded.weight, network.weight + 1)
    utils.save_tensors(tmp_path / "net.pth", {**network.state_dict(), **state})
    with pytest.raises(ValueError, match="net.pth holds weights twice"):
        utils.load_weights(loaded, tmp_path / "net.pth")


def test_weights_of_another_network_are_named(tmp_path):
    utils.save_tensors(tmp_path / "net.pth", torch.nn.Linear(2, 4).state_dict())
    with pytest.raises(ValueError, match=r"2 of 2 entries differ, first bias is \(4,\), expected"):
        utils.load_weights(torch.nn.Linear(2, 3), tmp_path / "net.pth")


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "net.pth"
    utils.save_tensors(path, {"a": torch.zeros(1000)})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"not a checkpoint", b"", whole[::-1], b"\x80\x02}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"net\.pth is not a readable torch checkpoint") as e:
            utils.load_tensors(path)
        told = str(e.value)  # without torch's advice to run whatever the file holds
        assert ": it is " in told or told.endswith("copy or download it again")
        assert "\n" not in told and "weights_only" not in told and len(told) < 300


def test_a_byte_that_changed_is_noticed(tmp_path):
    """torch itself compares no checksums: the weights were loaded as they were."""
    path = tmp_path / "net.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor(500.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="net/data/0 in it is damaged: copy the file again"):
        utils.load_tensors(path)


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta", "numbered"])
def test_entries_that_are_no_plain_tensors_are_refused(tmp_path, kind):
    network = torch.nn.Linear(2, 3)
    state = dict(network.state_dict())
    if kind == "sparse":
        state["weight"] = state["weight"].to_sparse()
    elif kind == "quantized":
        state["weight"] = torch.quantize_per_tensor(state["weight"], 1.0, 0, torch.qint8)
    elif kind == "meta":
        state["weight"] = state["weight"].to("meta")
    else:
        state[1] = torch.zeros(2)
    torch.save({"net": state}, tmp_path / "net.pth")
    words = "1 of 2 entries differ, first 1 is" if kind == "numbered" else "holds weight, a tensor"
    with pytest.raises(ValueError, match=words) as caught:
        utils.load_weights(network, tmp_path / "net.pth")
    assert "\n" not in str(caught.value)


def pickle_plainly(content, path):
    path.write_bytes(pickle.dumps(content))


class Code:
    """A pickle of it calls a function when it is opened."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Code(), "it holds (posix|nt).system, an object and no tensor, which may run any code"),
        ({"state_dict": {}, "best": np.float64(1)}, "it holds numpy.*scalar.*numbers as float"),
        (torch.nn.Linear(2, 3), "it holds torch.nn.*Linear, .*network.state_dict"),
        (b"<html>", "it is a web page or XML: download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"\x93NUMPY", "it is a .npy array"),
        (b"", "it is empty"),
        (b"\x10\0\0\0\0\0\0\0{", "is not a readable torch checkpoint: "),
    ],
)
@pytest.mark.parametrize("save", [torch.save, pickle_plainly])
def test_what_is_no_checkpoint_is_named(workdir, content, words, save):
    path = workdir / "net.pth"
    path.write_bytes(content) if isinstance(content, bytes) else save(content, path)
    if save is pickle_plainly and not isinstance(content, bytes):
        words = "it is a pickle of Python objects, which is not opened"
    with pytest.raises(ValueError, match=words) as caught:
        utils.load_state_dict(path)
    assert "\n" not in str(caught.value) and "net.pth is not a readable" in str(caught.value)
    assert [each.name for each in workdir.iterdir()] == ["net.pth"]  # no code ran


def test_a_torchscript_archive_is_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still around
        torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "net.pth")
    with pytest.raises(ValueError, match="it is a TorchScript archive: save torch.save"):
        utils.load_tensors(tmp_path / "net.pth")


@pytest.mark.parametrize("name", utils.WRAPPERS)
def test_known_wrappers_are_opened(tmp_path, name):
    network = torch.nn.Linear(2, 3)
    torch.save({"epoch": 3, name: network.state_dict(), "optimizer": {}}, tmp_path / "net.pth")
    loaded = torch.nn.Linear(2, 3)
    utils.load_weights(loaded, tmp_path / "net.pth")
    assert torch.equal(loaded.weight, network.weight)


def test_safetensors_are_loaded(tmp_path):
    """The format's example by hand: eight bytes of length, JSON, the tensors' bytes."""
    tensors = {
        "a": torch.randn(2, 3), "b": torch.tensor(7), "c": torch.randn(4).bfloat16(),
        "d": torch.empty(0, 3), "e": torch.tensor([True, False])
    }  # fmt: skip
    names = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16", torch.bool: "BOOL"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
        offsets = [len(data), len(data) + len(raw)]
        shape, data = list(tensor.shape), data + raw
        header[name] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    loaded = utils.load_state_dict(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    for size in range(9, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not a readable torch checkpoint"):
            utils.load_tensors(path)


def test_devices(monkeypatch):
    """Published defects 5 and 25: data and network were sent to a GPU that was not there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert utils.select_device("auto", "0").type == "cpu"
    assert utils.select_device("auto", "-1").type == "cpu"
    with pytest.raises(ValueError, match="--gpu_ids 3 asked for.*shows 0 GPU"):
        utils.select_device("auto", "3")
    with pytest.raises(ValueError, match="shows 0 GPU"):
        utils.select_device("cuda", "0")
    with pytest.raises(ValueError, match="not a GPU number"):
        utils.select_device("auto", "first")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert utils.select_device("auto", "1") == torch.device("cuda", 1) and current == [1]
    assert utils.select_device("cpu", "1").type == "cpu"


def test_devices_of_several_processes(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "4"), ("RANK", "3"),
                        ("LOCAL_RANK", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (3, 4, False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert utils.select_device("auto", "0").type == "cpu"
    with pytest.raises(ValueError, match="torchrun gives each process its own GPU"):
        utils.select_device("auto", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert utils.select_device("auto", "0") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 2 on this machine, which shows 1 GPU"):
        utils.select_device("auto", "0")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # as a cluster's scheduler leaves it
    assert processes.world_size() == 1 and processes.is_main()


def test_several_gpus_are_refused():
    """Published defect 26: `--gpu_ids 0,1` used the first one only and said nothing."""
    with pytest.raises(ValueError, match="names several GPUs"):
        utils.select_device("auto", "0,1")


def test_seed_depends_on_seed_and_epoch():
    def draw(*args):
        utils.seed_everything(*args)
        return torch.rand(3).tolist()

    assert draw(1, 2) == draw(1, 2) != draw(1, 3)
    assert draw(2, 2) != draw(1, 2)
    assert draw(10**30, 2) != draw(1, 2)
    assert draw(1, 2, 0) == draw(1, 2) != draw(1, 2, 1)
