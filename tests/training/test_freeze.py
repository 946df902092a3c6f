"""--freeze and --train_blocks: what stays as it came, what trains, and what that saves."""

import copy

import pytest
import torch
from conftest import NARROW, SMALL, fails
from torch import nn

import model
import test
import train
import utils
from networks import backbones
from training import build

SIZE = {"vit_b_32": 64, "timm:test_vit": 32}
FAMILIES = {  # backbone: (stages, parameters that train with the last one begin with)
    NARROW: (4, "layer4."),
    "vgg16_bn": (5, ("features.34.", "features.35", "features.37", "features.38", "features.40",
                     "features.41")),
    "convnext_tiny": (4, ("features.6.", "features.7.", "classifier.0.")),
    "swin_t": (4, ("features.6.", "features.7.", "norm.")),
    "vit_b_32": (12, ("encoder.layers.encoder_layer_11.", "encoder.ln.")),
    "timm:test_vit": (6, ("blocks.5.", "norm.")),
    "timm:test_efficientnet": (5, ("blocks.4.", "conv_head.", "bn2.")),
    "timm:test_resnet": (4, "layer4."),
    "timm:test_convnext": (4, ("stages.3.", "head.norm.")),
}  # fmt: skip


def branch_of(backbone, pool="gem"):
    if backbone.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    return model.make_branch(3, 2, pool, backbone)


def graph_bytes(run):
    """What `run()` keeps in memory for the way back, in bytes, weights aside; and its result."""
    kept = {}

    def pack(x):
        if not isinstance(x, nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    return sum(kept.values()), result


@pytest.mark.parametrize("backbone", FAMILIES)
def test_what_trains_of_each_family(backbone):
    """The last stage and all that follows it; nothing is kept in memory for what is below."""
    branch = branch_of(backbone)
    stages, trained = FAMILIES[backbone]
    assert len(branch.stages()) == stages
    images = torch.rand(2, 3, *[SIZE.get(backbone, 32)] * 2)
    whole, _ = graph_bytes(lambda: branch.train()(images))
    expected = branch.eval()(images).detach()
    before = copy.deepcopy(branch.state_dict())

    branch.freeze()
    branch.train()
    kept, pooled = graph_bytes(lambda: branch(images))
    assert kept == 0 and not pooled.requires_grad
    # Without dropout, by the running statistics (torch has an attention for where none trains).
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())

    branch.freeze(1)
    branch.train()
    names = [n.removeprefix("model.") for n, w in branch.named_parameters() if w.requires_grad]
    assert names[-1] == "gem2.p" and len(names) > 2
    assert all(name.startswith(trained) for name in names[:-1])
    kept, pooled = graph_bytes(lambda: branch(images))
    assert 0 < kept < 0.8 * whole
    pooled.sum().backward()
    for name, weight in branch.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    for name, value in branch.named_buffers():
        follows = name.removeprefix("model.").startswith(trained)
        moved = not torch.equal(value, before[name])
        assert moved == (follows and "running" in name or follows and "num_batches" in name), name


@pytest.mark.parametrize("backbone", [*backbones.BACKBONES, "timm:test_resnet", "timm:test_vit"])
def test_the_stages_of_every_backbone(backbone):
    """The last module of each gives a map; all of them together can train."""
    maps = []
    with torch.device("meta"):  # shapes without memory or arithmetic
        branch = branch_of(backbone).eval()
        for stage in branch.stages():
            stage[-1].register_forward_hook(lambda module, args, x: maps.append(x.shape))
        branch(torch.empty(1, 3, 64, 64))
        assert len(maps) == len(branch.stages()) >= 4
        branch.freeze(len(maps))
        names = [name for name, w in branch.named_parameters() if not w.requires_grad]
    below = ("conv", "bn1", "fc", "class", "encoder.pos", "features.0", "cls", "pos", "patch")
    assert all(name.removeprefix("model.").startswith(below) for name in names)


def test_too_many_blocks():
    with pytest.raises(ValueError, match="--train_blocks 5 is more than the 4 blocks or stages"):
        branch_of(NARROW).freeze(5)
    branch = branch_of("timm:test_vit")
    branch.freeze(6)
    names = [n for n, w in branch.named_parameters() if not w.requires_grad]
    assert "model.pos_embed" in names and not any("blocks" in name for name in names)


