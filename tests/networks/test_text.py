"""Branches for texts: padding, pooling, tokenizers, and what a run keeps of them."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import NARROW
from torch import nn

from model import build_model, load_backbone
from networks import text
from training.optimisation import split_parameters

transformers = pytest.importorskip("transformers")
WORDS = ["A red house by the pond.", "the long blue hall north of a car park", "a pond"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, value in {**sizes, "intermediate_size": 24}.items():
        monkeypatch.setitem(text.SMALL_SIZES, name, value)
    torch.manual_seed(0)


def ids_of(tokenizer, words):
    """Token ids (B, L), -1 beyond the end."""
    rows = [torch.tensor(tokenizer.encode(each).ids) for each in words]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_text_is_read_without_what_follows_it(pool):
    tokenizer, encoder = text.new_texts("small", WORDS * 2, pool)
    ids = ids_of(tokenizer, WORDS)
    assert (ids == -1).any()
    together = encoder.eval()(ids)  # (3, 16)
    for row, found in zip(ids, together, strict=True):
        alone = row[row >= 0][None]
        states = encoder.model(input_ids=alone).last_hidden_state[0]  # (L, 16)
        expected = states.mean(0) if pool == "mean" else states[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_training_from_random_weights_leaves_tokens_out(monkeypatch):
    for part in ("hidden", "attention_probs"):
        monkeypatch.setitem(text.SMALL_SIZES, f"{part}_dropout_prob", 0.0)
    encoder = text.small_encoder(10)
    assert encoder.left_out == text.LEFT_OUT > 0
    assert text.Transformer(encoder.model, "mean", pretrained=True).left_out == 0
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    whole = encoder.eval()(ids)
    encoder.left_out = 0.0
    torch.testing.assert_close(encoder.train()(ids), whole)
    encoder.left_out = 1.0  # all but the first
    torch.testing.assert_close(encoder(ids), encoder.eval()(ids[:, :1]))


def test_an_empty_batch():
    _, encoder = text.new_texts("small", WORDS)
    branch = text.TextBranch(encoder, 8)
    found = branch(torch.empty(0, 1, dtype=torch.long))
    assert found.shape == (0, 8)
    found.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in branch.parameters())


def test_gradients_of_a_model_that_is_computed_twice():
    tokenizer, encoder = text.new_texts("small", WORDS * 2)
    ids, found = ids_of(tokenizer, WORDS), []
    for twice in (False, True):
        if twice:
            encoder.checkpoint_gradients()
        torch.manual_seed(0)  # of the dropout
        encoder.zero_grad()
        encoder.train()(ids).square().sum().backward()
        found.append([x.grad.clone() for x in encoder.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_small_tokenizer_is_made_of_the_texts_alone():
    """Whatever their order: two processes make the same one."""
    tokenizer = text.small_tokenizer(WORDS * 2)
    assert text.small_tokenizer((WORDS * 2)[::-1]).to_str() == tokenizer.to_str()
    assert tokenizer.encode("POND").tokens == ["[CLS]", "pond", "[SEP]"]
    assert "[UNK]" in tokenizer.encode("\u6c60").tokens


@pytest.mark.parametrize("name", ["small", "hf"])
def test_a_run_keeps_what_rebuilds_it(name, tmp_path):
    if name == "hf":
        name = f"hf:{make_folder(tmp_path / 'bert')}"
    tokenizer, encoder = text.new_texts(name, WORDS * 2)
    text.save_texts(tmp_path, tokenizer, encoder)
    again = text.read_encoder(tmp_path, {"text_backbone": name, "text_pool": "mean"})
    again.load_state_dict(encoder.state_dict())
    ids = ids_of(text.read_tokenizer(tmp_path), WORDS)
    assert torch.equal(ids, ids_of(tokenizer, WORDS))
    assert torch.equal(again.eval()(ids), encoder.eval()(ids))
    assert again.pretrained == encoder.pretrained == name.startswith("hf")


def test_a_run_that_has_lost_its_words(tmp_path):
    opts = {"text_backbone": "small"}
    for read in (text.read_tokenizer, lambda folder: text.read_encoder(folder, opts)):
        with pytest.raises(FileNotFoundError, match="a run with texts keeps it"):
            read(tmp_path)
    for name in ("tokenizer.json", "text_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer .*restore it"):
        text.read_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"text_config\.json does not describe a text model"):
        text.read_encoder(tmp_path, opts)


def test_a_run_with_the_files_of_another(tmp_path):
    """Settings of the wrong type, and a tokenizer of more words than the text model has."""
    tokenizer, encoder = text.new_texts("small", WORDS * 2)
    text.save_texts(tmp_path, tokenizer, encoder)
    text.need_same_words(tokenizer, encoder, "model/run")
    larger = text.small_tokenizer([*WORDS * 2, *["many other words, of other buildings"] * 2])
    with pytest.raises(ValueError, match="model/run has a tokenizer with the id"):
        text.need_same_words(larger, encoder, "model/run")
    path = tmp_path / "text_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": "x"}))
    with pytest.raises(ValueError, match=r"text_config\.json does not describe a text model"):
        text.read_encoder(tmp_path, {"text_backbone": "small"})


def make_folder(folder):
    """A folder as of a model of the transformers library, whose tokenizer pads and cuts."""
    tokenizer = text.small_tokenizer(WORDS * 2)
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(4)
    config = transformers.BertConfig(vocab_size=tokenizer.get_vocab_size(), **text.SMALL_SIZES)
    transformers.BertModel(config).save_pretrained(folder)
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[UNK]", **special
    )
    fast.save_pretrained(folder)
    return folder


def test_a_model_of_a_folder_gives_what_its_library_gives(tmp_path):
    folder = make_folder(tmp_path / "bert")
    tokenizer, encoder = text.new_texts(f"hf:{folder}", [])
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = ids_of(tokenizer, WORDS)
    for row, found in zip(ids, encoder.eval()(ids), strict=True):
        expected = model(input_ids=row[row >= 0][None]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert encoder.model.pooler is None  # unused, its gradients would never come
    assert encoder.longest == 512


def test_what_begins_at_random_learns_at_the_rate_of_the_head(tmp_path):
    _, encoder = text.new_texts(f"hf:{make_folder(tmp_path / 'bert')}", [])
    branch = text.TextBranch(encoder, 8)
    assert {*branch.new_parameters()} == {*branch.linear.parameters()}
    branch.freeze()
    assert not any(x.requires_grad for x in encoder.parameters())
    assert not branch.train().encoder.training and branch.linear.training
    network = build_model(3, ("text", "drone"), backbone=NARROW, encoder=encoder)
    head, backbone, words = split_parameters(network)
    assert {*map(id, words)} == {*map(id, encoder.parameters())}
    assert {*map(id, network.model_1.linear.parameters())} < {*map(id, head)}
    assert {*map(id, backbone)} == {*map(id, network.model_2.parameters())}
    assert len(head) + len(backbone) + len(words) == len([*network.parameters()])
    small = text.TextBranch(text.small_encoder(10), 8)
    assert {*small.new_parameters()} == {*small.parameters()}
    small.freeze()
    assert all(x.requires_grad for x in small.parameters()) and small.train().encoder.training


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", "expected small, hf:NAME or open_clip:NAME"),
        ("hf:no/such/folder", "cannot be read"),
        ("open_clip:ViT-nothing", "open_clip has no network 'ViT-nothing'"),
    ],
)
def test_a_wrong_name(name, expected, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    with pytest.raises((ValueError, OSError), match=expected) as error:
        text.new_texts(name, WORDS)
    assert "\n" not in str(error.value)


def config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def without_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def other_id(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["the"] = 40000
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs"),
         "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
        (config(hidden_size="x"), "cannot be read"),
        (config(hidden_size=64), "lacks .* of the weights that its config.json describes"),
        (config(num_hidden_layers=9), "lacks .* of the weights that its config.json describes"),
        (without_tokenizer, "has no tokenizer.json that knows words"),
        (other_id, "has a tokenizer with the id 40000 and a text model of"),
    ],
)  # fmt: skip
def test_a_damaged_folder(damage, expected, tmp_path):
    """Whatever the libraries beneath raise: one line, and no run of words that mean nothing."""
    folder = make_folder(tmp_path / "bert")
    damage(folder)
    with pytest.raises((ValueError, OSError), match=expected) as error:
        text.new_texts(f"hf:{folder}", WORDS)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_network_of_images_is_no_text_model(tmp_path):
    folder = make_folder(tmp_path / "vit")
    settings = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 24}  # fmt: skip
    transformers.ViTModel(transformers.ViTConfig(**settings)).save_pretrained(folder)
    with pytest.raises(ValueError, match="is a ViTModel, no encoder of texts alone"):
        text.new_texts(f"hf:{folder}", WORDS)


def test_a_package_that_does_not_work_here(monkeypatch, tmp_path):
    """As one does that another's version does not suit."""
    (tmp_path / "tokenizers.py").write_text("raise ImportError('needs regex>=9\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tokenizers")
    expected = r"tokenizers package, which cannot be imported here \(needs regex>=9\): pip install"
    with pytest.raises(ValueError, match=expected):
        text.new_texts("small", WORDS)


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_without_the_packages(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs the {package} package: .*requirements-text.txt"):
        text.new_texts("small", WORDS)


def test_no_text_model_needs_them():
    """Modules are imported where they are used alone."""
    code = "import model, test, train, locate, extract, training.build, sys;"
    code += "assert not {'transformers', 'tokenizers', 'open_clip'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---------------------------------------------------------------- networks
def test_shared_branches_are_those_of_images():
    encoder = text.small_encoder(10)
    views = ("satellite", "drone", "text")
    network = build_model(3, views, backbone=NARROW, share=True, encoder=encoder)
    assert network.model_2 is network.model_1
    assert network.model_3.encoder is encoder
    images, ids = torch.rand(2, 3, 32, 32), torch.tensor([[1, 4, 2], [1, 2, -1]])
    assert [y.shape for y in network(images, images, ids)] == [(2, 3)] * 3
    assert network.embed(ids, 3).shape == (2, 512)


def test_text_may_come_first():
    network = build_model(3, ("text", "drone"), backbone=NARROW, encoder=text.small_encoder(10))
    assert network.image_branch is network.model_2
    logits, nothing = network(torch.tensor([[1, 4, 2], [1, 2, -1]]), None)
    assert logits.shape == (2, 3) and nothing is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"share": True}, "--share is of two views of images"),
        ({"LPN": True}, "--LPN has no branch for texts"),
        ({"musenet": True}, "--musenet has no branch for texts"),
    ],
)
def test_what_has_no_texts(options, expected):
    with pytest.raises(ValueError, match=expected):
        build_model(3, ("text", "drone"), backbone="resnet18", encoder=None, **options)


