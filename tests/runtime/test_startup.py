"""The tricks at the start of a program."""

import subprocess
import sys
import types

import pytest

from runtime import startup


@pytest.mark.parametrize(("setting", "calls"), [("0", 0), ("1", 2), (None, 2)])
def test_freed_memory_is_kept_unless_told_not_to(monkeypatch, setting, calls):
    made = []
    libc = types.SimpleNamespace(
        gnu_get_libc_version=None, mallopt=lambda name, value: made.append((name, value)) or 1
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    monkeypatch.delenv("GEO_KEEP_MEMORY", raising=False)
    if setting:
        monkeypatch.setenv("GEO_KEEP_MEMORY", setting)
    startup.keep_freed_memory()
    assert len(made) == calls


def test_what_torch_makes_at_its_import_is_no_business_of_the_collector():
    """Hundred thousands of objects are set aside, and the collector works again afterwards."""
    code = (
        "import gc, sys; from runtime import startup;"
        "startup.import_torch(); frozen = gc.get_freeze_count();"
        "startup.import_torch();"
        "print(gc.isenabled(), 'torchvision' in sys.modules, frozen, gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    enabled, imported, frozen, after = done.stdout.split()
    assert (enabled, imported) == ("True", "True")
    assert int(frozen) > 100_000 and after == frozen


def test_the_collector_rests_wherever_torch_is_imported():
    """--loss_weights is checked while options are read, which imports losses and so torch."""
    code = (
        "import gc; from training.options import parse_args;"
        "parse_args(['--loss_weights', 'infonce=1']); print(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000
