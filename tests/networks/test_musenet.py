"""MuSe-Net: its parts by loops, a published run by functions, sharing, folding, weights, errors."""

import json

import pytest
import torch
import torchvision
from conftest import SMALL_COMMAND, fails
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import losses
import model
import test as script
import train
import utils
from networks import musenet
from networks.inference import DTYPES, inference_copy
from training import optimisation


def randomised(network):
    """The network with norms that do something and modulation that can be seen."""
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    for stage, number in network.pt_model.blocks:
        for part in "wb":
            convolution = getattr(network.pt_model, f"layer{stage}_{number}_{part}")
            nn.init.normal_(convolution.weight, std=0.02)
            nn.init.normal_(convolution.bias, std=0.2)
    return network


def small(views=3, **options):
    names = model.THREE_VIEWS if views == 3 else ("satellite", "drone")
    return model.build_model(4, names, backbone="resnet18", musenet=True, **options)


# ---------------------------------------------------------------- parts
@pytest.mark.parametrize("modulated", [True, False])
def test_ibn_is_a_loop_over_images_and_channels(modulated):
    torch.manual_seed(0)
    layer = musenet.IBN(6).eval()
    for tensor in (layer.IN.weight, layer.IN.bias, layer.BN.weight, layer.BN.bias):
        nn.init.normal_(tensor)
    nn.init.normal_(layer.BN.running_mean)
    nn.init.uniform_(layer.BN.running_var, 0.5, 2.0)
    x = torch.randn(2, 6, 3, 4)
    gamma, beta = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 3, 4)
    expected = torch.empty_like(x)
    for image in range(2):
        for channel in range(3):
            values = x[image, channel]
            mean = sum(values.flatten().tolist()) / 12
            variance = sum((v - mean) ** 2 for v in values.flatten().tolist()) / 12
            out = (values - mean) / (variance + 1e-5) ** 0.5
            out = out * layer.IN.weight[channel] + layer.IN.bias[channel]
            if modulated:
                out = out * (1 + gamma[image, channel]) + beta[image, channel]
            expected[image, channel] = out
            out = (x[image, 3 + channel] - layer.BN.running_mean[channel]) / (
                layer.BN.running_var[channel] + 1e-5
            ).sqrt()
            expected[image, 3 + channel] = out * layer.BN.weight[channel] + layer.BN.bias[channel]
    given = (gamma, beta) if modulated else None
    torch.testing.assert_close(layer(x, given), expected)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last), given), expected)


def test_doubled_convolution_is_one_of_the_repeated_map():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(large, weight, bias, padding=1)
    torch.testing.assert_close(musenet.doubled_convolution(x, weight, bias), expected)
    seen = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((y * seen).sum(), (x, weight, bias))
        for y in (expected, musenet.doubled_convolution(x, weight, bias))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_maps_of_odd_sides_are_cut_off():
    network = randomised(small(btnk=[1, 1, 1, 1]))
    style = torch.randn(1, 128, 4, 4)
    whole = network.pt_model.modulation(style, 1, 0, torch.Size((8, 8)))
    cut = network.pt_model.modulation(style, 1, 0, torch.Size((7, 8)))
    assert [part.shape for part in cut] == [(1, 32, 7, 8)] * 2
    assert all(torch.equal(a[:, :, :7], b) for a, b in zip(whole, cut, strict=True))
    own = network.pt_model.modulation(style, 2, 1, torch.Size((4, 4)))
    expected = network.pt_model.layer2_1_w.weight
    expected = F.conv2d(style, expected, network.pt_model.layer2_1_w.bias, padding=1)
    torch.testing.assert_close(own[0], expected)
    # 100 pixels: maps of 25 and 13 positions
    with torch.no_grad():
        assert network.eval().embed(torch.rand(1, 3, 100, 100), 1).isfinite().all()


# ---------------------------------------------------------------- the published network
BLOCKS = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]  # what btnk switches


def convolutions(btnk):
    """The names of the published convolutions, with the stage of the block they are for."""
    blocks = [block for block, switch in zip(BLOCKS, btnk, strict=False) if switch]
    return [(f"layer{stage}_{number}_{p}", stage) for stage, number in blocks for p in "wb"]


