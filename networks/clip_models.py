"""Networks of the open_clip package, `open_clip:NAME` or `open_clip:NAME/TAG`.

A CLIP (Radford et al., ICML 2021) is a pair of towers, of images and of texts, that were trained
together: both give the same feature for what belongs together. TAG names weights that open_clip
downloads, or is a file of them.
"""

from runtime.optional import require
from runtime.printing import first_line

CLIP = "open_clip:"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's


def clip_package():
    """The package, or ValueError that says how to install it."""
    return require("open_clip", f"{CLIP}NAME", "open_clip_torch")


def clip_names(name):
    """(architecture, TAG or None) of `open_clip:NAME/TAG`; ValueError for an unknown one."""
    architecture, _, weights = name.removeprefix(CLIP).partition("/")
    known = clip_package().list_models()
    if architecture not in known:
        some = ", ".join(name for name in known if name.startswith("ViT-B"))
        raise ValueError(f"open_clip has no network {architecture!r}: there are {some}, ...")
    return architecture, weights or None


def clip_config(name):
    """(side of the images in pixels, mean and deviation of their colours) of `open_clip:NAME`."""
    architecture, weights = clip_names(name)
    package = clip_package()
    side = package.get_model_config(architecture)["vision_cfg"]["image_size"]
    about = package.get_pretrained_cfg(architecture, weights) if weights else {}
    return side, tuple(about.get("mean", MEAN)), tuple(about.get("std", STD))


def build_clip(name, pretrained=False):
    """The pair of towers, `.visual` and `.text`, with random weights or those that TAG names.

    OSError where these cannot be read.
    """
    architecture, weights = clip_names(name)
    try:
        return clip_package().create_model(
            architecture, weights if pretrained else None, force_custom_text=True
        )
    except Exception as error:  # open_clip and what it reads with have no class of errors
        raise OSError(
            f"the weights {weights} of open_clip's {architecture} cannot be read "
            f"({first_line(error)}): fetch them on another machine, and give "
            f"{CLIP}{architecture}/FILE for the texts and --weights FILE for the "
            f"images, or leave /{weights} out to begin at random"
        ) from None


def clip_tokenizer(name):
    """CLIP's tokenizer as one of the tokenizers library."""
    library = require("tokenizers", "a view of texts", "-r requirements-text.txt")
    own = clip_package().get_tokenizer(clip_names(name)[0])
    if not hasattr(own, "bpe_ranks"):
        raise ValueError(f"{name} has a tokenizer of another kind than CLIP's: choose another")
    start, end = "<start_of_text>", "<end_of_text>"
    tokenizer = library.Tokenizer(
        library.models.BPE(
            vocab=own.encoder,
            merges=list(own.bpe_ranks),
            unk_token=end,
            end_of_word_suffix="</w>",
        )
    )
    normalizers, before = library.normalizers, library.pre_tokenizers
    spaces = normalizers.Replace(library.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    words = before.Split(library.Regex(pattern), "removed", invert=True)
    letters = before.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = before.Sequence([words, letters])
    tokenizer.post_processor = library.processors.RobertaProcessing(
        (end, own.encoder[end]),
        (start, own.encoder[start]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer
