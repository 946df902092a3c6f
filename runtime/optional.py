"""Packages that only some commands need."""

import importlib


def require(module, purpose, wanted):
    """Import an optional package's module where it is used.

    `purpose` says what needs it, `wanted` what pip is to install. Raises ValueError where it is
    not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name != package:  # it is there, and lacks something of its own
            raise
        raise ValueError(f"{purpose} needs the {package} package: pip install {wanted}") from None
