"""The networks: published keys and arithmetic, shapes, pooling, weights."""

import math

import pytest
import torch
import torchvision
from conftest import NARROW, fails
from torch import nn
from torch.nn import functional as F

import model
import test as script
import utils
from networks import backbones
from networks.inference import DTYPES, inference_copy
from training import optimisation


def reference_branch(backbone, pool, stride):
    """A published branch written out with torchvision: (state dict, images -> pooled feature)."""
    net = torchvision.models.get_model(backbone)
    if backbone.startswith("resnet") and stride == 1:
        net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    state = dict(net.state_dict())
    channels = 512 if backbone == "vgg16_bn" else 2048
    p = torch.full((channels,), 3.0) + torch.rand(channels)
    if pool == "gem":
        state["gem2.p"] = p
    trunk = net.features if backbone == "vgg16_bn" else nn.Sequential(*list(net.children())[:-2])

    def embed(images):
        x = trunk.eval()(images)
        pooled = {
            "avg": lambda: F.adaptive_avg_pool2d(x, 1).flatten(1),
            "max": lambda: F.adaptive_max_pool2d(x, 1).flatten(1),
            "gem": lambda: (
                x.clamp(min=1e-6).pow(p[None, :, None, None]).mean((2, 3)).pow(1 / p[None])
            ),
        }
        if pool == "avg+max":
            return torch.cat((pooled["avg"](), pooled["max"]()), 1)
        return pooled[pool]()

    return state, embed


def reference_network(backbone, pool, stride, views, share, class_num):
    """A published multi-view network: (state dict as saved, [images -> 512-d feature per view])."""
    branches = [reference_branch(backbone, pool, stride) for _ in range(views)]
    if share:
        branches[-1] = branches[0]
    width = (512 if backbone == "vgg16_bn" else 2048) * (2 if pool == "avg+max" else 1)
    linear, norm = nn.Linear(width, 512), nn.BatchNorm1d(512)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    last = nn.Linear(512, class_num)
    state = {
        f"model_{number}.model.{key}": value
        for number, (own, _) in enumerate(branches, 1)
        for key, value in own.items()
    }
    for prefix, layer in (
        ("classifier.add_block.0.", linear),
        ("classifier.add_block.1.", norm),
        ("classifier.classifier.0.", last),
    ):
        state.update({prefix + key: value for key, value in layer.state_dict().items()})
    norm.eval()
    return state, [lambda x, e=embed: norm(linear(e(x))) for _, embed in branches]


@pytest.mark.parametrize(
    ("backbone", "pool", "stride", "views", "share"),
    [
        ("resnet50", "avg", 1, 3, True),
        ("resnet50", "gem", 2, 3, False),
        ("resnet50", "avg+max", 2, 2, True),
        ("resnet50", "max", 2, 2, False),
        ("vgg16_bn", "avg+max", 2, 2, True),
        ("vgg16_bn", "gem", 2, 2, False),
    ],
)
@torch.no_grad()
def test_published_run_folder_gives_the_same_features(
    workdir, backbone, pool, stride, views, share
):
    """Published defect 27 too: nothing is downloaded to load a checkpoint (there is no network)."""
    torch.manual_seed(1)
    state, embeds = reference_network(backbone, pool, stride, views, share, class_num=7)
    run_dir = utils.run_folder("published")
    # Keys as in the published opts.yaml; older files lack most of them.
    opts = {
        "views": views,
        "pool": pool,
        "stride": stride,
        "share": share,
        "nclasses": 7,
        "droprate": 0.75,
        "h": 64,
        "w": 64,
        "fp16": True,
        "extra_Google": False,
    }
    if backbone == "vgg16_bn":
        opts["use_vgg16"] = True
    utils.write_opts(run_dir, opts)
    utils.save_tensors(run_dir / "net_119.pth", state)

    run_opts = utils.read_opts(run_dir)
    network = model.model_from_opts(run_opts)
    assert network.state_dict().keys() == state.keys()
    utils.load_weights(network, utils.find_checkpoint(run_dir))
    network.eval()
    images = torch.rand(2, 3, 64, 64)
    for number, embed in enumerate(embeds, 1):
        torch.testing.assert_close(network.embed(images, number), embed(images), atol=1e-5, rtol=0)
    names = ("satellite", "street", "drone")[:views]
    assert model.views_from_opts(run_opts) == (names, False)