# ---------------------------------------------------------------- open_clip
@pytest.fixture
def tower(tmp_path):
    """A tiny CLIP of open_clip, by name."""
    library = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    library.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


def test_a_text_tower_of_clip(tower, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    tokenizer, encoder = text.new_texts(f"open_clip:{tower}", WORDS)
    ids = ids_of(tokenizer, WORDS)
    theirs = open_clip.get_tokenizer(tower)(WORDS)  # (3, 77), 0 beyond the end
    assert torch.equal(ids.clamp(min=0), theirs[:, : ids.shape[1]])
    expected = encoder.eval().model(theirs)
    torch.testing.assert_close(encoder(ids), expected, rtol=1e-4, atol=1e-5)
    assert (encoder.width, encoder.longest) == (24, 77)
    text.save_texts(tmp_path, tokenizer, encoder)
    again = text.read_encoder(tmp_path, {"text_backbone": f"open_clip:{tower}"})
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    ["Don't stop: it's 12 storeys high!", "Tennis-courts\tand  ponds", "caf\u00e9 \u6c60 :-)"],
)
def test_clips_tokenizer(words):
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.tokenizer.SimpleTokenizer()
    expected = [theirs.sot_token_id, *theirs.encode(words), theirs.eot_token_id]
    assert text.clip_tokenizer("open_clip:ViT-B-32").encode(words).ids == expected


