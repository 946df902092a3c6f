"""Find images by words and words by images, beside a bag of words and chance.

python benchmarks/words.py data/toy
python benchmarks/words.py data/toy --text_backbone hf:FOLDER    # a pretrained text model

A network from random weights learns the satellite and drone images by recipes/strong.yaml. It then
stays as it is (`--init --freeze`), and a text model learns the descriptions by
recipes/geotext.yaml, in three times as many passes; a pretrained one trains too (`--train_text`).
The bag of words does without word order and without a network: which words a description has, taken
by least squares to the features of the images of its building. These are once those of the first
run, and once those of the second, whose head has learnt from the words too.
"""

import math
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

import recipes  # noqa: E402
from evaluation.feature_file import Features, load_features  # noqa: E402
from evaluation.metrics import evaluate  # noqa: E402
from imaging.files import DRONE, SATELLITE, TEXT, scan_classes, split_folder  # noqa: E402
from imaging.texts import read_texts  # noqa: E402
from runtime.cli import read_config, script  # noqa: E402

VIEWS = {SATELLITE: "S", DRONE: "D"}
RECALLS = ("recall@1", "recall@10")
BATCH = 64  # of words: InfoNCE learns from the others of a batch, and a text costs little
RIDGE = 1.0  # added to the squares, so that rare words do not decide alone
IMAGES, WORDS = "strong", "words"  # runs
BAGS = {"bag of words": IMAGES, "bag of words upon the run of words": WORDS}
ROWS = "words", *BAGS, "chance"


# ---------------------------------------------------------------- one run
def train_and_test(opts, seed):
    """Train a run of images, upon it one of words, and test all tasks: the seconds of training."""
    import test
    import train

    start = time.perf_counter()
    images, words = recipes.find_recipes([IMAGES, "geotext"])
    # The network of the images; a frozen one sees the same eight copies of an image again and
    # again, so that its features are computed once.
    own = read_config(images)
    shared = ["--pool", own["pool"], "--maps", ",".join(map(str, own["maps"]))]
    turned = ["--turn", "--flip", "--turns", own["turns"], "--pad", "0"]
    pretrained = opts.text_backbone != "small"  # which would be frozen too
    argv = ["--config", words, "--name", WORDS, "--init", IMAGES, "--freeze", *shared, *turned,
            "--overwrite", "--train_all", "--data_dir", opts.data, "--backbone", opts.backbone,
            "--text_backbone", opts.text_backbone, "--h", opts.size, "--w", opts.size,
            "--cache", "ram", "--batchsize", BATCH, "--epochs", opts.passes * 3,
            "--seed", seed, "--device", opts.device, *["--bf16"] * opts.bf16,
            *["--train_text"] * pretrained]  # fmt: skip
    with recipes.quietly():
        train.main(recipes.run_options(images, opts, seed))
        train.main(list(map(str, argv)))
        seconds = time.perf_counter() - start
        for name in (IMAGES, WORDS):
            test.main(["--name", name, "--test_dir", opts.data, "--all", "--device", opts.device,
                       "--output", f"{name}.npz"])  # fmt: skip
    return seconds


def run_seed(opts, seed):
    """{row: {task: metrics}} of a seed, and the seconds of the training."""
    results = {"seconds": train_and_test(opts, seed), **{row: {} for row in ROWS}}
    for view in VIEWS:
        bags = {row: BagOfWords(opts.data, image_features(opts, run, view))
                for row, run in BAGS.items()}  # fmt: skip
        # The place of the texts and that of the images: queries are 0, the gallery 1.
        for task, texts, images in ((f"{TEXT}_{view}", 0, 1), (f"{view}_{TEXT}", 1, 0)):
            sides = list(load_features(f"{WORDS}_{task}.npz"))
            results["words"][task] = evaluate(*sides)
            results["chance"][task] = chance(*sides)
            sentences = sides[texts]
            for row, bag in bags.items():
                sides[texts] = bag.of(sentences)
                sides[images] = tested_images(BAGS[row], view, images)
                results[row][task] = evaluate(*sides)
    return results


def tested_images(run, view, place):
    """`Features` of a view's queries (`place` 0) or gallery (1) by a run."""
    (other,) = {*VIEWS} - {view}
    task = (f"{view}_{other}", f"{other}_{view}")[place]
    return load_features(f"{run}_{task}.npz")[place]


