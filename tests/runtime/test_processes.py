"""Several processes, started by torchrun as a user would: the same run as one process, faster."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from conftest import SMALL, SMALL_COMMAND, fails, without_batch_norm
from PIL import Image

import test as test_script
import train
import utils
from runtime import exchange, processes
from training import build, samplers

ROOT = Path(__file__).resolve().parents[2]
HAS_WORDS = importlib.util.find_spec("transformers") is not None
QUICK = ["--num_workers", "0", "--device", "cpu", "--batchsize", "3"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun has no Gloo store there")

# What both processes of a launch run, with the options of the command line.
SEVERAL = """
import json, sys
import test_processes, train
from training import build
test_processes.check_gathered_gradients()
with_batch_norm = build.build_network
for argv in json.loads(sys.argv[1]):
    plain = {"two", "parts", "words"} & set(argv)
    build.build_network = test_processes.network_without_batch_norm if plain else with_batch_norm
    train.main(argv)
"""
ONE_FAILS = """
import sys
import conftest, train
from runtime import processes
from training import engine
original = engine.train_step
def step(training, batch, sizes):
    if processes.rank() == 1:
        raise OSError("a.jpg cannot be read: remove it")
    return original(training, batch, sizes)
engine.train_step = step
train.main(sys.argv[1:])
"""


CONTRASTIVE = ["--views", "2", "--loss_weights", "instance=1,infonce=1"]
WORDS = ["--views", "text,drone", "--loss_weights", "instance=1,infonce=1"]
POOLED = ["--freeze", "--turns", "4", "--pad", "0", "--center", "--head", "linear"]
POOLED += ["--loss_weights", "instance=1,infonce=1"]


def check_gathered_gradients():
    """Runs in each process: the gradient of its rows is that of one process with all rows."""
    processes.join_processes(torch.device("cpu"))
    rank, sizes = processes.rank(), [1, 4]
    full = torch.arange(15.0, dtype=torch.float64).view(5, 3).sin()
    own = full.split(sizes)[rank].clone().requires_grad_()
    gathered = exchange.gather_batch(own, sizes)
    assert torch.equal(gathered, full)
    (gathered @ gathered.T).exp().sum().backward()
    whole = full.clone().requires_grad_()
    (whole @ whole.T).exp().sum().backward()
    # The mean over the processes, as DistributedDataParallel makes it.
    torch.testing.assert_close(own.grad / 2, whole.grad.split(sizes)[rank])
    # Each process may also judge its own rows alone: the mean of both is what is minimised.
    own.grad = None
    gathered = exchange.gather_batch(own, sizes)
    (own @ gathered.T).exp().sum().backward()
    torch.testing.assert_close(own.grad, whole.grad.split(sizes)[rank])
    assert len(exchange.gather_batch(own[:0] if rank else own, [1, 0])) == 1
    processes.leave_processes()
    # A file each: two processes that print at once may print on one line.
    Path(f"gathered_{rank}").touch()


def network_without_batch_norm(opts, class_num, class_names=(), encoder=None):
    """What build.build_network makes, with nothing that is random or depends on the batch."""
    import model

    network = model.build_model(
        class_num,
        tuple(opts.view_names),
        backbone=opts.backbone,
        encoder=encoder,
        droprate=0,
        return_f="infonce" in opts.loss_weights,
    )
    without_batch_norm(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):  # of the text model
            module.p = 0
        if hasattr(module, "dropout_prob"):  # of its attention up to transformers 4
            module.dropout_prob = 0
        if hasattr(module, "left_out"):  # of the words of a text
            module.left_out = 0
    return network


def launch(script, *options, processes=2):
    """Run a script, or a program text, by torchrun; (exit code, stdout, stderr)."""
    if not str(script).endswith(".py"):
        text, script = script, Path("worker.py").resolve()
        script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runtime")])
    result = subprocess.run(
        [*command, "--standalone", str(script), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    return result.returncode, result.stdout, result.stderr


def log_of(name):
    lines = (Path("model") / name / "log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("seconds")} for line in lines
    ]


def weights(name):
    return utils.load_tensors(Path("model") / name / "net_last.pth")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise_data(folder, buildings, with_street):
    """Noise images of 11 buildings: every one in two views, the first few in the third too."""
    generator = np.random.default_rng(0)
    for view in ("satellite", "street", "drone"):
        for number in range(with_street if view == "street" else buildings):
            path = folder / "train" / view / f"{number:04}" / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    for number in range(buildings):
        path = folder / "train" / "text" / f"{number:04}" / "a.txt"
        path.parent.mkdir(parents=True)
        words = generator.choice(["red", "long", "tower", "pond", "hall"], number % 4 + 2)
        path.write_text(" ".join([*words, f"number {number}"]))
    return folder


def seed_with_a_missing_view(buildings, with_street, epochs):
    """A seed by which a process has no street image where the other has, and never a lone one."""
    samples = {
        view: [(f"{n}", n) for n in range(with_street if view == "street" else buildings)]
        for view in ("satellite", "street", "drone")
    }
    for seed in range(10_000):
        pairs = []
        for epoch in range(epochs):
            ranks = [samplers.PairedSampler(samples, 3, seed, rank, 2) for rank in (0, 1)]
            for sampler in ranks:
                sampler.epoch = epoch
            pairs += zip(*([[d.view for d in draws] for draws in s] for s in ranks), strict=True)
        counts = [tuple(views.count("street") for views in pair) for pair in pairs]
        lone = any(1 in pair for pair in counts)
        if not lone and any(0 in pair and any(pair) for pair in counts) and (0, 0) in counts:
            return seed
    raise AssertionError("no such seed")


@pytest.fixture(scope="module")
def several(toy, tmp_path_factory):
    """A folder in which two processes have trained the runs of SEVERAL, and their output."""
    folder = tmp_path_factory.mktemp("several")
    data = noise_data(folder / "data", 11, 4)
    plain = ["--data_dir", str(data), *SMALL, "--views", "3", "--train_all", "--epochs", "3",
             "--droprate", "0", "--lr", "0.002", "--moving_avg", "0.9",
             "--seed", str(seed_with_a_missing_view(11, 4, epochs=3))]  # fmt: skip
    options = ["--data_dir", str(toy), *SMALL, "--step_size", "9", "--batchsize", "2"]
    options += ["--moving_avg", "0.9", "--train_all"]
    runs = [
        [*plain, "--name", "two", "--batchsize", "3"],
        [*plain, *CONTRASTIVE, "--name", "parts", "--batchsize", "6", "--micro_batchsize", "5"],
        ["--name", "unbroken", "--epochs", "2", *options],
        ["--name", "broken", "--epochs", "1", *options],
        ["--name", "broken", "--epochs", "2", "--resume"],
        [*plain, *POOLED, "--name", "pooled", "--batchsize", "3"],
        *([[*plain, *WORDS, "--name", "words", "--batchsize", "3"]] if HAS_WORDS else []),
        ["--name", "frozen", "--epochs", "1", "--freeze", "--train_blocks", "1", *options],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, out, err = launch(SEVERAL, json.dumps(runs))
        assert code == 0, err
    return folder, plain, out


def test_two_processes_train_as_one_does_on_the_whole_batch(several, one_thread, monkeypatch):
    """Uneven batches (6 and 5 of 11 buildings), a view absent in one process, in both."""
    folder, plain, _ = several
    monkeypatch.chdir(folder)
    monkeypatch.setattr(build, "build_network", network_without_batch_norm)
    train.main([*plain, "--name", "one", "--batchsize", "6"])
    first, second = log_of("one"), log_of("two")
    assert len(first) == len(second) == 3 and first[0]["loss"] != first[2]["loss"]
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    ours = weights("two")
    for key, value in weights("one").items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-4)


def test_two_processes_train_on_pooled_features_as_one_does(several, one_thread, monkeypatch):
    """Each has all features and the same means, though it computed a part of them alone."""
    folder, plain, out = several
    assert "208 pooled features, of images and their copies, in" in out  # 26 images, 8 copies
    monkeypatch.chdir(folder)
    train.main([*plain, *POOLED, "--name", "pooled_alone", "--batchsize", "6"])
    for one, other in zip(log_of("pooled_alone"), log_of("pooled"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    alone, ours = weights("pooled_alone"), weights("pooled")
    assert alone["center.means"].norm(dim=1).min() > 0.1
    for key, value in alone.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-4)


@pytest.mark.skipif(not HAS_WORDS, reason="needs transformers")
def test_two_processes_read_texts_as_one_does(several, one_thread, monkeypatch):
    """Texts of other lengths in each, and a tokenizer that both have made."""
    folder, plain, _ = several
    monkeypatch.chdir(folder)
    monkeypatch.setattr(build, "build_network", network_without_batch_norm)
    train.main([*plain, *WORDS, "--name", "words_alone", "--batchsize", "6"])
    for one, other in zip(log_of("words_alone"), log_of("words"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    ours = weights("words")
    for key, value in weights("words_alone").items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-4)
    assert any(key.startswith("model_1.encoder.") for key in ours)


def test_two_processes_in_parts_train_as_one_does_on_the_whole_batch(
    several, one_thread, monkeypatch
):
    """Of 11 buildings one process has 6, more than its parts hold, and the other 5, which would
    fit in one: without as many parts as the first it would exchange gradients out of turn."""
    folder, plain, _ = several
    monkeypatch.chdir(folder)
    monkeypatch.setattr(build, "build_network", network_without_batch_norm)
    train.main([*plain, *CONTRASTIVE, "--name", "whole", "--batchsize", "12"])
    first, second = log_of("whole"), log_of("parts")
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    ours, averaged = weights("parts"), weights("whole")
    for key, value in averaged.items():
        torch.testing.assert_close(ours[key], value, atol=1e-7, rtol=1e-5)
    last = utils.load_tensors("model/whole/train_state.pth")["network"]
    # The average lags behind by far more than they differ.
    assert max((last[key] - averaged[key]).abs().max() for key in last) > 1e-4


def test_resumed_run_of_two_processes_equals_the_unbroken_one(several, monkeypatch):
    """Dropout of each process, averaged statistics of batch norm and the moving average."""
    monkeypatch.chdir(several[0])
    first, second = weights("unbroken"), weights("broken")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert log_of("unbroken") == log_of("broken")
    assert several[2].count("epoch 1/1") == 2


def test_two_processes_train_what_is_not_frozen(several, monkeypatch):
    """No process waits for the rest, or moves it, running statistics included."""
    monkeypatch.chdir(several[0])
    trained = utils.load_tensors("model/frozen/train_state.pth")["network"]
    opts = train.parse_args([*several[1], "--views", "2", "--seed", "0"])
    utils.seed_everything(opts.seed)
    start = build.build_network(opts, 8).state_dict()
    moved = {key for key, value in trained.items() if not torch.equal(value, start[key])}
    assert {key.split(".")[2] for key in moved if key.startswith("model_")} == {"layer4"}
    assert {"classifier.classifier.0.weight", "model_2.model.layer4.0.conv1.weight"} <= moved


def test_gathered_rows_carry_gradients_to_their_process(several):
    assert all((several[0] / f"gathered_{rank}").exists() for rank in (0, 1))


def test_a_run_of_two_processes(toy, workdir, one_thread, capsys):
    """One process writes and prints; features of two are bit for bit those of one."""
    options = ["--data_dir", toy, *SMALL_COMMAND, "--epochs", "1", "--batchsize", "2"]
    code, out, err = launch(ROOT / "train.py", "--name", "run", *options)
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["7", "2", "run", "epoch", "weights:"], out
    assert "2 processes of 2 images per view: an effective batch of 4, learning rate 0.01" in out
    names = {path.name for path in Path("model/run").iterdir()}
    assert names == {"opts.yaml", "log.jsonl", "train.jpg", "train_state.pth", "net_last.pth"}
    assert utils.read_opts(Path("model/run"))["world_size"] == 2
    assert 0 <= log_of("run")[0]["val_recall@1"] <= 100
    fails(train.main, ["--name", "run", "--resume", "--epochs", "2"], capsys,
          "begun with 2 process(es), not with 1", "with torchrun, 2 in all")  # fmt: skip
    other = shutil.copytree(toy, workdir / "other")
    next((other / "train" / "drone").glob("*/*")).unlink()
    code, out, err = launch(ROOT / "train.py", "--name", "run", "--resume", "--data_dir", other)
    assert code == 1 and err.count("train.py: error:") == 1 and "--other_images" in err, err

    argv = ["--name", "run", "--test_dir", str(toy), *QUICK]
    code, out, err = launch(ROOT / "test.py", *argv, "--output", "two.mat")
    assert code == 0, err
    assert out.count("Recall@1:") == 1 and out.count("weights:") == 1
    assert len(Path("model/run/result.txt").read_text().splitlines()) == 1
    test_script.main([*argv, "--output", "one.mat"])
    one, two = scipy.io.loadmat("one.mat"), scipy.io.loadmat("two.mat")
    for key in ("query_f", "query_label", "query_path", "gallery_f", "gallery_label"):
        assert np.array_equal(one[key], two[key]), key


@pytest.mark.parametrize(
    ("script", "options", "expected", "printed"),
    [
        (ROOT / "train.py", ["--data_dir", "absent"], "data folder absent not found", ""),
        # What was printed before is not lost.
        (ONE_FAILS, None, "a.jpg cannot be read: remove it", "run model/two_view on cpu"),
    ],
    ids=["in both", "in one alone"],
)
def test_a_mistake_is_one_line_and_ends_all_processes(
    toy, workdir, script, options, expected, printed
):
    if options is None:
        options = ["--data_dir", toy, *SMALL, "--batchsize", "2", "--train_all"]
    code, out, err = launch(script, *options)
    assert code != 0
    errors = [line for line in err.splitlines() if "error: " in line]
    assert len(errors) == 1 and expected in errors[0], err
    assert printed in out
    assert err.count("Traceback") <= 1  # torchrun has one of its own
    assert "exitcode  : 2 " in err, err
    assert not list(Path("model").glob("*/net_*.pth"))
