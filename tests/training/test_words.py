"""A view of texts in training and testing: batches, runs, a resume, what travels with a run."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL, fails

import demo
import evaluate_gpu
import export
import locate
import prepare
import test
import train
import utils
from evaluation.feature_file import load_features
from imaging import files, texts
from networks import text
from training import build

pytest.importorskip("transformers")
WORDS = [*SMALL, "--train_all", "--epochs", "2", "--batchsize", "8", "--optimizer", "adamw",
         "--lr", "0.001", "--loss_weights", "instance=0,infonce=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, value in {**sizes, "intermediate_size": 24}.items():
        monkeypatch.setitem(text.SMALL_SIZES, name, value)


def weights_of(name):
    return utils.load_tensors(utils.run_folder(name) / utils.LAST_WEIGHTS)


def begin(toy, name, *options):
    return train.main(["--name", name, "--data_dir", str(toy), *WORDS, *options])


def test_a_batch_holds_token_ids_where_it_holds_images(toy, workdir):
    opts = train.parse_args(["--data_dir", str(toy), *WORDS, "--views", "satellite,drone,text"])
    data = build.open_data(opts, False)
    batch = next(iter(data.loader))
    assert {*batch} == {"satellite", "drone", "text"}
    ids, labels = batch["text"]
    assert ids.dtype == torch.int64 and ids.shape[0] == 8 and labels.tolist() != []
    assert sorted(labels.tolist()) == list(range(8))  # buildings differ: no text is a negative
    lengths = (ids >= 0).sum(1)
    assert lengths.max() == ids.shape[1]  # as long as the longest
    for row, length in zip(ids, lengths, strict=True):
        assert (row[:length] >= 0).all() and (row[length:] == -1).all()
    words = data.tokenizer.decode(ids[0][: lengths[0]].tolist())
    assert len(words.split()) > 5
    assert {len(pairs) for pairs in data.samples.values()} == {8, 16, 24}  # three texts a building


def test_a_run_finds_images_by_words_and_words_by_images(toy, workdir, capsys):
    last = begin(toy, "spoken", "--views", "text,satellite", "--epochs", "12", "--lr", "0.003",
                 "--droprate", "0", "--no_turn", "--no_flip", "--pad", "0")  # fmt: skip
    log = [json.loads(line) for line in (workdir / "model/spoken/log.jsonl").open()]
    assert log[0]["loss"] > 1.5 and last["loss"] < 0.8  # of 8 buildings guessing gives 2.1
    metrics = test.main(["--name", "spoken", "--test_dir", str(toy), "--query", "text",
                         "--device", "cpu", "--num_workers", "0"])  # fmt: skip
    assert {"recall@1", "AP"} <= {*metrics}
    query, gallery = load_features("pytorch_result.mat")
    np.testing.assert_allclose(np.linalg.norm(query.features, axis=1), 1, rtol=1e-5)
    assert len(query.labels) == 3 * 5 and len(gallery.labels) == 5 + 2
    assert query.paths[1].endswith(".txt:2")
    assert len(np.unique(query.features.round(5), axis=0)) == len({*map(words_of, query.paths)})
    capsys.readouterr()
    demo.main(["--query_index", "0", "1", "--no_window"])
    evaluate_gpu.main(["pytorch_result.mat"])
    back = test.main(["--name", "spoken", "--test_dir", str(toy), "--query", "satellite",
                      "--gallery", "text", "--device", "cpu"])  # fmt: skip
    assert 0 <= back["recall@1"] <= 100
    assert (workdir / "show.png").stat().st_size > 10_000


def words_of(path):
    file, _, line = path.rpartition(":")
    with open(file) as lines:
        return lines.read().splitlines()[int(line) - 1]


def test_a_run_takes_its_words_along(toy, workdir, tmp_path_factory):
    """The training texts are gone, and the folder stands elsewhere: the same features."""
    begin(toy, "spoken", "--views", "text,drone")
    command = ["--name", "spoken", "--test_dir", str(toy), "--query", "text", "--gallery", "drone",
               "--device", "cpu"]  # fmt: skip
    test.main(command)
    before = load_features("pytorch_result.mat")[0].features
    elsewhere = tmp_path_factory.mktemp("other")
    export.main(["--name", "spoken", "--bundle", str(elsewhere / "spoken.zip")])
    shutil.copytree("model", elsewhere / "model")
    shutil.rmtree("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        for name in ("spoken", "spoken.zip"):
            test.main(["--name", name, *command[2:]])
            assert np.array_equal(load_features("pytorch_result.mat")[0].features, before)


@pytest.mark.parametrize("views", ["text,satellite", "satellite,drone,text"])
def test_a_resumed_run_is_the_unbroken_one(views, toy, workdir):
    options = ["--views", views, "--schedule", "cosine", "--text_pool", "cls"]
    options += ["--share"] if views.startswith("satellite") else []
    begin(toy, "whole", *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_epoch", stop_after(0, train.save_epoch))
        with pytest.raises(SystemExit, match="130"):
            begin(toy, "broken", *options)
    train.main(["--name", "broken", "--resume", "--device", "cpu"])
    whole, broken = weights_of("whole"), weights_of("broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(value, broken[key]) for key, value in whole.items())


def stop_after(epoch, save):
    def stopping(run_dir, training, data, number, log):
        save(run_dir, training, data, number, log)
        if number == epoch:
            raise KeyboardInterrupt

    return stopping


def test_frozen_images_and_trained_words(toy, workdir, capsys):
    """Features of the images are computed once; the small transformer learns all the same."""
    options = ["--views", "satellite,drone,text", "--freeze", "--turns", "1", "--pad", "0"]
    begin(toy, "frozen", *options, "--head", "linear", "--center")
    assert "pooled features, of images and their copies" in capsys.readouterr().out
    last, first = weights_of("frozen"), weights_of_epoch_zero(toy, options)
    moved = {key.split(".")[0] for key in last if not torch.equal(last[key], first[key])}
    assert moved == {"model_3", "classifier", "center"}


@pytest.mark.parametrize("trained", [False, True])
def test_frozen_images_and_a_pretrained_text_model(trained, toy):
    """It is frozen too, or learns at a rate of its own (--train_text)."""
    argv = ["--data_dir", str(toy), *WORDS, "--views", "satellite,text", "--freeze"]
    argv += ["--text_backbone", "hf:FOLDER", *["--train_text", "--text_lr", "0.3"] * trained]
    opts = train.parse_args(argv)
    encoder = text.small_encoder(10)
    encoder.pretrained = True
    network = build.build_network(opts, 8, list("abcdefgh"), encoder)
    training = build.build_training(opts, network, torch.device("cpu"), 8)
    rates = {id(p): group["lr"] for group in training.optimizer.param_groups
             for p in group["params"]}  # fmt: skip
    assert {rates.get(id(p)) for p in encoder.parameters()} == {opts.lr * 0.3 if trained else None}
    assert network.train().model_2.encoder.training == trained
    assert not any(id(p) in rates for p in network.model_1.parameters())


def weights_of_epoch_zero(toy, options):
    opts = train.parse_args(["--data_dir", str(toy), *WORDS, *options, "--head", "linear",
                             "--center"])  # fmt: skip
    utils.seed_everything(opts.seed)
    data = build.open_data(opts, False)
    return build.build_network(opts, 8, data.class_names, data.encoder).state_dict()


def test_a_run_starts_from_the_words_of_another(toy, workdir, capsys):
    begin(toy, "first", "--views", "text,satellite")
    capsys.readouterr()
    arguments = [a for a in WORDS if a != "--no_pretrained"]
    train.main(["--name", "second", "--data_dir", str(toy), *arguments, "--epochs", "1",
                "--views", "satellite,drone,text", "--init", "first"])  # fmt: skip
    out = capsys.readouterr().out
    assert "starts from model/first/net_last.pth: all" in out and "drone from the satellite" in out
    same = [(utils.run_folder(n) / "tokenizer.json").read_text() for n in ("first", "second")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("before", "now"),
    [([], ["--pool", "avg+max"]), (["--maps", "2,last"], ["--maps", "last,2"])],
)
def test_the_text_model_goes_on_where_the_head_does_not_fit(toy, workdir, before, now):
    """Other pooled features: the layer behind the text model is new, the model itself is not."""
    begin(toy, "first", "--views", "text,satellite", "--epochs", "1", *before)
    opts = train.parse_args(["--data_dir", str(toy), *WORDS, "--views", "satellite,text", *now,
                             "--pretrained", "--init", "first", "--name", "second"])  # fmt: skip
    data = build.open_data(opts, False)
    found = build.build_network(opts, 8, data.class_names, data.encoder).model_2.state_dict()
    first = {k.removeprefix("model_1."): v for k, v in weights_of("first").items()}
    encoder = [key for key in found if key.startswith("encoder.")]
    assert encoder and all(torch.equal(found[key], first[key]) for key in encoder)
    linear = [state["linear.weight"] for state in (found, first)]
    assert linear[0].shape != linear[1].shape or not torch.equal(*linear)


def test_a_run_without_texts_leaves_none_of_before(toy, workdir):
    begin(toy, "run", "--views", "text,satellite", "--epochs", "1")
    assert (workdir / "model/run/tokenizer.json").is_file()
    begin(toy, "run", "--views", "2", "--epochs", "1", "--overwrite")
    assert not [*(workdir / "model/run").glob("*.json")]


def test_whole_numbers_are_no_mean_of_themselves():
    """An index times the decay, rounded down, is another index."""
    update = build.moving_average(0.9995)
    numbers, floats = torch.arange(512), torch.zeros(3)
    kept = numbers.clone()
    for _ in range(5):
        update([kept], [numbers], 1)
        update([floats], [torch.ones(3)], 1)
    assert torch.equal(kept, numbers)
    torch.testing.assert_close(floats, torch.full((3,), 1 - 0.9995**5))


def test_places_by_words(toy, workdir, capsys):
    begin(toy, "spoken", "--views", "text,satellite")
    pictures = toy / "test/gallery_satellite"
    found = locate.main(["--text", "a red hall by the pond", "two towers", "--name", "spoken",
                         "--map", str(pictures), "--top", "3", "--device", "cpu"])  # fmt: skip
    assert [row["photo"] for row in found["photos"]] == ["a red hall by the pond", "two towers"]
    assert len(found["tiles"]) == 6
    page = (workdir / "locations.html").read_text()
    assert "a red hall by the pond" in page
    fails(locate.main, ["--name", "spoken", "--map", pictures], capsys, "with --text")
    both = ["a.jpg", "--text", "words", "--name", "spoken", "--map", pictures]
    fails(locate.main, both, capsys, "photos and --text: give one or the other")
    broken = ["--text", "caf\udce9", "--name", "spoken", "--map", pictures]  # as argv has Latin-1
    fails(locate.main, broken, capsys, "--text has bytes that are not UTF-8")
    wrong = ["--name", "spoken", "--map", pictures]
    fails(locate.main, ["--text", "words", "--view", "street", *wrong], capsys, "--view is of")
    fails(locate.main, ["--text", " ", *wrong], capsys, "a description without words")
    named = locate.main(["--text", "hall and/or pond", *map(str, wrong), "--device", "cpu"])
    assert named["photos"][0]["photo"] == "hall and/or pond"
    assert '"name":"hall and/or pond"' in (workdir / "locations.html").read_text()
    begin(toy, "seen", "--views", "2", "--epochs", "1")
    fails(locate.main, ["--text", "words", "--name", "seen", "--map", pictures], capsys,
          "was not trained with texts")  # fmt: skip
    flight = ["--text", "words", "--flight", "--name", "spoken", "--map", pictures]
    fails(locate.main, flight, capsys, "--flight is of photos")


def test_words_in_check_and_show(toy, workdir, capsys):
    found = prepare.main(["check", str(toy)])
    assert found["folders"]["train/text"] == (8, 24)
    prepare.main(["show", str(toy), "--buildings", "2", "--output", "views.png"])
    copy = workdir / "copy"
    shutil.copytree(toy, copy)
    (copy / "train/text/0001").mkdir(exist_ok=True)
    next((copy / "train/text").glob("*/*.txt")).write_bytes(b"\xff\xfe")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare.main(["check", str(copy)])
    output = capsys.readouterr()
    assert "cannot be read as a text (it is not in UTF-8): save it again" in output.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--views", "text,drone", "--share"], "--share is of two views of images"),
        (["--views", "text,drone", "--LPN"], "--LPN has no branch for texts"),
        (["--text_tokens", "30"], "--text_tokens goes with a view of texts"),
        (["--views", "text,drone", "--text_tokens", "600"], "more than small takes: give at most"),
        (["--views", "text,drone", "--text_pool", "cls", "--text_backbone", "open_clip:ViT-B-32"],
         "--text_pool cls has no meaning with open_clip:ViT-B-32"),
        (["--views", "text,drone", "--text_lr", "0.5"], "--text_lr is of a pretrained text model"),
        (["--views", "text,drone", "--freeze", "--train_text"], "--train_text goes with --freeze"),
        (["--views", "text,drone", "--text_backbone", "hf:x", "--train_text"],
         "--train_text goes with --freeze"),
        (["--views", "text,drone", "--text_backbone", "hf:x", "--freeze", "--text_lr", "0.5"],
         "--text_lr is of a pretrained text model"),
        (["--views", "text,drone", "--no_flip", "--joint_flips"], "contradict each other"),
        (["--views", "satellite,street,text", "--extra_Google"], "street branch of three views"),
        (["--views", "text,drone", "--compile"], "--compile would compile anew for each length"),
        (["--views", "text,satellite,drone,street"], "is not 2, 3, or two different names"),
    ],
)  # fmt: skip
def test_what_does_not_fit(options, expected, toy, workdir, capsys):
    fails(train.main, ["--data_dir", toy, *WORDS, *options], capsys, expected)


def test_texts_are_not_perturbed(toy, workdir, capsys):
    begin(toy, "spoken", "--views", "text,satellite", "--epochs", "1")
    command = ["--name", "spoken", "--test_dir", toy, "--query", "text", "--device", "cpu"]
    fails(test.main, [*command, "--perturb", "rotate=0:90:45"], capsys, "texts are none")


def test_long_texts_of_the_command_line_are_named_in_short(capsys):
    tokenizer = text.small_tokenizer(["round hall"] * 2)
    samples = [("round hall " * 80, 0), ("hall", 0)]
    texts.TokenizedTexts(samples, [words for words, _ in samples], tokenizer, 8)
    line = capsys.readouterr().err
    assert "1 of 2 texts have more than 8 tokens and were cut, such as 'round hall" in line
    assert len(line) < 220 and "', 0)" not in line


def test_lines_are_those_of_editors(tmp_path):
    """A separator of paragraphs within a line does not begin another."""
    path = tmp_path / "a.txt"
    path.write_bytes("a hall\u2028by a pond\r\n\r\na tower\x0bof brick\n".encode())
    assert [each.name for each in files.samples_of(path)] == ["a.txt:1", "a.txt:3"]
    assert texts.read_texts([f"{path}:3"]) == ["a tower\x0bof brick"]


def test_long_texts_are_counted(toy, workdir, capsys):
    begin(toy, "short", "--views", "text,satellite", "--text_tokens", "8", "--epochs", "1")
    assert "of 24 texts have more than 8 tokens and were cut" in capsys.readouterr().err
    test.main(["--name", "short", "--test_dir", str(toy), "--query", "text", "--device", "cpu"])
    assert "of 15 texts have more than 8 tokens" in capsys.readouterr().err


def test_a_resume_refuses_other_words_of_the_same_length(toy, workdir, capsys):
    data = shutil.copytree(toy, workdir / "data")
    begin(data, "spoken", "--views", "satellite,text")
    path = next((data / "train" / "text").glob("*/*.txt"))
    words = path.read_text()
    path.write_text(words[0].swapcase() + words[1:])
    resume = ["--name", "spoken", "--resume", "--epochs", "3"]
    fails(train.main, resume, capsys, "was trained on 24 texts, and the 24 in --data_dir have "
          "other names or words")  # fmt: skip
    path.write_text(words)
    assert train.main(resume)["epoch"] == 2