def image_features(opts, run, view):
    """{ID: mean feature (D,)} of the training images of a view by a run, made as in its test."""
    import torch

    import model
    from extract import extract_features
    from imaging.cache import open_view
    from networks.inference import inference_copy

    device = torch.device(opts.device)
    classes = scan_classes(split_folder(opts.data, "train") / view)
    paths = [path for images in classes.values() for path in images]
    with recipes.quietly():
        network, numbers, made = model.load_run(run, "last", device)
        images = open_view(paths, opts.size, opts.size)
        found = extract_features(
            inference_copy(network), numbers[view], paths, images, device=device,
            turns=made["turns"], flip=not made["no_flip"],
        )  # fmt: skip
    rows = iter(found)
    return {n: np.mean([next(rows) for _ in images], axis=0) for n, images in classes.items()}


# ---------------------------------------------------------------- a bag of words
class BagOfWords:
    """Which words a description has -> a feature, by least squares; order and grammar are lost."""

    def __init__(self, data, features):
        """`features` is {ID: feature (D,)} of the images of a view of the training buildings."""
        classes = scan_classes(split_folder(data, "train") / TEXT)
        pairs = [(sample, name) for name, samples in classes.items() for sample in samples]
        pairs = [(sample, name) for sample, name in pairs if name in features]
        texts = [words_of(text) for text in read_texts(sample for sample, _ in pairs)]
        counts = Counter(word for words in texts for word in words)
        self.columns = {w: n for n, w in enumerate(w for w, count in counts.items() if count > 1)}
        x, y = self.presence(texts), np.stack([features[name] for _, name in pairs])
        self.mean = y.mean(0)
        squares = x.T @ x + RIDGE * np.eye(x.shape[1])
        self.weights = np.linalg.solve(squares, x.T @ (y - self.mean))  # (V, D)

    def presence(self, texts):
        """Sets of words -> (N, V), 1 where a text has the word, and a last column of ones."""
        found = np.zeros((len(texts), len(self.columns) + 1))
        found[:, -1] = 1
        for row, words in zip(found, texts, strict=True):
            row[[self.columns[word] for word in words if word in self.columns]] = 1
        return found

    def of(self, texts):
        """`Features` of texts become those of their words."""
        x = self.presence([words_of(text) for text in read_texts(texts.paths)])
        y = x @ self.weights + self.mean
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        return Features(y.astype(np.float32), texts.labels, texts.paths)


def words_of(text):
    """The words of a text, in lower case."""
    return {*re.findall(r"\w+", text.lower())}


def chance(query, gallery):
    """Recall@1 and @10, percent, of a random ranking."""
    total = len(gallery.labels)
    found = {}
    for name in RECALLS:
        first = min(int(name.removeprefix("recall@")), total)
        wrong = [(gallery.labels != label).sum() for label in query.labels]
        missed = [math.comb(int(number), first) / math.comb(total, first) for number in wrong]
        found[name] = 100 * (1 - float(np.mean(missed)))
    return found


# ---------------------------------------------------------------- table
def table_rows(results):
    """A row each of ROWS: Recall@1 and @10 of every task, mean and deviation of the seeds."""
    return [
        [row, *(recipes.spread([run[row][task][metric] for run in results])
                for task in results[0][row] for metric in RECALLS)]
        for row in ROWS
    ]  # fmt: skip


def parse_args(argv=None):
    """Options of the comparison."""
    parser = recipes.build_parser(__doc__)
    parser.add_argument("--text_backbone", default="small", help="text model, as of train.py")
    parser.set_defaults(passes=16)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Train and test with all seeds, print the table; returns what --json writes."""
    opts = parse_args(argv)
    opts.data = str(Path(opts.data).resolve())
    folder = Path(opts.text_backbone.removeprefix("hf:"))
    if folder.is_dir():
        opts.text_backbone = f"hf:{folder.resolve()}"
    target = opts.json and Path(opts.json).resolve()
    results = []
    outcome = {"options": vars(opts), "results": results}
    with measure.working_folder():
        for seed in range(opts.seeds):
            results.append(run_seed(opts, seed))
            recall = results[-1]["words"][f"{TEXT}_{SATELLITE}"]["recall@1"]
            print(f"seed {seed}: text -> satellite {recall:.1f}, {results[-1]['seconds']:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
            measure.write_json(target, outcome)
    print(f"{opts.passes} passes, {opts.seeds} seed(s), {opts.backbone} from random weights, "
          f"{opts.size} pixels; percent, mean ± standard deviation\n")  # fmt: skip
    tasks = [f"T>{short}" if task.startswith(TEXT) else f"{short}>T"
             for short in VIEWS.values() for task in (TEXT, "")]  # fmt: skip
    headers = [f"{task} {metric}" for task in tasks for metric in ("R@1", "R@10")]
    measure.print_table(table_rows(results), ["", *headers])
    return outcome


if __name__ == "__main__":
    main()
