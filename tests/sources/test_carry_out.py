"""Carrying a plan out: links, copies, resuming, and what is refused before."""

import os

import published_layouts
import pytest
from conftest import fails
from conversion import prepare_data, tree
from odd_images import exif, noise
from PIL import Image

import prepare
from imaging.pixels import read_image
from sources import carry_out
from sources.plan import Plan


def snapshot(root):
    """What a second run would change: inode, time and kind of every file."""
    stats = {path: os.lstat(path) for path in root.rglob("*") if path.is_file()}
    return {path: (s.st_ino, s.st_mtime_ns, s.st_mode) for path, s in stats.items()}


def test_hard_links_and_a_second_run(source, workdir):
    published_layouts.cvusa(source)
    result = prepare_data("cvusa", source, "--out", "deep/out")
    assert result["made"] == {"hard links": 20}
    for path in (workdir / "deep/out").rglob("*.jpg"):
        view = "bingmap/19" if "satellite" in path.as_posix() else "streetview/panos"
        assert path.stat().st_ino == (source / view / path.name).stat().st_ino
        assert not path.is_symlink()
    before = snapshot(workdir / "deep/out")
    result = prepare_data("cvusa", source, "--out", "deep/out")
    assert result["made"] == {"there already": 20}
    after = snapshot(workdir / "deep/out")
    marker = workdir / "deep/out/prepare.yaml"
    assert {k: v for k, v in after.items() if k != marker} == {
        k: v for k, v in before.items() if k != marker
    }