def published_state(class_num, btnk, heads=("classifier",)):
    """A state dict with the names of the published code, --share."""

    def filled(module):
        for key, value in module.state_dict().items():
            if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
                nn.init.uniform_(value, 0.5, 1.5)
            elif value.ndim == 1:
                nn.init.normal_(value, std=0.1)
        return module.state_dict()

    plain, style, trunk = (filled(torchvision.models.resnet50()) for _ in range(3))
    for key in list(trunk):
        if key.startswith(("layer1", "layer2", "layer3")) and ".bn1." in key:
            value, (name, part) = trunk.pop(key), key.rsplit(".", 1)
            half = len(value) // 2 if value.ndim else None
            trunk[f"{name}.BN.{part}"] = value[half:].clone() if half else value
            if part in ("weight", "bias"):
                trunk[f"{name}.IN.{part}"] = value[:half].clone()
    state = {f"model_{number}.model.{key}": v for number in (1, 3) for key, v in trunk.items()}
    state |= {f"model_2.model.{key}": value for key, value in plain.items()}
    state |= {f"pt_model.model.{key}": value for key, value in style.items()}
    for name, stage in convolutions(btnk):
        shape = (32 * stage, 512, 3, 3)
        state[f"pt_model.{name}.Gen.0.conv2d.weight"] = torch.randn(shape) * 0.01
        state[f"pt_model.{name}.Gen.0.conv2d.bias"] = torch.randn(shape[:1]) * 0.1
    layers = [
        ("pt_model.classifier.0.", nn.BatchNorm1d(512)),
        ("pt_model.classifier.2.", nn.Linear(512, 11)),
    ]
    for head in heads:
        layers += [
            (f"{head}.Linear.", nn.Linear(2048, 512)),
            (f"{head}.bnorm.", nn.BatchNorm1d(512)),
            (f"{head}.classifier.0.", nn.Linear(512, class_num)),
        ]
    for prefix, layer in layers:
        state |= {prefix + key: value for key, value in filled(layer).items()}
    return state


