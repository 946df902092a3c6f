"""Every command of the tutorial, run in its order in one folder, as a reader would."""

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from conftest import NARROW

import test
from imaging.files import scan_classes

ROOT = Path(__file__).resolve().parent.parent
# Added to a command, of which the last word on an option counts: smaller, with the same files,
# flags and order. 18 x 13 drone queries are enough for --query_index 233.
SMALLER = {
    "prepare.py toy": "--num_train 3 --num_test 18 --num_distractors 2 --drone_frames 13 "
    "--image_size 32 --num_workers 0 --map_plots 3 --flight_photos 4",
    "train.py": f"--backbone {NARROW} --no_pretrained --h 32 --w 32 --pad 2 --batchsize 4 "
    "--epochs 1 --num_workers 0",
    "--which_epoch 59": "--which_epoch last",
    "test.py": "--num_workers 0",
    "--weather all": "--weather fog",
    "--perturb rotate=0:180:30": "--perturb rotate=0,90",
}


def commands(page):
    """The commands of a page in their order, those of blocks and those within a sentence."""
    code = re.findall(r"^ *```bash\n(.*?)^ *```|`(python [^`]+)`", page.read_text(), re.M | re.S)
    return [line.strip() for both in code for line in "".join(both).splitlines()]


def run(line):
    """Run a command in this process, smaller."""
    if "--resume" not in line:
        line = " ".join([line, *(more for part, more in SMALLER.items() if part in line)])
    _, script, *options = shlex.split(line)
    if "--init" in options:  # which takes all weights from another run
        options.remove("--no_pretrained")
    return importlib.import_module(script.removesuffix(".py")).main(options)


def fill_in_feature_files(workdir):
    """Those of DenseUAV and University-160k, which the reference scores, made of the toy campus."""
    test.main(["--name", "toy", "--test_dir", "data/toy", "--output", "denseuav.npz"])
    shutil.copy("denseuav.npz", "160k.npz")
    for name in ("denseuav", "160k"):
        (workdir / "data" / name).mkdir()
    shutil.copy("data/toy/coordinates.csv", "data/denseuav")
    names = scan_classes(workdir / "data/toy/test/query_drone").items()
    lines = [f"{name}/{path.name}" for name, paths in names for path in paths]
    (workdir / "data/160k/query_drone_name.txt").write_text("\n".join(lines))


def test_every_command_of_the_tutorial_runs_in_its_order(toy, workdir, capsys):
    shutil.copy(ROOT / ".gitignore", workdir)
    (workdir / "recipes").symlink_to(ROOT / "recipes")
    (workdir / "your_data_path").symlink_to(toy)
    lines = commands(ROOT / "tutorial" / "README.md")
    assert len(lines) > 25
    for line in lines:
        if "denseuav.npz" in line:
            fill_in_feature_files(workdir)
        run(line)
        # Every picture and score is of the test that went before it.
        assert "is older than" not in capsys.readouterr().err
    assert {"views.jpg", "show.png", "weather.jpg", "mistakes.png", "answer.zip"} <= {
        path.name for path in workdir.iterdir()
    }
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q"], check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=all"]
        left = subprocess.run(status, check=True, capture_output=True, text=True).stdout
        assert left.split()[1::2] == [".gitignore", "recipes", "your_data_path"]