@pytest.mark.parametrize("backbone", [NARROW, "timm:test_vit"])
def test_checkpointing_of_what_trains(backbone):
    """The gradients of the last block are the same where what is below has none."""
    plain = branch_of(backbone)
    plain.freeze(2)
    saving = copy.deepcopy(plain)
    saving.checkpoint_gradients()
    images = torch.rand(2, 3, 32, 32)
    for branch in (plain, saving):
        branch.train()(images).square().sum().backward()
    first, second = ([w.grad for w in b.parameters() if w.requires_grad] for b in (plain, saving))
    assert len(first) > 10
    torch.testing.assert_close(first, second)


# ---------------------------------------------------------------- a run
@pytest.mark.parametrize("blocks", [0, 1])
def test_what_the_optimizer_holds(capsys, blocks):
    argv = [*SMALL, "--freeze", "--train_blocks", str(blocks), "--arcface", "--pool", "gem"]
    opts = train.parse_args([*argv, "--optimizer", "adamw", "--share"])
    network = build.build_network(opts, 5)
    training = build.build_training(opts, network, torch.device("cpu"), 5)
    held = [weight for group in training.optimizer.param_groups for weight in group["params"]]
    assert len(training.optimizer.param_groups) == 1 + blocks
    assert all(weight.requires_grad for weight in held)
    head = 64 * 512 + 512 + 2 * 512 + 512 * 5 + 5 + 512 * 5  # and ArcFace's classes
    branch = network.model_1.model
    last = sum(w.numel() for w in [*branch.layer4.parameters(), branch.gem2.p]) if blocks else 0
    assert sum(weight.numel() for weight in held) == head + last
    used = sum(w.numel() for name, w in branch.named_parameters() if not name.startswith("fc."))
    line = f"--freeze: trains {head + last:,} of {head + used:,} parameters"
    assert capsys.readouterr().out.splitlines() == [line]


def test_a_frozen_run(toy, workdir, capsys):
    """The backbone is that of the start; halves resume to the whole, in parts and averaged."""
    argv = [*SMALL, "--data_dir", str(toy), "--train_all", "--share", "--freeze", "--step_size",
            "9", "--moving_avg", "0.9", "--loss_weights", "infonce=1", "--batchsize", "6",
            "--micro_batchsize", "3"]  # fmt: skip
    opts = train.parse_args(argv)
    utils.seed_everything(opts.seed)
    start = build.build_network(opts, 8).state_dict()

    train.main([*argv, "--name", "whole", "--epochs", "2"])
    assert "--freeze: trains 38,409 of 228,025 parameters" in capsys.readouterr().out
    train.main([*argv, "--name", "halves", "--epochs", "1"])
    train.main(["--name", "halves", "--resume", "--epochs", "2"])
    whole, halves = (
        utils.load_state_dict(workdir / "model" / name / "net_last.pth")
        for name in ("whole", "halves")
    )
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    for key, value in whole.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, start[key]) == key.startswith("model_"), key
    fails(train.main, ["--name", "halves", "--resume", "--train_blocks", "1"], capsys,
          "--train_blocks 1 differs from 0")  # fmt: skip
    tested = ["--name", "whole", "--test_dir", str(toy), "--device", "cpu", "--num_workers", "0"]
    assert test.main(tested)["AP"] >= 0


def test_frozen_parts_learn_as_a_head_on_fixed_features(toy, workdir):
    """A step of the frozen network changes the head as a step on features computed before."""
    opts = train.parse_args([*SMALL, "--share", "--freeze", "--droprate", "0"])
    torch.manual_seed(0)
    network = build.build_network(opts, 4)
    training = build.build_training(opts, network, torch.device("cpu"), 4)
    head = copy.deepcopy(network.classifier).train()
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    pooled = network.model_1.eval()(images)
    network.train()
    first, second = network(images, None)[0], head(pooled)
    for output in (first, second):
        nn.functional.cross_entropy(output, labels).backward()
    for ours, expected in zip(network.classifier.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    training.optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_blocks", "2"], "--train_blocks 2 are the blocks that train where others do not"),
        (["--freeze", "--usam"], "--usam puts new parts inside the backbone"),
        (["--freeze", "--musenet", "--weather", "all"], "--musenet puts new parts inside"),
        (["--freeze", "--train_blocks", "9"], "more than the 4 blocks or stages that"),
    ],
)
def test_refusals(toy, workdir, capsys, options, message):
    fails(train.main, [*SMALL, "--data_dir", toy, *options], capsys, message)
    assert not (workdir / "model" / "two_view" / "opts.yaml").exists()