class Published:
    """The published network in evaluation mode as functions of a published state dict."""

    def __init__(self, state, btnk):
        self.state = state
        self.blocks = [block for block, switch in zip(BLOCKS, btnk, strict=False) if switch]

    def norm(self, x, name):
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def ibn(self, x, name, maps):
        first, second = x.chunk(2, dim=1)
        weight, bias = self.state[f"{name}.IN.weight"], self.state[f"{name}.IN.bias"]
        first = F.instance_norm(first, weight=weight, bias=bias)
        if maps:
            first = first * (maps[0] + 1) + maps[1]
        return torch.cat((first, self.norm(second, f"{name}.BN")), dim=1)

    def block(self, x, name, stride, activation, maps=None):
        out = F.conv2d(x, self.state[f"{name}.conv1.weight"])
        if f"{name}.bn1.IN.weight" in self.state:
            out = self.ibn(out, f"{name}.bn1", maps)
        else:
            out = self.norm(out, f"{name}.bn1")
        out = F.conv2d(activation(out), self.state[f"{name}.conv2.weight"], None, stride, 1)
        out = activation(self.norm(out, f"{name}.bn2"))
        out = self.norm(F.conv2d(out, self.state[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = F.conv2d(x, self.state[f"{name}.downsample.0.weight"], None, stride)
            x = self.norm(x, f"{name}.downsample.1")
        return activation(out + x)

    def stages(self, x, prefix, last, maps=None):
        """A ResNet-50 up to stage `last`; stride 1 in the fourth, as in the published command."""
        x = F.conv2d(x, self.state[f"{prefix}.conv1.weight"], None, 2, 3)
        x = F.max_pool2d(F.relu(self.norm(x, f"{prefix}.bn1")), 3, 2, 1)
        for stage, blocks in enumerate((3, 4, 6, 3)[:last], start=1):
            for number in range(blocks):
                stride = 2 if number == 0 and stage in (2, 3) else 1
                silent = prefix.startswith("pt_model") and (stage, number) == (2, 3)
                name = f"{prefix}.layer{stage}.{number}"
                activation = (lambda v: v) if silent else F.relu
                found = maps.get((stage, number)) if maps else None
                x = self.block(x, name, stride, activation, found)
        return x

    def feature_map(self, x, number, with_layer2=True):
        style, maps = self.style(x), {}
        large = F.interpolate(style, scale_factor=2, mode="nearest")
        for stage, block in self.blocks if number != 2 else ():
            if stage == 1 or with_layer2:
                seen = large if (stage, block) <= (2, 0) else style
                names = [f"pt_model.layer{stage}_{block}_{p}.Gen.0.conv2d" for p in "wb"]
                pairs = [(self.state[f"{n}.weight"], self.state[f"{n}.bias"]) for n in names]
                maps[stage, block] = [F.conv2d(seen, *pair, 1, 1) for pair in pairs]
        return self.stages(x, f"model_{number}.model", 4, maps)

    def embed(self, x, number):
        pooled = self.feature_map(x, number).mean((2, 3))
        linear = (self.state[f"classifier.Linear.{part}"] for part in ("weight", "bias"))
        return self.norm(F.linear(pooled, *linear), "classifier.bnorm")

    def style(self, x):
        return self.stages(x, "pt_model.model", 2)

    def weather(self, x):
        seen = self.norm(self.style(x).mean((2, 3)), "pt_model.classifier.0")
        linear = (self.state[f"pt_model.classifier.2.{part}"] for part in ("weight", "bias"))
        return F.linear(seen, *linear)


PUBLISHED = {"views": 3, "norm": "spade", "adain": "a", "conv_norm": "none", "nclasses": 5,
             "stride": 1, "share": True, "droprate": 0.5, "h": 256, "w": 256, "pool": "avg",
             "LPN": False, "block": 4, "extra_Google": True}  # fmt: skip


@pytest.mark.parametrize(
    "btnk", [[0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 1], [1, 0, 1]], ids=str
)  # the command, with layer2, the default
@torch.no_grad()
def test_a_published_run_folder_gives_the_published_features(workdir, btnk):
    torch.manual_seed(0)
    state = published_state(5, btnk)
    run_dir = utils.run_folder("published")
    utils.write_opts(run_dir, {**PUBLISHED, "btnk": btnk})
    utils.save_tensors(run_dir / "net_209.pth", state)
    path = utils.find_checkpoint(run_dir)
    network = model.model_from_opts(utils.read_opts(run_dir))
    weights = musenet.from_published(utils.load_tensors(path))
    assert network.state_dict().keys() == weights.keys()
    utils.load_weights(network, path, weights)
    network.eval()
    published, images = Published(state, btnk), torch.randn(2, 3, 64, 64)
    for number in (1, 2, 3):
        expected, embedded = published.embed(images, number), network.embed(images, number)
        torch.testing.assert_close(embedded, expected, atol=2e-4, rtol=1e-3)
    seen = network.pt_model.weather(network.pt_model.feature_map(images))
    torch.testing.assert_close(seen, published.weather(images), atol=1e-4, rtol=1e-3)
    # Their modulation matters: without it the satellite's embedding would be another.
    for name, _ in convolutions(btnk):
        for tensor in network.pt_model.get_submodule(name).parameters():
            tensor.zero_()
    assert (network.embed(images, 1) - published.embed(images, 1)).abs().max() > 0.01


@torch.no_grad()
def test_a_published_run_with_rings_does_not_modulate_layer2():
    """Its weights have the convolutions of layer2, which the published LPN variant never uses."""
    torch.manual_seed(0)
    btnk = [0, 1, 1, 1, 0, 0, 0]
    state = published_state(5, btnk, heads=[f"classifier{part}" for part in range(4)])
    network = model.model_from_opts({**PUBLISHED, "btnk": btnk, "LPN": True})
    utils.load_weights(network, "net_209.pth", musenet.from_published(state))
    network.eval()
    published, images = Published(state, btnk), torch.randn(2, 3, 64, 64)
    for number in (1, 3):
        branch = getattr(network, f"model_{number}")
        found = network._feature_maps(branch, images)[0].mean((2, 3))
        expected = published.feature_map(images, number, with_layer2=False).mean((2, 3))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert (found - published.feature_map(images, 3).mean((2, 3))).abs().max() > 0.01
    opts = {"view_names": ["satellite", "drone"], "nclasses": 3, "backbone": "resnet18",
            "LPN": True, "musenet": True, "btnk": [0, 1, 1, 0]}  # fmt: skip
    assert model.model_from_opts(opts).modulated == [(1, 1), (2, 0)]  # this project's does


def test_other_state_dicts_keep_their_names():
    state = small().state_dict()
    assert musenet.from_published(state).keys() == state.keys()
    assert musenet.from_published([1]) == [1]


# ---------------------------------------------------------------- the network
@pytest.mark.parametrize("views", [2, 3])
def test_without_modulation_it_is_the_ibn_network(views):
    torch.manual_seed(0)
    network = randomised(small(views, share=True)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        adapted = network.embed(images, 1)
        for name, tensor in network.pt_model.named_parameters():
            if name.startswith("layer"):
                tensor.zero_()
        plain = network.classifier.embed(network.model_1(images))  # the blocks' own forward
        assert torch.equal(network.embed(images, 1), plain)
    assert (adapted - plain).abs().max() > 0.01


@pytest.mark.parametrize("return_f", [False, True])
def test_outputs_of_all_views(return_f):
    torch.manual_seed(0)
    network = small(share=True, return_f=return_f, return_weather=True)
    views = [torch.rand(number, 3, 64, 64) for number in (2, 3, 4, 5)]
    outputs = network(*views)
    for output, images, adaptive in zip(outputs, views, (1, 0, 1, 0), strict=True):
        logits, embedding, weather = output
        assert logits.shape == (len(images), 4)
        assert (embedding is None) is not return_f
        assert not return_f or embedding.shape == (len(images), 512)
        assert (weather is None) is not bool(adaptive)
        assert not adaptive or weather.shape == (len(images), 11)
    network.eval()
    with torch.no_grad():
        alone, *others = network(None, None, views[2])
        outputs = network(*views)
        assert alone is None and others[0] is None
        for one, other in zip(others[1], outputs[2], strict=True):
            assert one is other is None or torch.allclose(one, other, atol=1e-5)
        style = network.pt_model.feature_map(views[0])
        torch.testing.assert_close(outputs[0][2], network.pt_model.weather(style))


def test_rings_go_with_it():
    network = small(share=True, LPN=True, block=2, return_f=True, return_weather=True)
    (logits, embedding, weather), *_ = network(*[torch.rand(2, 3, 64, 64)] * 3)
    assert logits.shape == (2, 4, 2) and embedding.shape == (2, 1024) and weather.shape == (2, 11)
    assert network.parts == 2


def test_sharing():
    shared, apart, pair = small(share=True), small(), small(2)
    assert shared.model_1 is shared.model_3 and apart.model_1 is not apart.model_3
    assert [musenet.is_ibn(getattr(apart, f"model_{n}")) for n in (1, 2, 3)] == [True, False, True]
    assert musenet.is_ibn(pair.model_1) and musenet.is_ibn(pair.model_2)
    # As published the tensors of a shared branch stand twice in the file, the style network once.
    keys = {name: set() for name in ("model_1", "model_2", "model_3", "pt_model", "classifier")}
    for key in shared.state_dict():
        name, rest = key.split(".", 1)
        keys[name].add(rest)
    assert keys["model_1"] == keys["model_3"] != keys["model_2"]
    assert keys["model_2"] == {f"model.{key}" for key in torchvision.models.resnet18().state_dict()}
    assert len(list(shared.parameters())) < len(list(apart.parameters()))
    images = torch.rand(2, 3, 64, 64)
    assert shared(images, None, None)[0].shape == (2, 4)  # logits alone
    shared.eval(), apart.eval()
    with torch.no_grad():
        assert torch.equal(shared.embed(images, 1), shared.embed(images, 3))
        assert not torch.equal(apart.embed(images, 1), apart.embed(images, 3))


@pytest.mark.parametrize("return_weather", [True, False])
def test_gradients_reach_every_trained_weight(return_weather):
    torch.manual_seed(0)
    network = small(share=True, return_weather=return_weather)
    outputs = network(*[torch.rand(4, 3, 64, 64) for _ in range(3)])
    logits = [y[0] if return_weather else y for y in outputs]
    weathers = [y[2] for y in outputs if return_weather and y[2] is not None]
    target = torch.tensor([0, 1, 2, 3])
    sum(F.cross_entropy(y, target) for y in logits).backward(retain_graph=return_weather)
    # From the building's class alone: through the modulation into the first layer of the style.
    style = network.pt_model.model.conv1.weight
    assert style.grad.abs().max() > 0
    assert network.pt_model.classifier[2].weight.grad is None
    if return_weather:
        style.grad = None
        sum(F.cross_entropy(y, target) for y in weathers).backward()
        assert style.grad.abs().max() > 0
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in network.named_parameters() if p.requires_grad}
    assert any(name.startswith("pt_model.classifier") for name in trained) is return_weather


def test_learning_rates():
    """As published: the pretrained layers slowly, the modulation and both heads fast."""
    network = small()
    head, backbone = (
        {id(p) for p in group} for group in optimisation.split_parameters(network)[:2]
    )
    style = network.pt_model
    assert all(id(p) in backbone for part in (style.model, network.model_1, network.model_2)
               for p in part.parameters())  # fmt: skip
    fast = (style.layer1_1_w, style.layer1_1_b, style.classifier, network.classifier)
    assert head == {id(p) for part in fast for p in part.parameters()}


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (72, 90)])
def test_small_images_and_empty_batches(size):
    """Of several processes one may lack the images of all adaptive views."""
    torch.manual_seed(0)
    network = small(share=True, return_weather=True).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    outputs = network(*[torch.rand(count, 3, *size) for count in (0, 2, 0)])
    assert outputs[0][0].shape == (0, 4) and outputs[2][2].shape == (0, 11)
    sum(x.sum() for y in outputs for x in y if x is not None).backward()
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    after = network.state_dict()
    assert all(
        torch.equal(before[key], after[key])
        for key in before
        if key.startswith(("model_1", "pt_model")) and not key.endswith("num_batches_tracked")
    )
    outputs = network(*[torch.rand(2, 3, *size)] * 3)
    assert all(y[0].isfinite().all() for y in outputs)


def test_half_precision_and_channels_last_training():
    torch.manual_seed(0)
    network = randomised(small(share=True, return_weather=True, droprate=0)).train()
    network.pt_model.classifier[1].p = 0
    images = [torch.randn(4, 3, 64, 64) for _ in range(3)]
    plain = network(*images)[0]
    network.to(memory_format=torch.channels_last)
    last = network(*[x.to(memory_format=torch.channels_last) for x in images])[0]
    for index in (0, 2):
        torch.testing.assert_close(plain[index], last[index], atol=1e-5, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*images)[0]
    assert half[0].dtype == half[2].dtype == torch.bfloat16
    assert (half[2].float() - plain[2]).abs().max() < 0.05 * plain[2].abs().max()
    (half[0].float().sum() + half[2].float().sum()).backward()
    assert network.pt_model.layer1_1_w.weight.grad.isfinite().all()


def test_distributed_training_uses_all_weights():
    """DistributedDataParallel fails in the second step where a weight had no part in the first."""
    torch.manual_seed(0)
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for return_weather in (True, False):
            network = small(share=True, return_weather=return_weather)
            forward = DistributedDataParallel(network)
            for _ in range(2):
                outputs = forward(*[torch.rand(2, 3, 32, 32)] * 3)
                flat = [x for y in outputs for x in (y if return_weather else (y,))]
                sum(x.sum() for x in flat if x is not None).backward()
    finally:
        distributed.destroy_process_group()


# ---------------------------------------------------------------- inference
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet18", {"share": True, "stride": 1}),
        ("resnet18", {"pool": "gem", "btnk": [1, 1, 1, 1]}),
        ("resnet50", {"share": True, "stride": 1, "pool": "avg+max"}),
    ],
)
@torch.no_grad()
def test_folded_batch_norm_gives_the_same_embeddings(backbone, options):
    torch.manual_seed(0)
    network = randomised(model.build_model(3, backbone=backbone, musenet=True, **options))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    folded = inference_copy(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    for number in (1, 2):
        expected, embedded = network.embed(images, number), folded.embed(images, number)
        assert (embedded - expected).abs().max() < 1e-4 * expected.abs().max()
    # Left are the norms of IBN and the weather's, which no convolution can carry.
    kept = {name.split(".")[-1] for name, layer in folded.named_modules()
            if "Norm" in type(layer).__name__ and not name.startswith("pt_model.cl")}  # fmt: skip
    assert kept == {"IN", "BN"}
    assert folded.adaptive[0] is folded.model_1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_half_precision_keeps_the_direction(precision):
    torch.manual_seed(0)
    network = randomised(small(2, share=True)).eval()
    images = torch.randn(4, 3, 64, 64)
    dtype = DTYPES[precision]
    half = inference_copy(network, precision)
    assert half.pt_model.model.conv1.weight.dtype == half.model_1.model.conv1.weight.dtype == dtype
    embedded = half.embed(images, 1)
    assert embedded.dtype == torch.float32
    assert F.cosine_similarity(embedded, network.embed(images, 1)).min() > 0.999


@torch.no_grad()
def test_a_run_of_this_project_comes_back(workdir):
    torch.manual_seed(0)
    btnk = [0, 1, 1, 0]
    network = randomised(small(share=True, btnk=btnk, return_weather=True)).eval()
    run_dir = utils.run_folder("own")
    opts = {"view_names": list(model.THREE_VIEWS), "nclasses": 4, "backbone": "resnet18",
            "share": True, "musenet": True, "btnk": btnk}  # fmt: skip
    utils.write_opts(run_dir, opts)
    utils.save_tensors(run_dir / "net_last.pth", network.state_dict())
    again = model.model_from_opts(utils.read_opts(run_dir)).eval()
    utils.load_weights(again, run_dir / "net_last.pth")
    images = torch.rand(2, 3, 64, 64)
    for number in (1, 2, 3):
        assert torch.equal(network.embed(images, number), again.embed(images, number))
    plain = model.model_from_opts({**opts, "musenet": False})
    assert type(plain) is model.three_view_net


# ---------------------------------------------------------------- weights
def test_torchvision_weights_fill_both_halves():
    state = torchvision.models.resnet18().state_dict()
    for value in state.values():
        if value.ndim == 1:
            nn.init.uniform_(value, 0.5, 1.5)
    network = small()
    model.load_backbone(network, state, "FILE")
    for layer, block in (("layer1", 0), ("layer3", 1)):
        own = getattr(network.model_3.model, layer)[block].bn1
        name, half = f"{layer}.{block}.bn1", own.IN.num_channels
        assert torch.equal(own.IN.weight, state[f"{name}.weight"][:half])
        assert torch.equal(own.IN.bias, state[f"{name}.bias"][:half])
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(own.BN, part), state[f"{name}.{part}"][half:])
    for branch in (network.model_2, network.model_1, network.pt_model):
        assert torch.equal(branch.model.conv1.weight, state["conv1.weight"])
    assert torch.equal(network.model_2.model.layer1[0].bn1.bias, state["layer1.0.bn1.bias"])
    assert torch.equal(network.pt_model.model.layer2[1].bn2.bias, state["layer2.1.bn2.bias"])
    assert torch.equal(network.model_1.model.layer4[0].bn1.bias, state["layer4.0.bn1.bias"])