def test_a_pair_of_towers(tower, tmp_path):
    """Images and texts meet where CLIP lets them meet, before anything is trained."""
    open_clip = pytest.importorskip("open_clip")
    name = f"open_clip:{tower}"
    pair = open_clip.create_model(tower, force_custom_text=True).eval()
    torch.save(pair.state_dict(), tmp_path / "pair.pt")
    tokenizer, encoder = text.new_texts(f"{name}/{tmp_path / 'pair.pt'}", WORDS)
    views = ("satellite", "text")
    options = {"backbone": name, "head": "none", "image_size": (32, 32), "encoder": encoder}
    network = build_model(3, views, **options).eval()
    load_backbone(network, pair.state_dict(), "pair.pt")
    images, ids = torch.rand(2, 3, 32, 32), ids_of(tokenizer, WORDS)
    found = network.embed(images, 1), network.embed(ids, 2)
    expected = pair.encode_image(images), pair.encode_text(open_clip.get_tokenizer(tower)(WORDS))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert network.input_spec.size == (32, 32) and network.input_spec.mean[0] == 0.48145466
    network.model_1.freeze(1)
    trained = {name for name, x in network.model_1.named_parameters() if x.requires_grad}
    assert any("resblocks.0" in name for name in trained) and "model.conv1.weight" not in trained
    with pytest.raises(ValueError, match="takes images of 32 x 32 pixels only"):
        network.embed(torch.rand(2, 3, 48, 48), 1)
    with pytest.raises(ValueError, match="one feature, no map to pool in parts"):
        build_model(3, views, **options, pool="rings")


def test_weights_of_a_clip_that_are_not_there(tower):
    with pytest.raises(OSError, match="weights nothing.pt of open_clip's tiny-clip cannot be read"):
        text.new_texts(f"open_clip:{tower}/nothing.pt", WORDS)
