"""Run folders, checkpoints, atomic files, devices and the reporting of errors."""

import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import utils
from runtime import files, processes, progress, startup
from runtime.cli import script


def test_replacing_never_leaves_half_a_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_script_reports_one_line_and_code_2(capsys):
    @script
    def main(argv=None):
        raise ValueError("found a, expected b: use --c")

    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "test_utils.py: error: found a, expected b: use --c\n"


def test_script_shows_the_line_of_a_worker_process(capsys):
    @script
    def main(argv=None):
        raise OSError("Caught OSError in worker.\nTraceback ...\nOSError: a.jpg cannot be read\n")

    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err == "test_utils.py: error: a.jpg cannot be read\n"


def test_script_keeps_the_traceback_of_a_defect(monkeypatch):
    @script
    def main(argv=None):
        raise KeyError(argv) if argv else ValueError("asked for")

    with pytest.raises(KeyError):
        main(["defect"])
    monkeypatch.setenv("GEO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="asked for"):
        main([])


def test_out_of_memory_is_one_line(capsys):
    @script
    def main(argv=None):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")

    with pytest.raises(SystemExit):
        main([])
    message = capsys.readouterr().err
    assert message == "test_utils.py: error: out of memory: lower --batchsize, or --h and --w\n"

    @script
    def defect(argv=None):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError):
        defect([])


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


@pytest.mark.parametrize(("setting", "calls"), [("0", 0), ("1", 2), (None, 2)])
def test_freed_memory_is_kept_unless_told_not_to(monkeypatch, setting, calls):
    made = []
    libc = types.SimpleNamespace(
        gnu_get_libc_version=None, mallopt=lambda name, value: made.append((name, value)) or 1
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    monkeypatch.delenv("GEO_KEEP_MEMORY", raising=False)
    if setting:
        monkeypatch.setenv("GEO_KEEP_MEMORY", setting)
    startup.keep_freed_memory()
    assert len(made) == calls


def test_seed_depends_on_seed_and_epoch():
    def draw(*args):
        utils.seed_everything(*args)
        return torch.rand(3).tolist()

    assert draw(1, 2) == draw(1, 2) != draw(1, 3)
    assert draw(2, 2) != draw(1, 2)
    assert draw(10**30, 2) != draw(1, 2)
    assert draw(1, 2, 0) == draw(1, 2) != draw(1, 2, 1)


@pytest.mark.parametrize("name", ["train", "test", "evaluate_gpu", "demo", "prepare"])
def test_help_is_quick_and_complete(name):
    """Published defect 7: `train.py --help` crashed. Help also must not wait for torch."""
    code = (
        f"import sys, {name}\n"
        "try:\n"
        f"    {name}.main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(utils.__file__).parent
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


def test_stopwatch_counts_what_its_items_take():
    """Not what is done with them in between."""

    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    watch, seen, began = progress.Stopwatch(slow()), [], time.perf_counter()
    for number in watch:
        time.sleep(0.05)
        seen.append(number)
    total = time.perf_counter() - began
    assert seen == [0, 1, 2] and 0.06 <= watch.seconds <= total - 0.15


def test_what_torch_makes_at_its_import_is_no_business_of_the_collector():
    """Hundred thousands of objects are set aside, and the collector works again afterwards."""
    code = (
        "import gc, sys; from runtime import startup;"
        "startup.import_torch(); frozen = gc.get_freeze_count();"
        "startup.import_torch();"
        "print(gc.isenabled(), 'torchvision' in sys.modules, frozen, gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    enabled, imported, frozen, after = done.stdout.split()
    assert (enabled, imported) == ("True", "True")
    assert int(frozen) > 100_000 and after == frozen
