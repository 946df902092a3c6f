"""A trained run in one zip file, to be shared: read where it lies, never unpacked, and checked.

manifest.json          {"format": 1, "files": {name: {"bytes": number, "sha256": digest}}}
opts.yaml              the options of the run
net_last.safetensors   its weights
README.md              the model card
tokenizer.json, text_config.json   of a run with texts: its words, and its text model

A bundle comes from elsewhere. What it holds is read as text or numbers alone; a digest that does
not fit, a name that is a path, a link, a pickle, a file that is missing, too much or much larger
than it looks is refused. The digests tell of damage, not of who made the file.
"""

import hashlib
import json
import stat
import zipfile
from pathlib import Path

from runtime.files import is_safetensors, kind_of_bytes
from runtime.printing import first_line

FORMAT = 1
MANIFEST, OPTIONS, CARD = "manifest.json", "opts.yaml", "README.md"
WEIGHTS = "net_last.safetensors"
SUFFIXES = (".json", ".md", ".safetensors", ".yaml")  # of what is no code and runs none
LARGEST_TEXT = 2**24  # bytes; a tokenizer has up to some
RATIO = 100  # of a file to what it takes in the zip: weights hardly shrink, texts ten times
COPY = "copy or download it again"


class _Refused(ValueError):
    """What is wrong with a bundle, in one line."""


def is_bundle(path):
    """Whether a path is an existing file named *.zip."""
    path = Path(path)
    return path.suffix == ".zip" and path.is_file()


def read_bytes(path):
    """The bytes of a file, or of one in a bundle: run.zip/opts.yaml. ValueError or OSError."""
    path = Path(path)
    return _read(path.parent, path.name) if is_bundle(path.parent) else path.read_bytes()


def _read(bundle, name):
    """The bytes of the file `name` of a bundle; the others are checked too, other weights not."""
    with open(bundle, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(bundle, archive)
                files = _manifest(bundle, archive, members)
                if name not in files:
                    raise _Refused(f"{bundle} holds no {name}")
                small = [other for other in files if not other.endswith(".safetensors")]
                contents = {
                    other: _content(bundle, archive, members[other], files[other])
                    for other in {name, *small}
                }
                return contents[name]
        except _Refused:
            raise
        except Exception as error:  # damaged bytes lead the reader into errors of any type
            raise ValueError(
                f"{bundle} is no whole zip file ({first_line(error)}): {COPY}"
            ) from None


def _members(bundle, archive):
    """{name: ZipInfo} of the files of a bundle, each of which has a name that can be no harm."""
    if MANIFEST not in archive.namelist():
        raise _Refused(
            f"{bundle} holds no {MANIFEST}, so it is no run: make one with "
            "`python export.py --name RUN --bundle run.zip`"
        )
    members = {}
    for member in archive.infolist():
        name = member.filename
        if name != Path(name).name or {*name} & {*'\\/:"'} or name in ("", ".", ".."):
            raise _Refused(
                f"{bundle} holds {name!r}, a path and no plain name, which unpacked may lie "
                "anywhere: do not use it"
            )
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _Refused(f"{bundle} holds {name!r}, a link and no file: do not use it")
        if not name.endswith(SUFFIXES):
            raise _Refused(
                f"{bundle} holds {name!r}, and a bundle holds {', '.join(SUFFIXES)} files only: "
                "anything else, such as a pickle, may run any code and is not opened"
            )
        if name in members:
            raise _Refused(f"{bundle} holds {name} twice: {COPY}")
        if member.file_size > RATIO * member.compress_size:
            raise _Refused(
                f"{bundle} holds {name}, which unpacks to {member.file_size:,} bytes, more than "
                f"{RATIO} times its size: do not use it"
            )
        members[name] = member
    if sum(member.compress_size for member in members.values()) > bundle.stat().st_size:
        raise _Refused(f"{bundle} says that it holds more than its size: {COPY}")
    return members


def _manifest(bundle, archive, members):
    """{name: (bytes, sha256)} of the files that the manifest lists, which are those there are."""
    content = _limited(bundle, archive, members[MANIFEST], LARGEST_TEXT)
    try:
        manifest = json.loads(content)
        found = manifest["format"]
        files = {name: (each["bytes"], each["sha256"]) for name, each in manifest["files"].items()}
        numbers = [found, *(size for size, _ in files.values())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        numbers = [None]
    if not all(isinstance(number, int) for number in numbers):
        raise _Refused(f"{bundle} has a {MANIFEST} of another kind: {COPY}")
    if found != FORMAT:
        raise _Refused(f"{bundle} is of format {found!r}, expected {FORMAT}: use a newer version")
    there = members.keys() - {MANIFEST}
    if absent := sorted({OPTIONS, WEIGHTS, *files} - there):
        raise _Refused(f"{bundle} lacks {absent[0]}: {COPY}")
    if more := sorted(there - files.keys()):
        raise _Refused(f"{bundle} holds {more[0]}, which its {MANIFEST} does not list: {COPY}")
    return files


def _content(bundle, archive, member, listed):
    """The bytes of a file of a bundle, as its manifest lists them: (number, digest)."""
    name, (size, digest) = member.filename, listed
    if member.file_size != size:
        raise _Refused(
            f"{bundle}: {name} has {member.file_size:,} bytes, and {MANIFEST} says {size:,}: {COPY}"
        )
    weights = name.endswith(".safetensors")
    content = _limited(bundle, archive, member, size if weights else LARGEST_TEXT)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _Refused(
            f"{bundle}: {name} has another SHA-256 than {MANIFEST} says: it was changed or is "
            f"damaged; {COPY}"
        )
    if weights and not is_safetensors(content[:9]):
        kind = kind_of_bytes(content[:32]) or "something else"
        raise _Refused(f"{bundle}: {name} is no safetensors file, it is {kind}")
    return content


def _limited(bundle, archive, member, limit):
    """The bytes of a file of a bundle, of which no more than `limit` are unpacked."""
    with archive.open(member) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _Refused(f"{bundle}: {member.filename} has more than {limit:,} bytes: do not use it")
    return content
