"""What the benchmarks share: interleaved timing, processes with their peak memory, tables, JSON.

python benchmarks/evaluate.py --rounds 5 --json evaluate.json
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.cli import positive_int  # noqa: E402
from runtime.files import write_text  # noqa: E402

# Started by a large process, a child would count that process's memory as its own peak: Linux
# keeps the larger of before and after exec. This small process between the two starts it instead.
LAUNCHER = """
import json, os, sys, time
report, *argv = sys.argv[1:]
start = time.perf_counter()
child = os.posix_spawnp(argv[0], argv, os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
with open(report, "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss], file)
"""


@contextmanager
def working_folder():
    """A new folder as the current one; both are as before afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


class Ratio(NamedTuple):
    """How many times as long one way takes as another."""

    ratio: float  # of the medians
    low: float  # smallest and largest ratio of two runs of the same round
    high: float

    def __str__(self):
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(ways, rounds):
    """Seconds of each of {name: callable} as {name: [one a round]}; every other round backwards.

    A machine that slows down for a while then slows all ways alike.
    """
    seconds = {name: [] for name in ways}
    for round_number in range(rounds):
        for name in list(ways)[:: -1 if round_number % 2 else 1]:
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow, fast):
    """`Ratio` of the median of `slow` to that of `fast`, two lists of seconds a round."""
    paired = [a / b for a, b in zip(slow, fast, strict=True)]
    return Ratio(median(slow) / median(fast), min(paired), max(paired))


def run_process(argv, env=None):
    """Run a command: (seconds, peak resident memory in MiB, stdout as text).

    `env` is added to the environment. Memory mapped from files counts. Raises RuntimeError with
    the command's stderr where it fails. Linux and macOS only.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report)]
        done = subprocess.run(
            [*launcher, *map(str, argv)],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
        )
        code, seconds, peak = json.loads(report.read_text()) if report.exists() else (1, 0, 0)
    if code != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))} ended with {code}:\n{done.stderr}")
    return seconds, peak / (2**20 if sys.platform == "darwin" else 2**10), done.stdout


def print_table(rows, headers):
    """Print rows of values as a Markdown table whose columns are aligned; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in [headers, *cells])) for i in range(len(headers))]
    numbers = [
        all(isinstance(row[i], int | float | Ratio) for row in rows) for i in range(len(headers))
    ]
    rule = ["-" * (w - 1) + ":" if n else "-" * w for w, n in zip(widths, numbers, strict=True)]
    for row in [headers, rule, *cells]:
        aligned = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        )
        print(f"| {' | '.join(aligned)} |")


def _cell(value):
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else (f"{value:.0f}" if isinstance(value, float) else str(value))
    )


def hardware():
    """What the figures were measured on: processor, cores, memory, versions, GPU, as a dict.

    torch and its GPU are named only where the benchmark has imported it.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    ram = [os.sysconf(name) for name in names] if hasattr(os, "sysconf") else [0, 0]
    found = {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "ram_gib": round(ram[0] * ram[1] / 2**30, 1),
        "python": platform.python_version(),
    }
    for name in ("numpy", "torch"):
        if name in sys.modules:
            found[name] = sys.modules[name].__version__
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def write_json(path, values):
    """Write a dict of plain values and `hardware()` as JSON; does nothing where path is None."""
    if path is not None:
        text = json.dumps({"hardware": hardware(), **values}, indent=2)
        write_text(path, text + "\n")


def add_options(parser, rounds=3):
    """Add the options that every benchmark has; `rounds` is the default of --rounds."""
    parser.add_argument(
        "--device", default="cpu", choices=("auto", "cpu", "cuda"), help="device (default cpu)"
    )
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=rounds,
        help=f"runs of each way, in turn (default {rounds})",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: does it run? The figures mean nothing"
    )