# ---------------------------------------------------------------- LPN and RK-Net
def plain_usam(state, prefix):
    """RK-Net's module, two convolutions and a batch norm with the tensors of the file."""
    bn = {key: state[f"{prefix}bn.{key}"] for key in ("weight", "bias")}
    mean, var = (state[f"{prefix}bn.running_{key}"] for key in ("mean", "var"))

    def attend(x):
        total = x.sum(1, keepdim=True)
        around = F.conv2d(total, state[f"{prefix}weight"], padding=1)
        attention = F.conv2d(total, state[f"{prefix}weight2"]) - around
        attention = F.relu(F.batch_norm(attention, mean, var, bn["weight"], bn["bias"]))
        attention[:, :, :, [0, -1]] = attention[:, :, [0, -1], :] = 0
        return x + attention * x

    return attend


def plain_parts(x, block, pool):
    """LPN's partition as published: squares from the centre, less the square inside, pooled."""
    centre, step = x.shape[2] // 2, x.shape[2] // (2 * block)
    parts = []
    for i in range(1, block + 1):
        low, high = (centre - i * step, centre + i * step) if i < block else (0, x.shape[2])
        square = x[:, :, low:high, low:high].clone()
        hole = slice(centre - (i - 1) * step - low, centre + (i - 1) * step - low)
        square[:, :, hole, hole] = 0
        pools = {"avg": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}
        parts.append(torch.cat([pools[kind](square, 1) for kind in pool.split("+")], 1).flatten(1))
    return parts


def plain_feature(state, number, images, *, stride, pool, block, usam):
    """A published network's test feature of images, from its state dict: sums over flips."""
    with torch.device("meta"):  # no time for weights that are replaced
        net = torchvision.models.resnet50()
    if stride == 1:
        net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    prefix = f"model_{number}."
    own = {k.removeprefix(f"{prefix}model."): v for k, v in state.items() if k.startswith(prefix)}
    net.load_state_dict({k: own[k] for k in net.state_dict()}, assign=True)
    net.eval()
    attend = [plain_usam(state, f"{prefix}usam_{n}.") if usam else (lambda x: x) for n in (1, 2)]
    summed = 0
    for flipped in (images, images.flip(3)):
        x = attend[0](net.relu(net.bn1(net.conv1(flipped))))
        x = net.layer4(net.layer3(net.layer2(attend[1](net.layer1(net.maxpool(x))))))
        parts = plain_parts(x, block, pool) if block else [x.mean((2, 3))]
        embedded = []
        for name, part in zip(head_names(block), parts, strict=True):
            y = F.linear(
                part, state[f"{name}.add_block.0.weight"], state[f"{name}.add_block.0.bias"]
            )
            norm = [state[f"{name}.add_block.1.{k}"] for k in NORM_KEYS]
            embedded.append(F.batch_norm(y, *norm))
        summed = summed + torch.stack(embedded, 2)  # (B, 512, parts), as test.py of LPN
    return (summed / summed.norm(dim=1, keepdim=True) / (block or 1) ** 0.5).flatten(1)


NORM_KEYS = ("running_mean", "running_var", "weight", "bias")


def head_names(block):
    return [f"classifier{i}" for i in range(block)] if block else ["classifier"]


