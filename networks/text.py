"""Texts as a view: a tokenizer, a transformer over its token ids, and the branch of a network.

What is special about words is here and in imaging/texts.py; to the rest of a network a text is a
pooled feature, as an image is. Three kinds of transformers (`--text_backbone`):

    small            random weights, and a tokenizer trained on the training texts; nothing to load
    hf:NAME          one of the transformers library, of its hub or of a folder, with its tokenizer
    open_clip:NAME   the text tower of a CLIP of open_clip; NAME/TAG or NAME/FILE for its weights

A run keeps what rebuilds them in its folder: tokenizer.json, and text_config.json of the first two.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from networks.clip_models import CLIP, build_clip, clip_names, clip_tokenizer
from networks.options import TEXT_CONFIG, TOKENIZER
from networks.run_options import option_in
from runtime.bundles import read_bytes
from runtime.files import write_text
from runtime.optional import require
from runtime.printing import first_line

SMALL, HF = "small", "hf:"
WANTED = "-r requirements-text.txt"
VOCABULARY = 4096  # of the small tokenizer, at most
# Share of its tokens that an encoder of random weights goes without, drawn anew in each step of
# training: from a thousand descriptions it otherwise learns these by heart.
LEFT_OUT = 0.2
SMALL_SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
}
START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"


class TextBranch(nn.Module):
    """Token ids (B, L) int64, -1 where a text has ended -> pooled feature (B, D), as of an image.

    `encoder` gives a feature of the text; a linear layer takes it to the D numbers that the
    branches of the images have, so that all views share one head. Where both have as many numbers,
    as the towers of a CLIP, it begins as the identity.
    """

    frozen = False

    def __init__(self, encoder, pooled_dim):
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.width, pooled_dim)
        if encoder.pretrained and encoder.width == pooled_dim:
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def feature_maps(self, ids):
        """(B, L) -> [(B, W)]: what `pooled` takes."""
        if len(ids) == 0:  # not every attention takes no texts, and all weights need a gradient
            return [self.encoder(ids.new_zeros(1, 1))[:0]]
        return [self.encoder(ids)]

    def pooled(self, maps):
        """[(B, W)] -> (B, D)."""
        return self.linear(maps[0])

    def forward(self, ids):
        return self.pooled(self.feature_maps(ids))

    def new_parameters(self):
        """The parameters that begin at random, whose learning rate is that of the head."""
        return (self.linear if self.encoder.pretrained else self).parameters()

    def freeze(self):
        """From now on a pretrained transformer stays as it is; a random one trains all the same."""
        if self.encoder.pretrained:
            self.encoder.requires_grad_(False)
            self.frozen = True
            self.train(self.training)

    def train(self, mode=True):
        """As in torch, but what `freeze` has frozen stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class Transformer(nn.Module):
    """A text model of the transformers library: ids (B, L), -1 for nothing -> (B, W).

    `pool` "mean" is the mean over the tokens of the last layer, "cls" the first of them. Without
    pretrained weights, training leaves out tokens at random (`LEFT_OUT`), never the first.
    """

    def __init__(self, model, pool, pretrained):
        super().__init__()
        self.model, self.pool, self.pretrained = model, pool, pretrained
        self.left_out = 0 if pretrained else LEFT_OUT
        self.width, self.longest = model.config.hidden_size, _positions(model.config)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # of the class token, for tasks of its training
        self.config = model.config

    def checkpoint_gradients(self):
        """As `networks.branch.Branch.checkpoint_gradients`."""
        # The name since transformers 5, and the one before.
        new = getattr(self.model, "activation_checkpointing_enable", None)
        (new or self.model.gradient_checkpointing_enable)({"use_reentrant": False})

    def forward(self, ids):
        kept = ids >= 0  # (B, L)
        if self.training and self.left_out:
            drawn = torch.rand(ids.shape, device=ids.device) >= self.left_out
            drawn[:, 0] = True
            kept = kept & drawn
        states = self.model(input_ids=ids.clamp(min=0), attention_mask=kept.long())[0]  # (B, L, W)
        if self.pool == "cls":
            return states[:, 0]
        kept = kept[..., None].to(states.dtype)
        return (states * kept).sum(1) / kept.sum(1).clamp(min=1)


