"""Run folders, checkpoints, atomic files, devices and the reporting of errors."""

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
    with pytest.raises(FileNotFoundError, match="there are good; check --name"):
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
        with pytest.raises(ValueError, match=r"net\.pth is not a readable torch checkpoint"):
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
