"""What an exported file says of itself: the names and values of its metadata.

Each value is text, what is no text as JSON: `run`, `view`, `weights_sha256` (of the file of the
weights), `precision` (fp32, fp16 or int8), `h` and `w` (pixels), `size` (fixed, or any), `flips`
(whether the mirror image is added), `turns` (right-angle turns that are added), `options` (of the
run, those that describe its network), and `input` and `output` in words.
"""

import json

FORMAT = "geo-localization view 1"  # the number is raised when older files are to be refused
INPUT = "images: uint8 (B, 3, h, w), RGB, 0 to 255, not normalised"
OUTPUT = "feature: float32 (B, D), rows of length 1"
PLAIN = ("format", "run", "view", "weights_sha256", "precision", "size", "input", "output")
NAMES = (*PLAIN, "h", "w", "flips", "turns", "options")
# Options of a run that describe its network; the others, such as folders, stay at home.
OPTIONS = ("views", "view_names", "extra_Google", "backbone", "pool", "block", "LPN", "usam",
           "musenet", "maps", "head", "embedding_dim", "center", "whiten", "h", "w", "turns",
           "nclasses", "stride", "share")  # fmt: skip


def options_of(run_opts):
    """The options of a run (a dict) that an exported file tells."""
    return {name: run_opts[name] for name in OPTIONS if name in run_opts}


def to_text(about):
    """{name: value} as {name: text}."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}


def from_text(texts, path):
    """{name: value} of the {name: text} in the file `path`; ValueError where it is no such file."""
    if texts.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no view of a run: its metadata has format {texts.get('format')!r}, "
            f"expected {FORMAT!r}; write it with `python export.py`"
        )
    try:
        return {name: texts[name] if name in PLAIN else json.loads(texts[name]) for name in NAMES}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has damaged metadata ({error}): export it again") from None