def test_symbolic_links_where_no_hard_link_is_possible(source, workdir, monkeypatch, capsys):
    published_layouts.cvusa(source)

    def refuse(*args, **kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.chdir(source.parent)
    result = prepare_data("cvusa", source.name, "--out", "out")  # a relative source
    assert result["made"] == {"symbolic links": 20}
    link = workdir / "out/train/street/0000003/0000003.jpg"
    assert link.is_symlink() and os.path.isabs(os.readlink(link))
    assert link.resolve() == source / "streetview/panos/0000003.jpg"
    assert prepare_data("cvusa", source, "--out", "out")["made"] == {"there already": 20}
    monkeypatch.setattr(os, "symlink", refuse)
    fails(prepare.main, ["cvusa", source, "--out", "b"], capsys, "neither a hard nor a symbolic",
          "--copy")  # fmt: skip


def test_links_to_a_linked_release(source, workdir):
    """A hard link to a relative symbolic link would point nowhere."""
    published_layouts.cvusa(source)
    image = source / "bingmap/19/0000001.jpg"
    image.rename(source / "elsewhere.jpg")
    image.symlink_to("../../elsewhere.jpg")
    prepare_data("cvusa", source, "--out", "out")
    path = workdir / "out/train/satellite/0000001/0000001.jpg"
    assert not path.is_symlink() and path.samefile(source / "elsewhere.jpg")


def test_copies_and_back(source, workdir):
    published_layouts.cvusa(source)
    prepare_data("cvusa", source, "--out", "out")
    result = prepare_data("cvusa", source, "--out", "out", "--copy")
    assert result["made"] == {"copies": 20}
    image, copy = source / "bingmap/19/0000006.jpg", "out/test/query_satellite/0000006/0000006.jpg"
    assert not os.path.samefile(image, workdir / copy)
    assert image.read_bytes() == (workdir / copy).read_bytes()
    assert prepare_data("cvusa", source, "--out", "out", "--copy")["made"] == {"there already": 20}
    os.utime(image, (1, 1))  # another version of the file
    made_again = prepare_data("cvusa", source, "--out", "out", "--copy")["made"]
    assert made_again == {"there already": 18, "copies": 2}  # query and gallery
    assert prepare_data("cvusa", source, "--out", "out")["made"] == {"hard links": 20}


def test_a_killed_run_goes_on(source, workdir, monkeypatch):
    published_layouts.cvusa(source)
    place, done = carry_out._place, []

    def stop_after_seven(*args):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(place(*args))
        return done[-1]

    monkeypatch.setattr(carry_out, "_place", stop_after_seven)
    with pytest.raises(SystemExit) as exit_info:
        prepare_data("cvusa", source, "--out", "out")
    assert exit_info.value.code == 130
    assert len(list((workdir / "out").rglob("*.jpg"))) == 7
    assert not (workdir / "out/coordinates.csv").exists()
    monkeypatch.setattr(carry_out, "_place", place)
    result = prepare_data("cvusa", source, "--out", "out")
    assert result["made"] == {"there already": 7, "hard links": 13}
    prepare_data("cvusa", source, "--out", "unbroken")
    assert tree(workdir / "out") == tree(workdir / "unbroken")


def test_a_killed_conversion_leaves_no_half_image(source, workdir, monkeypatch):
    published_layouts.cvusa(source)
    save, done = Image.Image.save, []

    def break_off(self, path, *args, **options):
        if len(done) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        done.append(save(self, path, *args, **options))

    monkeypatch.setattr(Image.Image, "save", break_off)
    argv = ["cvusa", source, "--out", "out", "--roll", "90", "--num_workers", "1"]
    with pytest.raises(SystemExit) as exit_info:
        prepare_data(*argv)
    assert exit_info.value.code == 2
    monkeypatch.setattr(Image.Image, "save", save)
    result = prepare_data(*argv)
    assert result["made"]["converted"] == 7 and result["made"]["there already"] >= 3
    prepare_data("cvusa", source, "--out", "unbroken", "--roll", "90")
    assert tree(workdir / "out") == tree(workdir / "unbroken")
    assert prepare_data(*argv)["made"] == {"there already": 20}


def test_an_unreadable_image_says_that_the_folder_is_incomplete(source, workdir, capsys):
    published_layouts.cvusa(source)
    image = source / "bingmap/19/0000003.jpg"
    image.write_text("hi")
    argv = ["cvusa", source, "--out", "out", "--polar"]
    fails(prepare.main, argv, capsys, image, "out is not complete", "run this again")
    image.unlink()
    published_layouts.picture(image)
    prepare_data(*argv)
    assert (workdir / "out/train/satellite/0000003/0000003.jpg").is_file()


def test_dry_run_writes_nothing(source, workdir, capsys):
    published_layouts.vigor(source)
    before = tree(workdir)
    result = prepare_data("vigor", source, "--dry_run")
    assert tree(workdir) == before and not (workdir / "data").exists()
    assert result["made"] == {} and result["counts"]["test/gallery_satellite"] == (16, 16)
    out = capsys.readouterr().out
    assert "data/vigor: nothing written (--dry_run)" in out
    assert "90618 classes, 90618 images" in out


def test_a_folder_that_was_made_otherwise(source, workdir, capsys):
    published_layouts.vigor(source)
    prepare_data("vigor", source, "--out", "out")
    before = tree(workdir)
    fails(prepare.main, ["vigor", source, "--out", "out", "--area", "cross"], capsys,
          "out was made with area same, not cross")  # fmt: skip
    fails(prepare.main, ["limit-views", source, "--out", source, "--views", "3"], capsys,
          "train/drone not found")  # fmt: skip
    fails(prepare.main, ["vigor", source, "--out", source], capsys, "holds something else")
    assert tree(workdir) == before
    path = source / "splits/Chicago/same_area_balanced_test.txt"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    fails(prepare.main, ["vigor", source, "--out", "out"], capsys, "out holds 1 images that are no "
          "longer part of this, first test/query_street/Chicago_satellite_41.2")  # fmt: skip


def test_official_counts_by_hand():
    official = {"a": (2, (5, 6)), "b": (None, 7), "c": (None, None)}
    assert carry_out.compare_counts("X", {"a": (2, 6), "b": (9, 7), "c": (1, 1)}, official) == []
    counts = {"a": (2, 7), "b": (7, 8), "c": (1, 1), "d": (0, 0)}
    assert carry_out.compare_counts("X", counts, official) == [
        "a/ has 2 classes, 7 images; X has 2 classes, 5 or 6 images",
        "b/ has 7 classes, 8 images; X has 7 images",
    ]
    with pytest.raises(ValueError, match="no image for c/ was found"):
        carry_out.compare_counts("X", {"a": (2, 5), "b": (1, 7), "c": (1, 0)}, official)


def test_images_that_are_written_again_are_upright(source, workdir):
    """The new file has no EXIF data; a copy keeps it, and is turned when it is read."""
    stored = Image.fromarray(noise(40, 60))
    (source / "test/query_drone/1").mkdir(parents=True)
    stored.save(source / "test/query_drone/1/a.jpg", exif=exif(6), quality=95)
    expected = read_image(source / "test/query_drone/1/a.jpg")
    plan = Plan("turned")
    plan.add("train/drone", "1", source / "test/query_drone/1/a.jpg", change=lambda image: image)
    plan.add("train/street", "1", source / "test/query_drone/1/a.jpg")
    carry_out.carry_out(plan, workdir / "out", {"command": "turned"}, copy=True)
    for view in ("drone", "street"):
        made = read_image(workdir / f"out/train/{view}/1/a.jpg")
        assert made.shape == (60, 40, 3)
        assert abs(made.astype(int) - expected).mean() < 3
    result = prepare.main(["wx", str(source), "--out", "wx", "--conditions", "fog"])
    assert result["made"] == {"converted": 1}
    assert read_image(workdir / "wx/fog/test/query_drone/1/a.png").shape == (60, 40, 3)