def published_state(*, pool, block, usam, share, class_num):
    """Random tensors under the keys of a published three-view ResNet-50 run."""
    state = {}
    for number in (1, 2) if share else (1, 2, 3):
        net = torchvision.models.resnet50()
        attention = {"weight": torch.ones(1, 1, 3, 3), "weight2": torch.full((1, 1, 1, 1), 9.0)}
        bn = nn.BatchNorm2d(1).state_dict()
        bn |= {k: torch.rand(1) / 5 + 0.01 * (k == "running_var") for k in NORM_KEYS}
        attention |= {f"bn.{key}": value for key, value in bn.items()}
        state |= {f"model_{number}.model.{k}": v for k, v in net.state_dict().items()}
        for name in ("usam_1", "usam_2") if usam else ():
            state |= {f"model_{number}.{name}.{k}": v.clone() for k, v in attention.items()}
    if share:
        state |= {k.replace("model_1", "model_3"): v for k, v in state.items() if "model_1" in k}
    width = 4096 if pool == "avg+max" else 2048
    for name in head_names(block):
        norm = nn.BatchNorm1d(512).state_dict()
        norm |= {k: torch.rand(512) + 0.5 for k in NORM_KEYS}
        layers = {
            "add_block.0": nn.Linear(width, 512).state_dict(),
            "add_block.1": norm,
            "classifier.0": nn.Linear(512, class_num).state_dict(),
        }
        for layer, tensors in layers.items():
            state |= {f"{name}.{layer}.{k}": v for k, v in tensors.items()}
    return state


@pytest.mark.parametrize(
    ("block", "usam", "pool", "stride", "share", "size"),
    [
        (4, False, "avg", 1, True, 128),  # LPN, map 8 x 8
        (2, False, "avg+max", 2, False, 128),  # map 4 x 4
        (None, True, "avg", 1, True, 64),  # RK-Net
        (4, True, "avg", 1, False, 128),  # both
    ],
)
@torch.no_grad()
def test_published_lpn_and_rk_net_give_the_same_features(
    workdir, block, usam, pool, stride, share, size
):
    torch.manual_seed(1)
    state = published_state(pool=pool, block=block, usam=usam, share=share, class_num=5)
    run_dir = utils.run_folder("published")
    # An RK-Net run's options name no USAM; LPN's have LPN and block.
    opts = {"views": 3, "pool": pool, "stride": stride, "share": share, "nclasses": 5}
    opts |= {"LPN": True, "block": block} if block else {}
    utils.write_opts(run_dir, {**opts, "droprate": 0.75, "h": size, "w": size, "fp16": True})
    utils.save_tensors(run_dir / "net_119.pth", state)

    checkpoint = utils.find_checkpoint(run_dir)
    network = model.model_from_opts(utils.read_opts(run_dir), utils.load_tensors(checkpoint))
    assert network.state_dict().keys() == state.keys()
    utils.load_weights(network, checkpoint)
    network.eval()
    folded = inference_copy(network)
    images = torch.rand(2, 3, size, size)
    for number in (2, 3):
        expected = plain_feature(
            state, number, images, stride=stride, pool=pool, block=block, usam=usam
        )
        for net in (network, folded):
            feature = net.finish(net.embed(images, number) + net.embed(images.flip(3), number))
            assert feature.shape == (2, 512 * (block or 1))
            torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(feature.norm(dim=1), torch.ones(2))


def test_features_of_parts_stand_and_are_divided_as_published():
    network = model.build_model(3, backbone="resnet18", LPN=True, block=2, share=True)
    assert network.parts == 2
    embedding = torch.zeros(1, 1024)
    embedding[0, 0], embedding[0, 2] = 3.0, 4.0  # numbers 0 and 1 of part 0
    embedding[0, 1] = 7.0  # number 0 of part 1
    finished = network.finish(embedding)[0]
    assert finished[:3].tolist() == pytest.approx([0.6 / 2**0.5, 1 / 2**0.5, 0.8 / 2**0.5])
    whole = model.build_model(3, backbone="resnet18", share=True)
    torch.testing.assert_close(whole.finish(embedding), embedding / 74**0.5)


