"""Packages that only some commands need."""

import importlib

from runtime.printing import first_line


def require(module, purpose, wanted):
    """Import an optional package's module where it is used.

    `purpose` says what needs it, `wanted` what pip is to install. Raises ValueError where it is
    not installed, or does not work with what is.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ValueError(
                f"{purpose} needs the {package} package: pip install {wanted}"
            ) from None
        raise ValueError(
            f"{purpose} needs the {package} package, which cannot be imported here "
            f"({first_line(error)}): pip install --upgrade {wanted}"
        ) from None
