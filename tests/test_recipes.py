"""The files in recipes/: what they say, and that train.py does it."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL

import train
import utils
from runtime import cli
from training.options import view_names

RECIPES = sorted(Path(__file__).resolve().parent.parent.glob("recipes/*.yaml"))
# Recall@1 and AP, drone to satellite and back, of the publications; None: ours, none published.
PUBLISHED = {
    "baseline": (58.23, 62.91, 74.47, 59.45),
    "baseline_gem": (65.32, 69.61, 79.03, 65.35),
    "lpn": (75.93, 79.14, 86.45, 74.79),
    "rknet": (66.13, 70.23, 80.17, 65.76),
    "rknet_lpn": (77.60, 80.55, 86.59, 75.96),
    "dwdr": (69.77, 73.73, 81.46, 70.45),
    "sample4geo": (92.65, 93.81, 95.14, 91.39),
    "musenet": (65.15, 69.16, 84.68, 65.75),
    "strong": None,
}


def test_all_recipes_are_there():
    assert set(PUBLISHED) <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_where_it_comes_from(path):
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert {"source", "protocol", "samples", "options"} <= content.keys()
    assert re.search("full gallery|without distractors", content["protocol"])
    if PUBLISHED.get(path.stem):
        numbers = content["published"]
        assert (*numbers["drone_satellite"], *numbers["satellite_drone"]) == PUBLISHED[path.stem]
    if "published" in content:
        assert "published, not re-run here" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_what_the_run_gets(path):
    opts = vars(train.parse_args(["--config", str(path)]))
    for name, value in cli.read_config(path).items():
        key = "view_names" if name == "views" else name
        expected = view_names(str(value)) if name == "views" else value
        if name == "loss_weights":
            assert {**opts[key], **value} == opts[key]
        else:
            assert opts[key] == expected, name


def test_strong_interrupted_equals_unbroken(toy, workdir):
    strong = next(path for path in RECIPES if path.stem == "strong")
    options = ["--config", strong, "--data_dir", toy, *SMALL, "--train_all", "--epochs", "3"]
    train.main([*map(str, options), "--name", "unbroken"])
    original = train.save_epoch

    def stop_after_first(run_dir, training, data, epoch, log):
        original(run_dir, training, data, epoch, log)
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(train, "save_epoch", stop_after_first)
        train.main([*map(str, options), "--name", "broken"])
    train.main(["--name", "broken", "--resume"])
    first, second = (
        utils.load_tensors(Path("model", name, "net_last.pth")) for name in ("unbroken", "broken")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