class ClipText(nn.Module):
    """The text tower of an open_clip network: ids (B, L), -1 for nothing -> (B, W)."""

    def __init__(self, model, pretrained):
        super().__init__()
        self.model, self.pretrained = model, pretrained
        self.width, self.longest, self.config = model.output_dim, model.context_length, None

    def checkpoint_gradients(self):
        """As `networks.branch.Branch.checkpoint_gradients`."""
        self.model.set_grad_checkpointing(True)

    def forward(self, ids):
        ids = functional.pad(ids.clamp(min=0), (0, self.longest - ids.shape[1]))
        return self.model(ids)  # which pools at the highest id, the end of the text


def text_branches_of(network):
    """The branches for texts of a multi-view network."""
    return [module for module in network.modules() if isinstance(module, TextBranch)]


def _positions(config):
    """The most tokens that a model of the transformers library takes, start and end included."""
    count = getattr(config, "max_position_embeddings", None) or 512
    # Positions of RoBERTa's kind begin behind that of its padding.
    behind = ("roberta", "camembert", "mpnet")
    return count - 2 if any(kind in config.model_type for kind in behind) else count


# ---------------------------------------------------------------- a new run
def new_texts(name, texts, pool="mean"):
    """(tokenizer, encoder) of `--text_backbone name` for a run that begins.

    `texts` are the training texts, of which the small tokenizer learns its words. Raises ValueError
    where the name is unknown or a package is missing, OSError where weights cannot be read.
    """
    if name == SMALL:
        tokenizer = small_tokenizer(texts)
        return tokenizer, small_encoder(tokenizer.get_vocab_size(), pool)
    if name.startswith(HF):
        return _from_transformers(name.removeprefix(HF), texts, pool)
    if name.startswith(CLIP):
        return clip_tokenizer(name), _clip_text(name, True)
    raise ValueError(f"--text_backbone {name}: expected {SMALL}, {HF}NAME or {CLIP}NAME")


def small_tokenizer(texts):
    """A tokenizer of byte pairs (Sennrich et al., ACL 2016) trained on texts, in lower case."""
    library = require("tokenizers", "a view of texts", WANTED)
    tokenizer = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFKC(), library.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    trainer = library.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[UNKNOWN, START, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = library.processors.BertProcessing(ends[1], ends[0])
    return tokenizer


def small_encoder(vocabulary, pool="mean"):
    """A transformer of BERT's kind for so many tokens, with random weights."""
    library = _transformers("a view of texts")
    config = library.BertConfig(vocab_size=vocabulary, **SMALL_SIZES)
    return Transformer(library.BertModel(config, add_pooling_layer=False), pool, False)


def _transformers(purpose):
    """The transformers library, whose models cannot even be named without tokenizers."""
    require("tokenizers", purpose, WANTED)
    return require("transformers", purpose, WANTED)


def _from_transformers(name, texts, pool):
    """(tokenizer, `Transformer`) of a name of the hub or a folder, for these training texts."""
    library = _transformers("--text_backbone hf:NAME")
    files = "name a folder that holds config.json, tokenizer.json and model.safetensors"
    told = f"--text_backbone hf:{name}"
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(name, use_fast=True)
        library.logging.set_verbosity_error()  # its table of weights is told in one line below
        model, loading = library.AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # the libraries beneath have no class of errors
        raise OSError(
            f"{told} cannot be read ({first_line(error)}): {files}, or take the small one, which "
            "needs no download"
        ) from None
    # A mismatched one is (name, shape in the file, shape in the model).
    absent = {*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])}
    absent = sorted(key for key in absent if not key.startswith("pooler."))
    if absent:
        raise ValueError(
            f"{told} lacks {len(absent)} of the weights that its config.json describes, such as "
            f"{absent[0]}: {files} of one model"
        )
    if not tokenizer.is_fast or _is_deaf(tokenizer, texts):
        raise ValueError(f"{told} has no tokenizer.json that knows words: {files}")
    if model.config.is_encoder_decoder or not hasattr(_embedding(model), "num_embeddings"):
        raise ValueError(
            f"{told} is a {type(model).__name__}, no encoder of texts alone: name one such as "
            "sentence-transformers/all-MiniLM-L6-v2"
        )
    encoder = Transformer(model, pool, True)
    need_same_words(tokenizer.backend_tokenizer, encoder, told)
    return tokenizer.backend_tokenizer, encoder