def test_lpn_trains_a_classifier_for_each_part():
    torch.manual_seed(0)
    network = model.build_model(
        3, model.THREE_VIEWS, backbone="resnet18", stride=1, LPN=True, usam=True, return_f=True
    )
    images = torch.rand(2, 3, 64, 64)
    outputs = network(images, images, None, images)
    assert [None if y is None else [z.shape for z in y] for y in outputs] == [
        [(2, 3, 4), (2, 2048)],
        [(2, 3, 4), (2, 2048)],
        None,
        [(2, 3, 4), (2, 2048)],
    ]
    logits, embedding = outputs[0]
    for part in range(4):  # the head of a part sees that part of the embedding
        head = getattr(network, f"classifier{part}")
        own = embedding.unflatten(1, (512, 4))[:, :, part]
        torch.testing.assert_close(head.classifier(own), logits[:, :, part])
    third = network(None, None, images)[2]
    sum(y[0].square().sum() for y in (*outputs[:2], third)).backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_shared_attention_follows_the_backbone():
    first = model.ft_net(3, backbone="resnet18", usam=True, block=2)
    second = model.ft_net(3, init_model=first)
    assert second.usam_1 is first.usam_1 and second.block == 2
    assert torch.equal(*(net.eval()(torch.ones(1, 3, 64, 64)) for net in (first, second)))


def test_predicted_class_of_parts_has_the_largest_summed_probability():
    # Part 0 is certain of class 0, parts 1 and 2 lean to class 1: 1.0 + .3 + .3 against 0 + .7 + .7
    shares = torch.tensor([[[1.0, 0.3, 0.3], [1e-9, 0.7, 0.7]]])
    assert model.predicted_classes(shares.log()).tolist() == [0]
    assert model.predicted_classes(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [1]


@pytest.mark.parametrize("options", [{}, {"LPN": True, "pool": "avg"}, {"usam": True}])
def test_parameters_are_the_heads_or_the_backbones(options):
    network = model.build_model(3, backbone="resnet18", **{"pool": "gem", **options})
    head, backbone, _ = optimisation.split_parameters(network)
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)].partition(".")[0] for p in backbone} == {"model_1", "model_2"}
    heads = {f"classifier{i}" for i in range(4)} if "LPN" in options else {"classifier"}
    assert {names[id(p)].partition(".")[0] for p in head} == heads
    assert len(head) + len(backbone) == len(names)


def test_three_view_vgg_head_fits():
    """Published defect 10: three_view_net sized the head for ResNet-50 whatever the branches."""
    network = model.three_view_net(5, 0.5, pool="avg+max", VGG16=True)
    assert network.classifier.add_block[0].in_features == 1024
    images = torch.rand(2, 3, 32, 32)
    assert [y.shape for y in network(images, images, images)] == [(2, 5)] * 3


def test_calls_of_the_tutorial():
    images = torch.rand(2, 3, 32, 32)
    two = model.two_view_net(4, 0.5, backbone="resnet18")
    first, second = two(images, None)
    assert first.shape == (2, 4) and second is None
    three = model.build_model(4, model.THREE_VIEWS, backbone="resnet18", return_f=True, share=True)
    outputs = three(None, images, images, images)
    assert outputs[0] is None and len(outputs) == 4
    logits, embedding = outputs[3]
    assert logits.shape == (2, 4) and embedding.shape == (2, 512)
    assert three.model_3 is three.model_1 and three.model_2 is not three.model_1
    assert model.ft_net(4, backbone="resnet18")(images).shape == (2, 512)
    shared = model.ft_net(4, init_model=two.model_1)
    assert shared.model is two.model_1.model


@pytest.mark.parametrize("share", [True, False])
def test_batch_norm_trains_on_the_mixture_it_is_tested_with(share):
    """Views of one branch are one batch: running statistics are those of both views together."""
    torch.manual_seed(0)
    network = model.build_model(4, backbone="resnet18", share=share)
    first, second = torch.rand(3, 3, 32, 32), torch.rand(5, 3, 32, 32) + 2
    seen = {}
    network.model_1.model.bn1.register_forward_pre_hook(lambda _, x: seen.update(stem=x[0]))
    network.classifier.add_block[1].register_forward_pre_hook(lambda _, x: seen.update(head=x[0]))
    outputs = network(first, second)
    assert [len(y) for y in outputs] == [3, 5]
    assert len(seen["stem"]) == (8 if share else 3) and len(seen["head"]) == 8
    running = network.classifier.add_block[1].running_mean
    torch.testing.assert_close(running, 0.1 * seen["head"].mean(0))


