"""Files written in one step, what a file is by its first bytes, and YAML."""

import csv
import errno
import io
import os
import shutil
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

# What a file is by its first bytes, and what to do with it where another kind was expected.
KINDS = {
    b"MATLAB 7.3": "a .mat of version 7.3 (HDF5): in MATLAB write it again with `save -v7`",
    b"MATLAB 5": "a .mat file",
    b"\x89HDF": "an HDF5 file",
    b"PK": "a zip file, such as .npz or torch's",
    b"\x93NUMPY": "a .npy array",
    b"\x80": "a pickle of Python objects, which is not opened, for it may run any code",
    b"\x1f\x8b": "packed by gzip: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file by `git lfs pull`",
    b"<": "a web page or XML: download the file again",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}
A_DAY = 24 * 3600  # seconds; a partial file unwritten to for so long is nobody's
# Why the rest of a file could not be written. Windows lacks EDQUOT.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def replacing(path, size=None):
    """Yield a temporary path in the folder of `path`; it becomes `path` if the block succeeds.

    A reader sees the old file or the new one, never half of one, whenever the process is killed
    and however many processes write it. The temporary name ends like the name, from which many
    writers derive the format. Where there is no room, or no permission, OSError is one line;
    `size()`, if given, is then asked for the bytes that the file needs.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(temporary, "xb").close()  # some writers hide why a file cannot be opened
        yield temporary
        os.replace(temporary, path)
    except Exception as error:  # writers add errors of other kinds to an OSError
        cause = _writing_error(error, path, temporary)
        if cause is None:
            raise
        written = temporary.stat().st_size if temporary.is_file() else 0
        with suppress(OSError):
            temporary.unlink()  # its bytes are free again
        raise not_written(path, cause, written, size) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def temporary_beside(path):
    """A hidden path beside `path`, another one each time, whose name ends like that of `path`."""
    start = f".partial-{os.urandom(4).hex()}-"
    name = start + path.name
    # 255 bytes is the longest name that common file systems take.
    return path.with_name(name if len(os.fsencode(name)) < 256 else start + path.suffix)


def remove_partials(folder, *names, unused=None):
    """Remove what killed writers of the files or folders `names` (patterns) left in a folder.

    For one who is the sole writer of these (see `locks.sole_writer`). One of many writers leaves
    what may be a living one's: with `unused` what has been written to in the last so many seconds.
    """
    number = "[0-9a-f]" * 8  # not *, which would take `x-name` for `name`
    for path in [path for name in names for path in Path(folder).glob(f".partial-{number}-{name}")]:
        with suppress(OSError):  # another writer may finish at this moment
            if unused is None or time.time() - path.stat().st_mtime > unused:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _writing_error(error, path, temporary):
    """The OSError among an error and its causes that says why `path` was not written, or None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            of_path = error.filename is None or Path(error.filename) in (
                temporary, path, *path.parents
            )  # fmt: skip
            return error if of_path or error.errno in NO_ROOM else None
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def not_written(path, error, written=0, size=None):
    """The OSError that says in one line why `path` was not written: for `error`, another one."""
    before = "; the file of before is unchanged" if path.is_file() else ""
    if error.errno not in NO_ROOM:
        reason = error.strerror or error
        return OSError(
            f"{path} cannot be written ({reason}){before}: give another place, or permission"
        )
    needed = f"{size():,}" if size else f"more than {written:,}"
    folder = next(parent for parent in path.parents if parent.exists())
    free = f"{shutil.disk_usage(folder).free:,} are free"
    if error.errno == errno.EFBIG:
        free += ", and no file may be larger than `ulimit -f` says"
    return OSError(
        f"{path} cannot be written ({error.strerror}): it needs {needed} bytes, {free}{before}; "
        "make room, or give another place"
    )


class Counted:
    """A file that keeps nothing of what is written to it but the number of bytes."""

    def __init__(self):
        self.size = 0

    def write(self, data):
        self.size += len(data)
        return len(data)

    def flush(self):
        pass


def write_bytes(path, content):
    """Write a file in one step (see `replacing`)."""
    with replacing(path, lambda: len(content)) as temporary:
        temporary.write_bytes(content)


def write_text(path, text):
    """Write a text file in one step (see `replacing`)."""
    write_bytes(path, text.encode())


def kind_of(path):
    """What a file is, in words that end with what to do, if known; None where it is not."""
    with open(path, "rb") as file:
        return kind_of_bytes(file.read(32))


def kind_of_bytes(start):
    """What a file of these first bytes is; see `kind_of`."""
    if is_safetensors(start):
        return "a safetensors file"
    if not start:
        return "empty"
    return next((words for begin, words in KINDS.items() if start.startswith(begin)), None)


def is_safetensors(start):
    """Whether a file of these first bytes, nine at least, is in the safetensors format."""
    # A number of eight bytes, the length of the JSON object that follows: below 100 MB.
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 10**8


def need_whole_zip(path):
    """ValueError where a zip file has bytes that its checksums do not fit: torch looks at none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged: copy the file again")


def table_text(rows):
    """Rows of cells, the header first, as the text of a comma-separated table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_yaml(path, values):
    """Write a dict of plain Python values as YAML in one step (see `replacing`)."""
    write_text(path, yaml.safe_dump(values, sort_keys=True))


def read_yaml(path):
    """Read a YAML file that holds a dict; ValueError says what it holds instead."""
    return yaml_dict(Path(path).read_bytes(), path)


def yaml_dict(content, path):
    """The dict that the bytes of a YAML file are; `path` is named where they are something else."""
    try:
        values = yaml.safe_load(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): restore it or make it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected `name: value` lines")
    return values