def _is_deaf(tokenizer, texts):
    """Whether a tokenizer of the transformers library knows no part of any of these texts."""
    known = {*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids}
    encoded = tokenizer.backend_tokenizer.encode_batch(list(texts)[:100])
    return bool(texts) and not any(known.intersection(each.ids) for each in encoded)


def _embedding(model):
    """The layer that takes the ids of a model of the transformers library; None without one."""
    return model.get_input_embeddings() if hasattr(model.config, "hidden_size") else None


def need_same_words(tokenizer, encoder, told):
    """ValueError where a tokenizer has ids that an encoder does not know; `told` names them."""
    if isinstance(encoder, Transformer):
        rows = _embedding(encoder.model).num_embeddings
        last = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if last >= rows:
            raise ValueError(
                f"{told} has a tokenizer with the id {last} and a text model of {rows} ids: give "
                "the files of one model"
            )


def _clip_text(name, pretrained):
    """The `ClipText` of open_clip:NAME."""
    tower = build_clip(name, pretrained).text
    if not hasattr(tower, "token_embedding"):
        raise ValueError(f"{name} has no text tower of CLIP's kind: choose another")
    return ClipText(tower, bool(clip_names(name)[1]))


# ---------------------------------------------------------------- in the folder of a run
def save_texts(run_dir, tokenizer, encoder):
    """Write what `read_tokenizer` and `read_encoder` need into a run's folder."""
    write_text(Path(run_dir) / TOKENIZER, tokenizer.to_str())
    if encoder.config is not None:
        write_text(Path(run_dir) / TEXT_CONFIG, json.dumps(encoder.config.to_dict(), indent=1))


def read_tokenizer(run_dir):
    """The tokenizer of a run with texts; ValueError or OSError where there is none."""
    library = require("tokenizers", "a view of texts", WANTED)
    path, content = _read(run_dir, TOKENIZER)
    try:
        return library.Tokenizer.from_str(content)
    except Exception as error:  # the library has no class of errors
        raise ValueError(f"{path} is no tokenizer ({first_line(error)}): restore it") from None


def read_encoder(run_dir, opts):
    """The encoder of a run with texts, with random weights, from its folder and options (a dict).

    Raises ValueError or OSError where the folder does not hold what `save_texts` wrote.
    """
    name = option_in(opts, "text_backbone", str, None)
    pool = option_in(opts, "text_pool", str, "mean")
    if name.startswith(CLIP):
        return _clip_text(name, False)
    library = _transformers("a view of texts")
    path, content = _read(run_dir, TEXT_CONFIG)
    try:
        settings = json.loads(content)
        config = library.AutoConfig.for_model(settings.pop("model_type"), **settings)
        return Transformer(library.AutoModel.from_config(config), pool, name != SMALL)
    except Exception as error:  # the library has no class of errors
        reason = first_line(error)
        raise ValueError(f"{path} does not describe a text model ({reason}): restore it") from None


def _read(run_dir, name):
    """(path, text) of a file of a run, which may be a bundle."""
    path = Path(run_dir) / name
    try:
        return path, read_bytes(path).decode()
    except FileNotFoundError:
        expected = "a run with texts keeps it: restore the folder"
        raise FileNotFoundError(f"{path} not found: {expected}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: restore it") from None