def test_views_of_different_sizes_share_a_branch():
    network = model.build_model(4, backbone="resnet18", share=True).eval()
    small, large = torch.rand(2, 3, 32, 32), torch.rand(3, 3, 64, 32)
    together = network(small, large)
    torch.testing.assert_close(together[0], network(small, None)[0])
    torch.testing.assert_close(together[1], network(None, large)[1])
    assert network(None, None) == (None, None)


def test_fourth_input_goes_through_the_street_branch():
    torch.manual_seed(0)
    network = model.build_model(4, model.THREE_VIEWS, backbone="resnet18").eval()
    images = torch.rand(2, 3, 32, 32)
    _, street, _, extra = network(images, images, images, images)
    torch.testing.assert_close(street, extra)
    assert model.branch_numbers(model.THREE_VIEWS, extra_google=True)["google"] == 2


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_stride_one_doubles_the_map(backbone):
    images = torch.rand(1, 3, 64, 64)
    sizes = [
        model.ft_net(2, stride=stride, backbone=backbone).feature_map(images).shape[-2:]
        for stride in (2, 1)
    ]
    assert sizes == [(2, 2), (4, 4)]


def test_class_block_initialisation_and_options():
    block = model.ClassBlock(2048, 10, droprate=0.5, return_f=True)
    # fan-out: std = sqrt(2 / 512)
    assert block.add_block[0].weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert block.classifier[0].weight.std().item() == pytest.approx(0.001, rel=0.1)
    bare = model.ClassBlock(8, 3, droprate=0.0, relu=True, bnorm=False, linear=False)
    assert [type(layer) for layer in bare.add_block] == [nn.LeakyReLU]
    assert bare(torch.rand(2, 8)).shape == (2, 3)


def with_statistics(network):
    """The network with batch norms that are neither the identity nor alike."""
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    return network


@pytest.mark.parametrize(
    ("backbone", "stride", "pool", "share"),
    [
        ("resnet18", 1, "avg", True),
        ("resnet18", 2, "gem", False),
        ("resnet50", 1, "max", False),
        ("resnet50", 2, "avg+max", True),
        ("vgg16_bn", 2, "avg", True),
        ("vgg16_bn", 2, "gem", False),
    ],
)
@torch.no_grad()
def test_folded_batch_norm_gives_the_same_embeddings(backbone, stride, pool, share):
    torch.manual_seed(0)
    network = with_statistics(
        model.build_model(3, backbone=backbone, stride=stride, pool=pool, share=share)
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    folded = inference_copy(network)
    assert not any("Norm" in type(layer).__name__ for layer in folded.modules())
    assert (folded.model_1 is folded.model_2) is share and not folded.training
    assert network.training and all(
        torch.equal(value, before[key]) for key, value in network.state_dict().items()
    )
    network.eval()
    for branch in (1, 2):
        expected, embedded = network.embed(images, branch), folded.embed(images, branch)
        assert (embedded - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("backbone", "pool"), [("resnet18", "gem"), ("resnet50", "avg")])
@torch.no_grad()
def test_half_precision_convolutions_keep_the_direction(backbone, pool, precision):
    torch.manual_seed(0)
    network = with_statistics(model.build_model(3, backbone=backbone, pool=pool)).eval()
    images = torch.randn(4, 3, 64, 64)
    half = inference_copy(network, precision)
    embedded = half.embed(images, 1)
    assert half.model_1.model.conv1.weight.dtype == DTYPES[precision]
    assert embedded.dtype == torch.float32
    assert all(weight.dtype == torch.float32 for weight in half.classifier.parameters())
    assert F.cosine_similarity(embedded, network.embed(images, 1)).min() > 0.9999


def test_synchronised_batch_norm_is_folded_too():
    torch.manual_seed(0)
    network = with_statistics(model.build_model(3, backbone="resnet18"))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    folded = inference_copy(synchronised)
    assert not any("Norm" in type(layer).__name__ for layer in folded.modules())


def test_the_imagenet_classifier_is_neither_trained_nor_copied():
    network = model.build_model(3, backbone="resnet18")
    assert not any(p.requires_grad for p in network.model_1.model.fc.parameters())
    assert inference_copy(network).model_1.model.fc is network.model_1.model.fc
    outputs = network(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    sum(y.sum() for y in outputs).backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LPN": True}, "LPN: true and views: 2"),
        ({"LPN": True, "view_names": ["satellite", "drone"], "block": "four"}, "block"),
        ({"PCB": True}, "PCB"),
        ({"nclasses": "many"}, "nclasses"),
        ({"views": 7}, "views"),
        ({"pool": "sum"}, "pool 'sum'"),
        ({"backbone": "resnet1"}, "backbone"),
        ({"stride": 3}, "stride"),
        ({"stride": None}, "stride: None"),
        ({"droprate": None}, "droprate: None"),
        ({"backbone": ["r"]}, "backbone"),
        ({"views": [2]}, "views"),
        ({"view_names": [1, 2]}, "view_names"),
        ({"view_names": ["drone", "drone"]}, "different view names"),
        *(
            ({name: "no"}, f"{name}: 'no', which no run writes")
            for name in ("share", "LPN", "usam", "use_vgg16", "musenet", "PCB", "use_dense")
        ),
        ({"share": 1}, "share: 1"),
        ({"share": None}, "share: None"),
        ({"stride": True}, "stride: True"),
        ({"droprate": False}, "droprate: False"),
    ],
)
def test_impossible_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        model.model_from_opts({"views": 2, "nclasses": 3, **changes})


