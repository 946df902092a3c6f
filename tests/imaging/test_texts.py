"""Texts of a data folder: lines as samples, token ids, words as a picture."""

from pathlib import Path

import numpy as np
import pytest

from imaging.files import is_text_name, samples_of, scan_classes, split_sample
from imaging.texts import TokenizedTexts, picture_of, read_texts
from networks.text import small_tokenizer

WORDS = ["A red house by the pond.", "the long blue HALL, north of a car park"]


@pytest.fixture
def texts(tmp_path):
    """A view of texts: one file with two lines and an empty one between, one file of Windows."""
    folder = tmp_path / "text"
    for name in ("0001", "0002"):
        (folder / name).mkdir(parents=True)
    (folder / "0001" / "a.txt").write_text(f"{WORDS[0]}\n\n  {WORDS[1]} \n", encoding="utf-8")
    (folder / "0002" / "b.TXT").write_bytes(b"\xef\xbb\xbfa pond\r\na hall\r\n")
    (folder / "0002" / "c.jpg").write_bytes(b"")
    return folder


def test_each_line_with_words_is_a_sample(texts):
    scanned = scan_classes(texts)
    assert scanned == {
        "0001": [texts / "0001/a.txt:1", texts / "0001/a.txt:3"],
        "0002": [texts / "0002/b.TXT:1", texts / "0002/b.TXT:2"],
    }
    found = read_texts(sample for samples in scanned.values() for sample in samples)
    assert found == [*WORDS, "a pond", "a hall"]


def test_names_of_samples():
    assert split_sample("train/text/1/a.txt:12") == (Path("train/text/1/a.txt"), 12)
    assert split_sample("C:/data/1/a.jpg") == (Path("C:/data/1/a.jpg"), None)
    assert split_sample("data/a:1/b.jpg") == (Path("data/a:1/b.jpg"), None)
    assert is_text_name(Path("a.txt")) and not is_text_name(Path(".a.txt"))


def test_what_is_no_text(texts):
    (texts / "0001" / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt is no text in UTF-8 .*save it again"):
        scan_classes(texts)
    for path in texts.glob("*/*"):
        path.unlink()
    (texts / "0001" / "a.txt").write_text("  \n\n")
    with pytest.raises(ValueError, match="holds no texts: expected <ID>/<name>.txt"):
        scan_classes(texts)
    (texts / "0001" / "a.txt").write_text("words\n")
    with pytest.raises(ValueError, match="has no words in line 2: it has changed"):
        read_texts([texts / "0001/a.txt:2"])


def test_a_folder_of_images_has_no_texts(texts):
    """The name of the view decides, so that a note beside the images is no sample."""
    folder = texts.rename(texts.with_name("drone"))
    for path in folder.glob("*/*.txt"):
        path.write_text("notes")
    assert {name: len(paths) for name, paths in scan_classes(folder).items()} == {
        "0001": 0, "0002": 1,
    }  # fmt: skip


def test_token_ids_and_what_is_cut(texts, capsys):
    pytest.importorskip("tokenizers")
    tokenizer = small_tokenizer(WORDS * 2)
    samples = samples_of(texts / "0001" / "a.txt")
    ids = TokenizedTexts(samples, read_texts(samples), tokenizer, 64)
    assert capsys.readouterr().err == ""
    first, last = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    for sample, words in zip(samples, WORDS, strict=True):
        assert ids[sample].dtype == np.int64
        assert (ids[sample][0], ids[sample][-1]) == (first, last)
        whole = tokenizer.decode(ids[sample].tolist()).replace(" ", "")
        assert whole == words.lower().replace(" ", "")
    length = len(ids[samples[0]])
    cut = TokenizedTexts(samples, read_texts(samples), tokenizer, length)
    assert [len(cut[sample]) for sample in samples] == [length, length]
    assert cut[samples[1]][-1] == last  # the end is kept
    error = capsys.readouterr().err
    assert f"1 of 2 texts have more than {length} tokens and were cut, such as" in error
    assert "a.txt:3: a run with more --text_tokens reads all" in error


def rows_of_ink(picture):
    """How many rows of pixels have a dark one."""
    return int((picture.min(axis=(1, 2)) < 128).sum())


@pytest.mark.parametrize("words", ["pond", "a long red hall " * 12])
def test_words_as_a_picture(words):
    picture = picture_of(words, 128)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    ink = np.argwhere(picture.min(axis=2) < 128)  # (N, 2)
    assert len(ink) > 100
    assert ink.min() >= 8 and ink.max() < 120  # inside the edges


def test_many_words_are_smaller():
    assert rows_of_ink(picture_of("pond", 128)) < 25
    assert rows_of_ink(picture_of("a long red hall " * 6, 128)) > 60