def test_ibn_weights_go_to_the_adaptive_branches():
    state = torchvision.models.resnet18().state_dict()
    own = {key: value + 1 for key, value in musenet.ibn_state(state).items()}
    network = small()
    model.load_backbone(network, state, "FILE", own, "IBN FILE")
    assert torch.equal(network.model_1.model.conv1.weight, state["conv1.weight"] + 1)
    assert torch.equal(network.model_1.model.layer1[0].bn1.IN.weight, torch.full((32,), 2.0))
    for branch in (network.model_2, network.pt_model):
        assert torch.equal(branch.model.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="IBN FILE does not fit.*first layer1.0.bn1.IN.weight"):
        model.load_backbone(network, state, "FILE", state, "IBN FILE")
    with pytest.raises(ValueError, match="FILE does not fit the backbone"):
        model.load_backbone(network, torchvision.models.resnet50().state_dict(), "FILE")
    with pytest.raises(ValueError, match="FILE holds a list"):
        model.load_backbone(network, [], "FILE")
    plain = model.build_model(3, backbone="resnet18")
    model.load_backbone(plain, state, "FILE")
    assert torch.equal(plain.model_1.model.conv1.weight, state["conv1.weight"])


def test_no_download_possible_names_the_ways_on(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(OSError, match="resnet50_ibn_a.*--ibn_weights FILE.*--no_pretrained"):
        musenet.download_ibn_weights("resnet50")


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg16_bn"}, "--musenet changes the blocks of a ResNet, and vgg16_bn"),
        ({"backbone": "convnext_tiny"}, "choose --backbone resnet18, resnet50, resnet101"),
        ({"backbone": "timm:resnet18"}, "timm:resnet18 is not one it can change"),
        ({"usam": True}, "choose one"),
        ({"btnk": [0, 1, 1, 0, 0, 0, 0]}, "expected up to 4 numbers .*2 blocks of layer1 and 2 of"),
        ({"btnk": [0, 0, 0, 0]}, "at least one of them 1"),
        ({"btnk": [0, 2, 0, 0]}, "numbers 0 or 1"),
        ({"btnk": "0110"}, "btnk '0110' does not fit resnet18"),
        ({"stride": 3}, "stride 3"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        model.build_model(3, musenet=True, **{"backbone": "resnet18", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"norm": "ada-ibn"}, {"norm": "ibn"}, {"norm": "spade", "conv_norm": "in"}]
)
def test_networks_of_the_published_code_that_are_not_here(changes):
    with pytest.raises(ValueError, match="a network this project does not have"):
        model.model_from_opts({"views": 3, "nclasses": 3, **changes})


def test_modulated_blocks():
    assert musenet.modulated_blocks("resnet50") == [(1, 1), (1, 2)]
    assert musenet.modulated_blocks("resnet50", [0, 1, 1, 0, 0, 0, 0]) == [(1, 1), (1, 2)]
    assert musenet.modulated_blocks("resnet50", [1, 0, 1]) == [(1, 0), (1, 2)]
    assert musenet.modulated_blocks("resnet101", [1, 0, 0, 0, 0, 0, 1]) == [(1, 0), (2, 3)]
    assert musenet.modulated_blocks("resnet18") == [(1, 1)]


# ---------------------------------------------------------------- a whole run
def test_batches_carry_the_condition_that_was_drawn():
    import numpy as np

    import dataset
    from imaging import augmentation, weather
    from imaging.augmentation import Augmentation

    images = {view: {"a": np.full((40, 40, 3), 90, np.uint8)} for view in ("satellite", "drone")}
    augmentations = {"satellite": Augmentation(40, 40),
                     "drone": Augmentation(40, 40, weather=("rain", "wind"))}  # fmt: skip
    samples = {view: [("a", 3)] for view in images}
    views = dataset.TrainingViews(samples, images, augmentations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "read_image", lambda path: images["drone"][path])
        batch = views[[dataset.Draw(v, 0, s) for v in images for s in range(9)]]
    expected = [2 + 1 if weather.choose_condition(("rain", "wind"), s) == "rain" else 9 + 1
                for s in range(9)]  # fmt: skip
    assert len(batch["satellite"]) == 2 and batch["drone"][2]["condition"].tolist() == expected
    assert set(expected) == {3, 10}


def test_weather_loss_is_the_cross_entropy_of_the_adapted_views():
    torch.manual_seed(0)
    logits = {view: torch.randn(4, 11, dtype=torch.float64) for view in ("satellite", "drone")}
    true = {"satellite": torch.zeros(4, dtype=torch.long), "drone": torch.tensor([1, 10, 3, 3])}
    outputs = {v: losses.Output(torch.zeros(4, 2), None, logits[v], true[v]) for v in logits}
    outputs["street"] = losses.Output(torch.zeros(4, 2))
    by_hand = 0
    for view, rows in logits.items():
        for row, label in zip(rows, true[view], strict=True):
            by_hand -= (row[label] - row.exp().sum().log()) / 4
    found = losses.build_losses({"instance": 0, "weather": 1})(outputs, {})["weather"]
    assert float(found) == pytest.approx(float(by_hand))


def test_a_run_under_weather(toy, workdir, capsys):
    options = ["--data_dir", str(toy), *SMALL_COMMAND, "--share", "--train_all", "--epochs", "2"]
    train.main(["--name", "muse", *options, "--musenet", "--weather", "all"])
    lines = (workdir / "model" / "muse" / "log.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["loss"] == pytest.approx(first["instance"] + first["weather"])
    assert 1 < first["weather"] < 8  # two views, about ln 11 each
    results = script.main(["--name", "muse", "--test_dir", str(toy), "--weather", "fog,normal"])
    assert list(results) == ["normal", "fog", "mean"]
    capsys.readouterr()
    fails(train.main, [*options, "--musenet"], capsys, "--weather all")
    fails(train.main, [*options, "--btnk", "0,1"], capsys, "--btnk goes with --musenet")
    fails(train.main, [*options, "--loss_weights", "weather=1"], capsys, "--musenet sees")