@pytest.mark.parametrize("views", [2, 3])
def test_branches_that_differ_are_not_loaded_as_shared_ones(small_run, capsys, views):
    """One would overwrite the other without a word."""
    names = model.THREE_VIEWS if views == 3 else ("satellite", "drone")
    network = model.build_model(8, names, backbone=NARROW)
    opts = {**utils.read_opts(small_run), "view_names": list(names), "views": views}
    utils.save_tensors(small_run / "net_009.pth", network.state_dict())
    utils.write_opts(small_run, {**opts, "share": True})
    line = fails(script.main, ["--name", "small", "--test_dir", "x"], capsys, "net_009.pth",
                 f"different weights in model_1.model.conv1.weight and model_{views}.model",
                 "share: false")  # fmt: skip
    assert line.startswith("test.py: error:")
    utils.write_opts(small_run, {**opts, "share": "no"})
    fails(script.main, ["--name", "small", "--test_dir", "x"], capsys, "share: 'no'")
    utils.write_opts(small_run, {**opts, "no_flip": "no"})  # it would leave the mirror images out
    fails(script.main, ["--name", "small", "--test_dir", "x"], capsys, "no_flip: 'no'")
    # Equal copies, also of what is not a number, are what a shared network leaves.
    shared = model.build_model(8, names, share=True, backbone=NARROW)
    with torch.no_grad():
        shared.model_1.model.conv1.weight[0] = math.nan
    utils.save_tensors(small_run / "net_009.pth", shared.state_dict())
    for share in (True, False):
        utils.write_opts(small_run, {**opts, "share": share})
        model.load_run("small", "9", torch.device("cpu"))


def test_backbone_weights_from_a_file(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    del state["fc.weight"], state["fc.bias"]
    network = model.build_model(3, backbone="resnet18", pool="gem")
    model.load_backbone(network, state, "FILE")
    for branch in (network.model_1, network.model_2):
        assert torch.equal(branch.model.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="FILE does not fit the backbone.*first layer1.0.conv1"):
        model.load_backbone(model.build_model(3, backbone="resnet50"), state, "FILE")


def test_no_download_possible_names_both_ways_on(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(OSError, match=r"no route.*--weights FILE.*--no_pretrained"):
        backbones.download_imagenet_weights("resnet18")


def test_download_uses_torchvisions_weights(monkeypatch):
    wanted = {}
    monkeypatch.setattr(
        torchvision.models.ResNet50_Weights,
        "get_state_dict",
        lambda self, **options: wanted.update(name=self.name, **options) or {"a": 1},
    )
    assert backbones.download_imagenet_weights("resnet50") == {"a": 1}
    assert wanted == {"name": "IMAGENET1K_V1", "progress": False, "check_hash": True}
