"""The script guard, and the help of every door."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import fails
from test_house import LIBRARY

import evaluate_gpu
import export
import locate
import prepare
import test
import train
from runtime.cli import script

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("name", ["train", "test", "evaluate_gpu", "demo", "prepare", "export"])
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
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "test",
        "evaluate_gpu",
        "demo",
        "export",
        "prepare",
        *(f"prepare {n}" for n in prepare.COMMANDS),
    ],
)
def test_help_tells_defaults_that_are_some_and_ends_with_an_example(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    door, *words = command.split()
    main = importlib.import_module(door)
    monkeypatch.setattr(sys, "argv", [f"{door}.py"])
    with pytest.raises(SystemExit):
        main.main([*words, "--help"])
    text = capsys.readouterr().out
    assert "default: None" not in text and "default: []" not in text and "default: ()" not in text
    example = text.splitlines()[-1]
    assert example.startswith(f"example: python {' '.join([f'{door}.py', *words])}")
    main.parse_args(shlex.split(example)[3:])


@pytest.mark.parametrize(
    ("main", "words", "meant"),
    [
        (train.main, ["--learning_rate", "0.1"], "--learning_rate 0.1 (did you mean --lr?)"),
        (train.main, ["--batch-size=8"], "(did you mean --batchsize?)"),
        (train.main, ["--epoch", "3"], "(did you mean --epochs?)"),
        (train.main, ["--dropout", "0.1"], "(did you mean --droprate?)"),
        (train.main, ["--height", "64"], "(did you mean --h?)"),
        (test.main, ["--gpu", "0"], "(did you mean --gpu_ids?)"),
        (evaluate_gpu.main, ["--rerankk", "gnn"], "(did you mean --rerank?)"),
        (prepare.main, ["toy", "--seeed", "3"], "(did you mean --seed?)"),
        (export.main, ["--bundel", "a.zip"], "--output is required (did you mean --bundle?)"),
        (locate.main, ["--mapp", "a", "b.jpg"], "are required: --map (did you mean --map?)"),
        (locate.main, ["--top", "3", "b.jpg"], "are required: --map (see --help)"),
        (train.main, ["--momentum", "0.9"], "unrecognized arguments: --momentum 0.9 (see --help)"),
        (train.main, ["extra"], "unrecognized arguments: extra (see --help)"),
    ],
)
def test_an_unknown_option_is_answered_by_the_one_that_is_meant(main, words, meant, capsys):
    fails(main, words, capsys, meant)


def test_an_unknown_option_of_a_recipe_too(workdir, capsys):
    Path("mine.yaml").write_text("options:\n  learning_rate: 0.1\n")
    expected = "mine.yaml sets --learning_rate", "remove it (did you mean --lr?)"
    fails(train.main, ["--config", "mine.yaml"], capsys, *expected)


TALKER = """
import sys
from runtime.cli import Parser, script
@script
def main(argv=None):
    Parser().parse_args(sys.argv[1:])
    for line in range({lines}):
        print("line", line, flush={flush})
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("lines", "flush"), [(20000, False), (20000, True), (3, False)])
def test_a_reader_that_goes_is_no_error(workdir, lines, flush):
    """`| head`: nothing on stderr, not even from the interpreter's end, and the code of SIGPIPE."""
    Path("talker.py").write_text(TALKER.format(lines=lines, flush=flush))
    command = [sys.executable, "talker.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_a_pipe_to_another_process_that_breaks_is_an_error(capsys):
    """As of a worker that ends while it starts; only readers of the output end a script mutely."""

    @script
    def main(argv=None):
        raise BrokenPipeError(32, "Broken pipe")

    fails(main, [], capsys, "Broken pipe")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_script_without_stdout_and_stderr_prints_to_nowhere(workdir):
    Path("talker.py").write_text(TALKER.format(lines=3, flush=True))
    command = f"exec {sys.executable} talker.py >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", command], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("carried", "line"),
    [((), "interrupted\n"), (("go on with: a",), "interrupted; go on with: a\n")],
)
def test_an_interruption_is_one_short_line(carried, line, capsys):
    @script
    def main(argv=None):
        raise KeyboardInterrupt(*carried)

    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 130 and capsys.readouterr().err == line


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_a_library_file_names_the_script_to_run(name):
    done = subprocess.run([sys.executable, ROOT / f"{name}.py"], capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert re.match(rf"{name}.py is a library: run (train|test).py", done.stderr)
    assert len(done.stderr.splitlines()) == 1
