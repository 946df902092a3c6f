"""Optimizers, the course of the learning rate and clipping, against their definitions."""

import copy
import math

import pytest
import torch
from conftest import SMALL, fails

import train
import utils
from networks import backbones
from training import build, engine, optimisation


# ---------------------------------------------------------------- learning rate
def test_warm_up_and_steps_of_the_learning_rate():
    """Published defects 4 and 21: resuming cut the rate by guesswork; warm-up scaled the loss."""
    factor = optimisation.learning_rate_factor
    assert factor(0, 0.0, 120, warm_epoch=5, step_size=80) == pytest.approx(0.1)
    assert factor(2, 0.5, 120, warm_epoch=5, step_size=80) == pytest.approx(0.55)
    assert factor(2, 0.5, 120, warm_epoch=5, warm_from=0, step_size=80) == pytest.approx(0.5)
    assert factor(0, 0.0, 120, warm_epoch=5, warm_from=0) == 0
    assert factor(5, 0.0, 120, warm_epoch=5, step_size=80) == 1.0
    assert factor(79, 1.0, 120, step_size=80) == 1.0
    assert factor(80, 0.0, 120, step_size=80) == pytest.approx(0.1)
    assert factor(160, 0.0, 240, step_size=80) == pytest.approx(0.01)
    opts = train.parse_args([])
    assert (opts.epochs, opts.step_size, opts.backbone_lr) == (120, 80, 0.1)


def test_steps_at_given_epochs():
    rates = [optimisation.learning_rate_factor(e, 0.5, 9, step_size=[2, 3, 7]) for e in range(9)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001])
    assert train.parse_args(["--step_size", "120,180"]).step_size == [120, 180]


