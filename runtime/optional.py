"""Packages that only some commands need."""

import importlib


def require(module, purpose, requirements):
    """Import an optional package's module where it is used.

    `purpose` says what needs it, `requirements` is the file that lists the package. Raises
    ValueError where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name != package:  # it is there, and lacks something of its own
            raise
        raise ValueError(
            f"{purpose} needs the package {package}: `pip install -r {requirements}`"
        ) from None
