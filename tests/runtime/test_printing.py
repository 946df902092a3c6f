"""Names with control characters and of other encodings, and commands that are pasted."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from PIL import Image

import demo
import prepare
from evaluation import protocols, side_files
from evaluation.feature_file import Features, save_features
from runtime import printing
from runtime.cli import script
from sources.carry_out import carry_out
from sources.plan import Entry, Plan

ROOT = Path(__file__).resolve().parents[2]
NASTY = "\x1b[2J\u202e\x07\x9b\n\r\tx"


def image_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def feature_file(paths):
    rows = np.eye(len(paths), 4, dtype=np.float32)
    side = Features(rows, np.arange(len(paths)), [str(path) for path in paths])
    save_features("f.npz", side, side)


def test_printable_is_one_line_of_plain_text():
    assert printing.printable("a\nb\x1b[2J\x85\u202e") == r"a\nb\x1b[2J\x85\u202e"
    for text in ("żółw/建物/é.jpg", "\N{HOUSE BUILDING}\ufe0f", "नमस्ते"):
        assert printing.printable(text) == text


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_what_cannot_be_encoded_does_not_stop_the_picture(workdir, encoding):
    """The program ended before the picture was drawn."""
    name = "\N{HOUSE BUILDING}\udce9.jpg" if sys.platform == "linux" else "\N{HOUSE BUILDING}.jpg"
    feature_file([image_at(workdir / name)])
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, ROOT / "demo.py", "--features", "f.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Path("show.png").is_file() and done.stdout.endswith(b"picture: show.png" + b"\n")
    expected = "\N{HOUSE BUILDING}" if encoding == "utf-8" else r"\U0001f3e0"
    assert expected.encode() in done.stdout.replace(b"\\udce9", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
def test_control_characters_of_names_are_never_printed_raw(workdir, capfd):
    feature_file([image_at(workdir / f"a{NASTY}.jpg")])
    demo.main(["--features", "f.npz"])
    for folder in ("train/satellite", "train/drone", "test/query_drone", "test/gallery_satellite"):
        image_at(workdir / "data" / folder / "1" / f"a{NASTY}.jpg")
        image_at(workdir / "data" / folder / "2" / f"b{NASTY}.txt.jpg").write_bytes(b"damaged")
        image_at(workdir / "data" / folder / f"stray{NASTY}.jpg")
    with pytest.raises(SystemExit):
        prepare.main(["check", "data"])
    with pytest.raises(SystemExit):
        prepare.main(["check", f"data{NASTY}"])
    with pytest.raises(SystemExit):
        demo.main(["--features", f"f{NASTY}.npz"])
    with pytest.raises(SystemExit):
        demo.main([f"--f{NASTY}"])
    printed = capfd.readouterr()
    for text in printed:
        assert all(char.isprintable() or char in "\n " for char in text)
    assert len(printed.err.splitlines()) == 4 and r"\x1b[2J" in printed.out
    assert printed.out.count(r"a\x1b[2J\u202e\x07\x9b\n\r\tx.jpg") >= 2


def test_an_error_with_line_breaks_is_one_whole_line(capsys):
    @script
    def main(argv=None):
        raise ValueError("folder a\nb not found")

    fails(main, [], capsys, r"folder a\nb not found")


@pytest.mark.skipif(sys.platform == "win32", reason="for the shells of Unix")
@pytest.mark.parametrize(
    "name", ["it's; touch PWNED; echo '.jpg", "$(touch PWNED) `x`.jpg", "a\n\t\\'b.jpg", "é.jpg"]
)
def test_what_is_offered_for_pasting_means_the_file(workdir, name):
    (workdir / name).touch()
    command = f"rm {printing.quoted(name)}"
    assert command.isascii() and command.isprintable()
    subprocess.run(["bash", "-c", command], check=True)
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("stem", ["a\tb", "a\nb", "a\rb"])
def test_an_answer_of_names_with_breaks_is_refused(stem):
    side = Features(np.eye(12, dtype=np.float32), np.arange(12), [f"{i}.jpg" for i in range(12)])
    gallery = side._replace(paths=[f"g/{stem}.jpg", *side.paths[1:]])
    with pytest.raises(ValueError, match=r"is called a\\[tnr]b, and a line break or tab"):
        protocols.answer_lines(side, gallery, ["3.jpg"])


def test_a_name_with_breaks_is_not_converted(workdir):
    source = image_at(workdir / "a\nb.jpg")
    plan = Plan("x", entries=[Entry(source, "train/drone/1/a\nb.jpg")])
    with pytest.raises(ValueError, match=r"a\\nb\.jpg has a line break or another control"):
        carry_out(plan, "out", mark={})
    assert not Path("out").exists()


def test_lines_end_at_line_feeds_alone(tmp_path):
    """A name may hold U+0085 or a form feed."""
    (tmp_path / "list.txt").write_bytes("a\x85b.jpg\r\nc\x0cd.jpg\n".encode())
    assert side_files.read_query_list(tmp_path / "list.txt") == ["a\x85b.jpg", "c\x0cd.jpg"]
