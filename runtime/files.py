"""Files written in one step, and YAML."""

import os
from contextlib import contextmanager
from pathlib import Path

import yaml


@contextmanager
def replacing(path):
    """Yield a temporary path in the folder of `path`; it becomes `path` if the block succeeds.

    A reader sees the old file or the new one, never half of one, whenever the process is killed.
    The temporary name keeps the suffix, from which many writers derive the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file in one step (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_yaml(path, values):
    """Write a dict of plain Python values as YAML in one step (see `replacing`)."""
    write_text(path, yaml.safe_dump(values, sort_keys=True))


def read_yaml(path):
    """Read a YAML file that holds a dict; ValueError says what it holds instead."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): restore it or make it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected `name: value` lines")
    return values
