"""README and tutorial against the real parsers and sources; the house rules about imports."""

import argparse
import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from test_house import ROOMS, SOURCES, imports_of

import training.options

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "tutorial" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "recipes" / "README.md",
    ROOT / "COMPATIBILITY.md",
    ROOT / "imaging" / "weather.md",
)


def fenced(page, language):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)


def commands():
    for page in PAGES:
        text = page.read_text()
        shown = [line for block in fenced(page, "bash") for line in block.splitlines()]
        inline = re.findall(r"`((?:python|torchrun|make) [^`]+)`", text)
        for line in [*shown, *inline]:
            line = line.split("#")[0].strip()
            if line:
                yield pytest.param(page, line, id=f"{page.parent.name}: {line}"[:90])


def load_script(path, monkeypatch):
    """A script as a module; those of benchmarks/ by path, since the root has some equal names."""
    if path.parent == ROOT:
        return importlib.import_module(path.stem)
    monkeypatch.syspath_prepend(str(path.parent))  # for `import measure`
    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_every_command_in_the_pages_is_real(page, line, monkeypatch):
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets
        return
    if words[0] == "pip":
        assert words[1:3] == ["install", "-r"] and (ROOT / words[3]).is_file()
        return
    if words[0] == "torchrun":
        words = ["python", *words[words.index("--nproc_per_node") + 2 :]]
    assert words[0] == "python", line
    script = ROOT / words[1]
    assert script.is_file(), words[1]
    module = load_script(script, monkeypatch)
    if "--resume" in words:  # needs a run folder: the parser alone
        assert training.options.build_parser().parse_args(words[2:]).resume
    else:
        assert isinstance(module.parse_args(words[2:]), argparse.Namespace)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b, id=b.strip().splitlines()[0][:60])
        for p in PAGES
        for b in fenced(p, "python")
    ],
)
def test_every_excerpt_in_the_pages_is_in_the_source(block):
    assert any(block in path.read_text() for path in SOURCES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_link_and_picture_exists(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings, anchor


def test_every_published_defect_is_tested_or_explained():
    """Rows 1 to 34: a test whose docstring names the number, or a row saying why not."""
    named = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for sentence in re.findall(r'"""Published defects? ([^:]+):', path.read_text()):
            for first, last in re.findall(r"(\d+)(?: to (\d+))?", sentence):
                named.update(range(int(first), int(last or first) + 1))
    rows = re.findall(r"^\| ([\d, -]+) \|(.*)$", (ROOT / "COMPATIBILITY.md").read_text(), re.M)
    listed, impossible = set(), set()
    for numbers, text in rows:
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
            span = range(int(first), int(last or first) + 1)
            listed.update(span)
            if "cannot occur" in text:
                impossible.update(span)
    assert listed == set(range(1, 35))
    assert set(range(1, 35)) - named - impossible == set()


def test_the_pages_know_the_size_of_the_toy_campus():
    """The commands of the tutorial must fit what `prepare.py toy` makes by default."""
    import prepare

    toy = prepare.parse_args(["toy"])
    assert toy.num_test * toy.drone_frames > 233  # demo.py --query_index 233
    readme, tutorial = (page.read_text() for page in PAGES[:2])
    gallery = toy.num_test + toy.num_distractors
    sentence = f"drone photos of {toy.num_test} buildings searched among the satellite images of"
    assert f"{sentence} {gallery}" in readme
    assert f"the toy campus has {toy.num_train} training buildings" in tutorial


def test_the_tutorial_trains_as_make_demo_does():
    import train

    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    options = re.search(r"^TOY_OPTIONS := (.*) \$\(BF16\)$", makefile, re.M).group(1)
    made = train.parse_args(
        ["--name", "toy", "--train_all", "--data_dir", "data/toy", *options.split()]
    )
    shown = [line for block in fenced(PAGES[1], "bash") for line in block.splitlines()]
    (command,) = [line for line in shown if "--name toy --train_all" in line]
    assert train.parse_args(shlex.split(command)[2:]) == made


def test_requirements_list_what_is_imported():
    """Published defect 32: requirement.txt named three packages."""
    modules = {
        "yaml": "pyyaml",
        "PIL": "Pillow",
        "pytorch_metric_learning": "pytorch-metric-learning",
    }
    lines = (ROOT / "requirements.txt").read_text().split()
    listed = {re.split(r"[<>=]", line)[0] for line in lines}
    assert all(">=" in line for line in lines)
    imported = {name for path in SOURCES for name in imports_of(ast.parse(path.read_text()))}
    local = {source.stem for source in SOURCES} | set(ROOMS)
    third_party = imported - local - set(sys.stdlib_module_names)
    assert {modules.get(name, name) for name in third_party} == listed
    table = (ROOT / "README.md").read_text().split("## Packages")[1]
    assert all(name in table for name in listed)


def test_every_requirement_has_an_oldest_version():
    """`make test-oldest` pins `package>=version`, each of which stands in one file."""
    listed = []
    for path in ROOT.glob("requirements*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith(("#", "-r"))]
        assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in lines), path
        listed += [line.split(">=")[0].lower() for line in lines]
    assert len(listed) == len(set(listed))
    development = (ROOT / "requirements-dev.txt").read_text()
    others = {path.name for path in ROOT.glob("requirements*.txt")} - {"requirements-dev.txt"}
    assert others == set(re.findall(r"^-r (.*)$", development, re.M))
