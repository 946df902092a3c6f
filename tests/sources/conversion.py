"""What the tests of converters share: expected paths, the files made, a whole run on them."""

import csv

from conftest import SMALL

import prepare
import test as test_script
import train


def braces(text):
    """{"a/1/x", "a/2/x"} of "a/{1,2}/x", as a shell expands it."""
    head, brace, rest = text.partition("{")
    if not brace:
        return {text}
    inner, _, tail = rest.partition("}")
    return {head + part + end for part in inner.split(",") for end in braces(tail)}


def expand(*texts):
    return set().union(*map(braces, texts))


def tree(root):
    """Relative paths of all files."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def made(root, *sidecars):
    """The images of a prepared folder; asserts which other files there are."""
    files = tree(root)
    assert {"prepare.yaml", *sidecars} <= files
    return files - {"prepare.yaml", *sidecars}


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def prepare_data(*argv):
    return prepare.main([str(part) for part in argv])


def train_and_test(data, views, query, gallery):
    """Check, train an epoch on two views, test on one task; returns the metrics."""
    prepare.main(["check", str(data)])
    run = ["--name", "run", "--data_dir", str(data), "--views", views, "--train_all"]
    train.main([*SMALL, *run, "--epochs", "1", "--overwrite"])
    task = ["--query", query, "--gallery", gallery, "--num_workers", "0", "--device", "cpu"]
    return test_script.main(["--name", "run", "--test_dir", str(data), *task])
