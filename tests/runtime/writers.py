"""Everything of the project that writes a file, for tests that leave it no room.

$ python tests/runtime/writers.py FOLDER SOURCE.png LIMIT    # no file larger than LIMIT bytes
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import demo
import utils
from deploy import bundle
from evaluation import feature_file, index, protocols
from imaging import cache
from locating import features
from runtime import files
from sources import carry_out, plan, show

NOISE = np.random.default_rng(0)
ROWS = NOISE.random((500, 32), dtype=np.float32)
SIDE = feature_file.Features(ROWS, np.arange(500), ["a.jpg"] * 500)
PIXELS = NOISE.integers(0, 255, (200, 200, 3), dtype=np.uint8)


def draw_chart(path):
    with utils.chart(path, (9, 9)) as axes:
        axes[0].plot(ROWS[:50])


def draw_retrieved(path, source):
    result = {"index": 0, "label": 0, "path": str(source), "first_match": None, "retrieved": []}
    opts = types.SimpleNamespace(test_dir=None, output=str(path), no_window=True)
    demo.save_and_show([result], opts)


def write_index(path):
    import faiss

    found = faiss.IndexFlatIP(ROWS.shape[1])
    found.add(ROWS)
    index.write_index(path, found)


# What each does, by the name of its file: from the file's path and that of an image.
WRITERS = {
    "net.pth": lambda p, s: utils.save_tensors(p, {"a": torch.zeros(20_000)}),
    "state.pth": lambda p, s: utils.save_tensors(p, {"s": [{"a": torch.zeros(20_000)}], "n": 1}),
    "f.mat": lambda p, s: feature_file.save_features(p, SIDE, SIDE),
    "f.npz": lambda p, s: feature_file.save_features(p, SIDE, SIDE),
    "train.jpg": lambda p, s: draw_chart(p),
    "show.png": draw_retrieved,
    "opts.yaml": lambda p, s: files.write_yaml(p, {"a": "x" * 50_000}),
    "answer.txt": lambda p, s: protocols.write_answer(p, ["\t".join(["x" * 999] * 10)] * 5),
    "c.npy": lambda p, s: cache._write_cache(p, [s] * 9, lambda p: PIXELS, (9, 200, 200, 3), 1),
    "copy.png": lambda p, s: carry_out._place(s, p, True),
    "changed.png": lambda p, s: carry_out._write_new(plan.Entry(s, p.name, lambda x: x), p),
    "views.png": lambda p, s: show.write_sheet(p, [[(Image.fromarray(PIXELS), "a")]]),
    "run.zip": lambda p, s: bundle.write_bundle(p, {"net_last.safetensors": PIXELS.tobytes()}),
    "map.npy": lambda p, s: features._write(p, [s] * 500, lambda paths: ROWS, None),
    "toy.jpg": lambda p, s: files.write_bytes(p, PIXELS.tobytes()),
}


if importlib.util.find_spec("faiss"):
    WRITERS["map.faiss"] = lambda p, s: write_index(p)


def write_all(folder, source):
    """{file name: why it could not be written, "" if it was}."""
    messages = dict.fromkeys(WRITERS, "")
    for name, write in WRITERS.items():
        try:
            write(Path(folder) / name, source)
        except OSError as error:
            messages[name] = str(error)
    return messages


def main(folder, source, limit):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    print(json.dumps(write_all(folder, Path(source))))


if __name__ == "__main__":
    main(*sys.argv[1:])