def test_cosine_after_the_warm_up():
    def factor(time):
        epoch, progress = int(time), time - int(time)
        return optimisation.learning_rate_factor(
            epoch, progress, 10, schedule="cosine", warm_epoch=2
        )

    assert factor(0) == pytest.approx(0.1)
    assert factor(1) == pytest.approx(0.55)
    assert factor(2) == pytest.approx(1)
    assert factor(4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factor(6) == pytest.approx(0.5)
    assert optimisation.learning_rate_factor(9, 1.0, 10, schedule="cosine") == pytest.approx(0)


# ---------------------------------------------------------------- optimizers
def test_weights_of_loss_terms_are_trained(tmp_path):
    """Published defect 17: ArcFace, CosFace and SphereFace kept their random class weights."""
    opts = train.parse_args([*SMALL, "--arcface", "--lr", "0.1", "--backbone_lr", "0.5"])
    network = build.build_network(opts, 5)
    training = build.build_training(opts, network, torch.device("cpu"), 5)
    backbone, head = training.optimizer.param_groups
    assert backbone["base_lr"] == 0.05 and head["base_lr"] == 0.1
    in_head = {id(weight) for weight in head["params"]}
    own = list(training.losses.parameters())
    assert own and all(id(weight) in in_head for weight in own)
    every = {id(weight) for group in (backbone, head) for weight in group["params"]}
    assert every == {id(w) for w in [*network.parameters(), *own]}


@pytest.mark.parametrize(
    ("name", "given", "used"),
    [("sgd", None, 5e-4), ("adamw", None, 0.01), ("adamw", 0.2, 0.2), ("sgd", 0.0, 0.0)],
)
def test_one_step_is_its_formula(name, given, used):
    """AdamW and Nesterov SGD with decay, the first step from known gradients."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = optimisation.build_optimizer([([weight], 0.1)], name, given)
    weight.grad = torch.tensor([0.5, 1.0, -4.0])
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    if name == "adamw":  # the bias-corrected first moments are g and g^2
        expected = before - 0.1 * used * before - 0.1 * gradient / (gradient.abs() + 1e-8)
    else:
        direction = gradient + used * before
        expected = before - 0.1 * (direction + 0.9 * direction)
    torch.testing.assert_close(weight.detach(), expected)


def test_momentum_filled_with_zeros_is_the_published_update():
    """The first fused step, a later first gradient and a skipped step equal those of plain SGD."""
    torch.manual_seed(0)
    network = torch.nn.ModuleDict(
        {"model_1": torch.nn.Linear(3, 2), "classifier": torch.nn.Linear(3, 2)}
    )
    plain = copy.deepcopy(network)
    groups = [(network["model_1"].parameters(), 0.05), (network["classifier"].parameters(), 0.1)]
    fused = optimisation.build_optimizer(groups)
    groups = [{"params": plain["model_1"].parameters(), "lr": 0.05},
              {"params": plain["classifier"].parameters(), "lr": 0.1}]  # fmt: skip
    reference = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        inputs = torch.rand(5, 3)
        used = ("model_1",) if step < 2 else ("model_1", "classifier")
        for module in (network, plain):
            module.zero_grad(set_to_none=True)
            for name in used:
                loss = module[name](inputs).square().sum()
                (scaler.scale(loss) if module is network else loss).backward()
        if step == 0:  # as an overflow in half precision
            network["model_1"].weight.grad[0, 0] = float("inf")
        scaler.step(fused)
        scaler.update()
        if step > 0:
            reference.step()
    for weight, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)

    state = copy.deepcopy(fused.state_dict())
    del state["state"][3]  # an earlier version wrote none before the first gradient
    optimisation.load_optimizer(fused, state)
    assert fused.state[network["classifier"].bias]["momentum_buffer"].tolist() == [0.0, 0.0]
    assert fused.state[network["model_1"].bias]["momentum_buffer"].any()


# ---------------------------------------------------------------- clipping
def test_clipping_is_its_definition():
    first, second = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 1))
    optimizer = optimisation.build_optimizer([([first], 0.1), ([second], 1.0)])

    def clipped(**limits):
        first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
        optimisation.clip_gradients(optimizer, **limits)
        return [*first.grad.tolist(), *second.grad.tolist()]

    assert clipped() == [3, 0, -4]
    assert clipped(norm=10.0) == [3, 0, -4]
    assert clipped(norm=2.5) == pytest.approx([1.5, 0, -2])
    assert clipped(value=3.5) == [3, 0, -3.5]
    assert clipped(value=3.0, norm=3.0) == pytest.approx([3 / 2**0.5, 0, -3 / 2**0.5])


class Tiny(torch.nn.Module):
    """What engine.train_step needs of a network, small enough to be looked at."""

    embedding_dim, input_spec = 3, backbones.input_spec("resnet18")

    def __init__(self):
        super().__init__()
        self.model_1, self.classifier = torch.nn.Linear(12, 4), torch.nn.Linear(4, 3)

    def forward(self, *views):
        return tuple(self.classifier(self.model_1(x.flatten(1))) for x in views)


@pytest.mark.parametrize("precision", [[], ["--fp16"]], ids=["float32", "float16"])
@pytest.mark.parametrize("limits", [{"norm": 0.01}, {"value": 0.02}, {"norm": 0.1, "value": 0.03}])
def test_a_step_goes_by_clipped_gradients(limits, precision):
    """Of gradients scaled for float16 the true size is what is clipped."""
    torch.manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 2, 2), dtype=torch.uint8)
    batch = dict.fromkeys(("satellite", "drone"), (images, torch.arange(6) % 3))

    def gradients(*options):
        opts = train.parse_args(["--loss_weights", "instance=0.1", "--no_pretrained", *options])
        torch.manual_seed(0)
        training = build.build_training(opts, Tiny(), torch.device("cpu"), 3)
        engine.train_step(training, batch, {"satellite": [6], "drone": [6]})
        return torch.cat([weight.grad.flatten() for weight in training.network.parameters()])

    plain = gradients()
    expected = plain.clamp(-limits.get("value", math.inf), limits.get("value", math.inf))
    expected *= min(1, limits.get("norm", math.inf) / math.sqrt(expected.square().sum()))
    assert (plain - expected).norm() > 0.1 * plain.norm()
    argv = [part for name, limit in limits.items() for part in (f"--clip_{name}", str(limit))]
    tolerance = 0.01 if precision else 1e-4  # torch adds 1e-6 to the norm
    found = gradients(*argv, *precision)
    assert (found - expected).norm() < tolerance * expected.norm()


# ---------------------------------------------------------------- a whole run
MODERN = ["--optimizer", "adamw", "--schedule", "cosine", "--warm_epoch", "0.5", "--clip_norm", "1",
          "--moving_avg", "0.9", "--hard_negatives", "both", "--hard_negatives_every", "2",
          "--joint_flips", "--loss_weights", "instance=1,infonce=1", "--micro_batchsize", "2",
          "--share", "--train_all", "--epochs", "4", "--lr", "0.001"]  # fmt: skip


def test_a_modern_run_interrupted_equals_the_unbroken_one(toy, workdir, monkeypatch, capsys):
    """Killed after every epoch: the neighbours of epochs 1 and 3 were found before the last kill,
    by coordinates and by similarity, and those of epoch 2 after one."""
    options = ["--data_dir", str(toy), *SMALL, *MODERN]
    train.main(["--name", "unbroken", *options])
    original = train.save_epoch

    def save_and_stop(run_dir, training, data, epoch, log):
        original(run_dir, training, data, epoch, log)
        if epoch < 3:
            raise RuntimeError("killed")

    monkeypatch.setattr(train, "save_epoch", save_and_stop)
    argv = ["--name", "broken", *options]
    for _ in range(3):
        with pytest.raises(RuntimeError, match="killed"):
            train.main(argv)
        argv = ["--name", "broken", "--resume"]
    capsys.readouterr()
    fails(train.main, [*argv, "--epochs", "9"], capsys,
          "--epochs 9", "ends at zero after 4 epochs")  # fmt: skip
    assert train.main(argv)["epoch"] == 3
    first, second = (
        utils.load_tensors(f"model/{name}/train_state.pth") for name in ("unbroken", "broken")
    )
    for key in ("network", "average", "losses"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key]), key
    assert first["neighbours"].tolist() == second["neighbours"].tolist()
    for entry in (*first["log"], *second["log"]):
        assert 0 <= entry.pop("seconds_waiting") <= entry.pop("seconds")
    assert first["log"] == second["log"] and len(first["log"]) == 4
    train.main(argv)
    assert "has its 4 epochs already: its learning rate has come to zero" in capsys.readouterr().out


def test_contradictions_are_one_line(capsys):
    for argv, expected in (
        (["--micro_batchsize", "16", "--batchsize", "8"], "is above --batchsize 8"),
        (["--micro_batchsize", "1"], "batch norm needs two images"),
        (["--compile", "--grad_checkpoint"], "--compile saves memory its own way"),
        (
            ["--hard_negatives", "similarity", "--sampler", "independent"],
            "goes with --sampler paired",
        ),
        (["--step_size", "80,40"], "rising list"),
        (["--step_size", "80", "--schedule", "cosine"], "--step_size goes with --schedule step"),
        (["--pad", "64", "--h", "64"], "--pad 64 does not fit images of 64 x 384"),
        (["--extra_Google"], "give --views 3, or --no-extra_Google"),
        (["--block", "6"], "--block 6 is the number of rings of --LPN"),
        (["--hard_negatives_every", "2"], "goes with --hard_negatives similarity or both"),
        (["--hard_negatives", "coordinates", "--hard_negatives_every", "2"], "similarity or both"),
        (["--warm_from", "0"], "the rise of --warm_epoch begins: add it"),
        (["--joint_turns"], "give --views satellite,street"),
        (["--joint_turns", "--sampler", "independent"], "goes with --sampler paired"),
        (["--joint_turns", "--views", "satellite,street", "--h", "128"], "128 x 384 is not square"),
        (["--zoom", "0.5"], "'0.5' is not a number from 1 to 4"),
        (["--weather", "fog", "--cache", "ram"], "use one or the other"),
        (["--weather", "fog", "--views", "satellite,street"], "--views has none"),
    ):
        fails(train.parse_args, argv, capsys, expected)
