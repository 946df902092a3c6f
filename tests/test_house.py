"""The plan of the house: which file may import which, how long files and functions may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "runtime", "networks", "imaging", "evaluation", "training", "sources", "locating", "deploy"
)  # fmt: skip
SOURCES = sorted([*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))])
DOORS = {"prepare", "train", "test", "evaluate_gpu", "demo", "locate", "export"}
GROUND = {"runtime"}
# Of each room and each file at the top: what it may import beside itself. Doors may import all
# but doors.
MAY_IMPORT = {
    "runtime": set(),
    "utils": GROUND,
    "random_erasing": set(),
    "losses": GROUND | {"utils", "networks"},
    "networks": GROUND | {"utils"},
    "imaging": GROUND | {"utils", "random_erasing"},
    "evaluation": GROUND | {"utils"},
    "model": GROUND | {"utils", "networks", "imaging"},
    "dataset": GROUND | {"utils", "imaging"},
    "extract": GROUND | {"utils", "imaging", "dataset", "networks", "evaluation"},
    "zero_shot": GROUND | {"utils", "imaging", "networks", "model", "deploy"},
    "evaluate_gpu": GROUND | {"utils", "evaluation"},
}
LIBRARY = {"model", "dataset", "losses", "extract", "utils", "random_erasing", "zero_shot"}
MAY_IMPORT["sources"] = GROUND | LIBRARY | {"imaging", "evaluation", "locating"}
MAY_IMPORT["locating"] = GROUND | LIBRARY | {"imaging", "evaluation", "networks", "deploy"}
MAY_IMPORT["training"] = GROUND | LIBRARY | {"imaging", "evaluation", "networks"}
MAY_IMPORT["deploy"] = GROUND | LIBRARY | {"imaging", "evaluation", "networks"}
MAY_IMPORT["hubconf"] = GROUND | LIBRARY | {"networks", "training"}
for door in DOORS - {"evaluate_gpu"}:
    MAY_IMPORT[door] = GROUND | LIBRARY | {*ROOMS, "evaluate_gpu"}


def place_of(path):
    """The room of a file, or its own name at the top."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(tree):
    """Top-level names of what a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def forbidden(place, source):
    """What the source text of a place imports and must not."""
    local = {place_of(path) for path in SOURCES}
    return set(imports_of(ast.parse(source))) & local - {place} - MAY_IMPORT[place]


def functions(path):
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    assert not forbidden(place_of(path), path.read_text())


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("evaluation", "import evaluate_gpu"),
        ("training", "def f():\n    from train import main"),
        ("sources", "import prepare"),
        ("networks", "from model import build_model"),
        ("runtime", "import utils"),
        ("evaluation", "from imaging import weather"),
        ("train", "import test"),
    ],
)
def test_a_planted_import_is_found(place, line):
    assert forbidden(place, line)


def test_imports_make_no_circle():
    """Between files: at import time none waits for one that waits for it."""
    modules = {}
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = path
    edges = {}
    for name, path in modules.items():
        found = set()
        for node in ast.parse(path.read_text()).body:  # deferred imports wait for nothing
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found.update(inner if inner & modules.keys() else {node.module})
        edges[name] = found & modules.keys()
    while edges:
        leaves = {name for name, found in edges.items() if not found & edges.keys()}
        assert leaves, f"in a circle: {sorted(edges)}"
        edges = {name: found for name, found in edges.items() if name not in leaves}


def test_the_top_has_few_files():
    assert len(list(ROOT.glob("*.py"))) <= 15


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    limits = {"train.py": 320, "utils.py": 300}
    assert path.read_text().count("\n") <= limits.get(path.name, 500)
    long = {f.name: n for f in functions(path) if (n := f.end_lineno - f.lineno + 1) > 60}
    assert not long


def test_train_begins_with_its_loop():
    ends = {f.name: f.end_lineno for f in functions(ROOT / "train.py")}
    assert ends["main"] <= 60 and ends["run_epochs"] <= 110


def test_few_imports_are_deferred():
    deferred = {}
    for path in SOURCES:
        for function in functions(path):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    deferred[path, node.lineno] = ast.unparse(node)
    assert len(deferred) <= 25, deferred.values()


def test_the_plain_baseline_is_a_short_read():
    plain = ("train", "training/engine", "model", "dataset", "losses", "extract", "test")
    lines = [(ROOT / f"{name}.py").read_text().count("\n") for name in (*plain, "evaluate_gpu")]
    assert sum(lines) < 2400


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_at_import(path):
    """At module level only imports, constants, definitions and the two-line guard."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_guard = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        # A package that may be missing: `try: import x`, else `x = None`.
        is_optional = isinstance(node, ast.Try) and all(
            isinstance(inner, (ast.Import, ast.Assign))
            for inner in [*node.body, *(line for each in node.handlers for line in each.body)]
        )
        fits = isinstance(node, allowed) or is_docstring or is_guard or is_optional
        assert fits, ast.unparse(node)[:80]


def test_no_file_hides_a_module():
    """A package `model/` would hide model.py, and data.py would clash with data/."""
    assert not (ROOT / "model" / "__init__.py").exists()
    assert not any((ROOT / name).exists() for name in ("data.py", "prepare", "test"))
    assert not {*ROOMS, *DOORS, *LIBRARY} & set(sys.stdlib_module_names) - {"test"}
