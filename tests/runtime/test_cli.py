"""The script guard, and the help of every door."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runtime.cli import script


def test_script_reports_one_line_and_code_2(capsys):
    @script
    def main(argv=None):
        raise ValueError("found a, expected b: use --c")

    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "test_cli.py: error: found a, expected b: use --c\n"


def test_script_shows_the_line_of_a_worker_process(capsys):
    @script
    def main(argv=None):
        raise OSError("Caught OSError in worker.\nTraceback ...\nOSError: a.jpg cannot be read\n")

    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err == "test_cli.py: error: a.jpg cannot be read\n"


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
    assert message == "test_cli.py: error: out of memory: lower --batchsize, or --h and --w\n"

    @script
    def defect(argv=None):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError):
        defect([])


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
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
