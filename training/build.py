"""From the options of a run to what trains: the data, the network, the losses, the optimizer.

Here options become arguments: the classes that are built take values, never options.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dataset
import losses
import model
import utils
from imaging.augmentation import Augmentation
from imaging.cache import open_view
from imaging.files import TEXT, split_sample
from imaging.texts import TokenizedTexts, read_texts
from imaging.turns import turns_of
from networks.backbones import download_imagenet_weights
from networks.branch import branches_of
from networks.musenet import download_ibn_weights
from networks.text import (
    new_texts,
    read_encoder,
    read_tokenizer,
    save_texts,
    text_branches_of,
)
from runtime import exchange, processes
from runtime.cli import precision_of
from runtime.printing import quoted
from training.ground import read_ground
from training.optimisation import build_optimizer, load_optimizer, split_parameters
from training.pooled import Head
from training.rules import TOKENS, input_views
from training.samplers import SAMPLERS
from training.transfer import find_run, start_from


# ---------------------------------------------------------------- data
@dataclass
class TrainingData:
    """Class list, loader and sampler of the training buildings, and the held-out images."""

    class_names: list
    samples: dict  # {view: [(path, label)]}
    loader: Any
    sampler: Any
    held_out: dict  # {view: {ID: paths}}, empty with --train_all
    images: dict  # {view: imaging.cache.ResizedImages}
    files: dict  # {view: (number of images, digest of their names and sizes)}
    tokenizer: Any = None  # of the view of texts, as the next
    encoder: Any = None

    def save_words(self, run_dir):
        """Write what a test needs to read texts into a run folder."""
        save_texts(run_dir, self.tokenizer, self.encoder)


def open_data(opts, pin_memory):
    """Scan the views asked for, split the buildings, build the loader: `TrainingData`."""
    scanned = dataset.scan_training_views(opts.data_dir, input_views(opts))
    tokenizer, encoder = open_words(opts, scanned) if TEXT in scanned else (None, None)
    class_names, held_out = split_buildings(opts, scanned)
    if not dataset.paired_classes(scanned) and processes.is_main():
        print(
            f"warning: no building has images in two of {', '.join(scanned)}, so nothing ties the "
            "views together: the class folders of a building must have the same name in each; see "
            f"`python prepare.py check {quoted(opts.data_dir)}`",
            file=sys.stderr,
        )
    samples = dataset.label_samples(scanned, class_names)
    images = {
        view: open_images(opts, view, classes, tokenizer) for view, classes in scanned.items()
    }
    sampler = build_sampler(opts, samples)
    ground = read_ground(opts.data_dir, samples) if opts.loss_weights.get("overlap") else None
    views = dataset.TrainingViews(samples, images, augmentations(opts), ground)
    loader = dataset.batch_loader(views, sampler, opts.num_workers, pin_memory)
    counts = ", ".join(f"{len(pairs)} {view}" for view, pairs in samples.items() if view != TEXT)
    texts = f", {len(samples[TEXT])} texts" if TEXT in samples else ""
    print(f"{len(class_names)} buildings, {counts} images{texts}, {len(sampler)} steps an epoch")
    if opts.world_size > 1:
        print(
            f"{opts.world_size} processes of {opts.batchsize} images per view: an effective batch "
            f"of {opts.world_size * opts.batchsize}, learning rate {opts.lr:g}"
        )
    files = {view: describe_files(classes) for view, classes in scanned.items()}
    return TrainingData(
        class_names, samples, loader, sampler, held_out, images, files, tokenizer, encoder
    )


def open_images(opts, view, classes, tokenizer):
    """What gives the images of a view's {ID: paths}, or the token ids of its texts, by path."""
    paths = [path for images in classes.values() for path in images]
    if view == TEXT:
        return TokenizedTexts(paths, read_texts(paths), tokenizer, opts.text_tokens)
    return open_view(paths, opts.h, opts.w, opts.cache, opts.num_workers)


def open_words(opts, scanned):
    """(tokenizer, encoder) of the view of texts: of a resumed run, of --init's, or new ones.

    ValueError where the encoder does not take as many tokens as --text_tokens says.
    """
    run_dir = utils.run_folder(opts.name) if opts.resume else opts.init and find_run(opts.init)[0]
    run_opts = utils.read_opts(run_dir) if run_dir else {}
    same = run_opts.get("text_backbone") == opts.text_backbone
    if same and TEXT in run_opts.get("view_names", ()):
        tokenizer, encoder = read_tokenizer(run_dir), read_encoder(run_dir, vars(opts))
    else:
        texts = read_texts(sample for samples in scanned[TEXT].values() for sample in samples)
        tokenizer, encoder = new_texts(opts.text_backbone, texts, opts.text_pool)
    if opts.text_tokens is None:
        opts.text_tokens = min(TOKENS, encoder.longest)
    if opts.text_tokens > encoder.longest:
        raise ValueError(
            f"--text_tokens {opts.text_tokens} is more than {opts.text_backbone} takes: give at "
            f"most {encoder.longest}"
        )
    return tokenizer, encoder


def describe_files(classes):
    """(number, digest) of the images of {ID: paths}: of their IDs, names and sizes in bytes.

    Of texts, of their IDs, names and words. Where the folder stands has no part in it, nor whether
    a file is linked or copied.
    """
    paths = [path for images in classes.values() for path in images]
    texts = [path for path in paths if split_sample(path)[1]]
    words = dict(zip(texts, read_texts(texts), strict=True))
    digest = hashlib.sha256()
    for path in paths:
        content = words[path] if path in words else str(path.stat().st_size)
        digest.update(b"%s/%s/%s/" % (*map(os.fsencode, path.parts[-2:]), content.encode()))
    return len(paths), digest.hexdigest()


def split_buildings(opts, scanned):
    """The training IDs, and {view: {ID: paths}} of those held out, {} with --train_all."""
    class_names = dataset.class_list(scanned)
    if opts.train_all:
        return class_names, {}
    pair = (opts.view_names[0], opts.view_names[-1])
    in_both = [name for name in class_names if all(scanned[view].get(name) for view in pair)]
    held_names = dataset.hold_out(in_both, opts.seed)
    held_out = {view: {name: scanned[view][name] for name in held_names} for view in pair}
    return [name for name in class_names if name not in held_out[pair[0]]], held_out


def augmentations(opts):
    """{view: Augmentation} of the views the network is called with.

    An option that has the name of a field fills it, so a new one needs no line here.
    """
    settings = {name: value for name, value in vars(opts).items() if name in Augmentation._fields}
    return {
        view: Augmentation(opts.h, opts.w, **settings)._replace(
            turned=view == "satellite" and not (opts.no_turn or opts.joint_turns or opts.turns),
            rolled=view != "satellite" or opts.no_turn,
            weather=tuple(opts.weather) if view == "drone" else (),
            turns=opts.turns and turns_of(opts.turns, view),
        )
        for view in input_views(opts)
        if view != TEXT
    }


def build_sampler(opts, samples):
    """The sampler of this process's batches."""
    paired = {
        "anchor_view": opts.epoch_over,
        "epoch_passes": opts.epoch_passes,
        "images_per_building": opts.images_per_building,
        "joint_flips": opts.joint_flips,
        "joint_turns": opts.joint_turns,
    }
    return SAMPLERS[opts.sampler](
        samples,
        opts.batchsize,
        opts.seed,
        rank=processes.rank(),
        world_size=processes.world_size(),
        **(paired if opts.sampler == "paired" else {}),
    )


# ---------------------------------------------------------------- network
def build_network(opts, class_num, class_names=(), encoder=None):
    """The network of the options, with ImageNet or given weights unless --no_pretrained.

    `class_names`, the IDs of the classes, tell --init whether another run has the same; `encoder`
    is that of the view of texts.
    """
    used = {name for name, weight in opts.loss_weights.items() if weight}
    network = model.build_model(
        class_num,
        tuple(opts.view_names),
        encoder=encoder,
        backbone=opts.backbone,
        droprate=opts.droprate,
        stride=opts.stride,
        pool=opts.pool,
        share=opts.share,
        LPN=opts.LPN,
        block=opts.block,
        usam=opts.usam,
        image_size=(opts.h, opts.w),
        maps=opts.maps,
        head=opts.head,
        embedding_dim=opts.embedding_dim,
        center=opts.center,
        whiten=opts.whiten,
        return_f=bool(used - set(losses.LOGIT_TERMS)),
        musenet=opts.musenet,
        btnk=opts.btnk,
        return_weather="weather" in used,
    )
    network.input_spec.check_size(opts.backbone, opts.h, opts.w)
    if opts.resume or opts.no_pretrained:
        return network
    if opts.init:
        start_from(opts.init, network, opts, class_names)
        return network
    if opts.weights:
        weights, source = utils.load_state_dict(opts.weights), opts.weights
    else:
        weights, source = download_imagenet_weights(opts.backbone), "the ImageNet weights"
    ibn, ibn_source = None, opts.ibn_weights
    if opts.ibn_weights:
        ibn = utils.load_state_dict(opts.ibn_weights)
    elif opts.musenet and not opts.weights:
        ibn, ibn_source = download_ibn_weights(opts.backbone), "IBN-Net's weights"
    model.load_backbone(network, weights, source, ibn, ibn_source)
    return network


def compile_network(network, device):
    """`torch.compile` for fixed batch sizes: each combination of sizes is compiled by itself.

    The paired sampler draws two sizes, b and b - 1; more come where buildings lack a view, and
    beyond torch's limit (eight) a batch runs uncompiled. On a GPU the kernels of a pass are
    replayed as one CUDA graph, because small batches wait for Python more than for the GPU.
    """
    alone = processes.world_size() == 1  # else gradients are exchanged in the midst of a pass
    mode = "reduce-overhead" if device.type == "cuda" and alone else "default"
    return torch.compile(network, dynamic=False, mode=mode)


# ---------------------------------------------------------------- training
@dataclass
class Training:
    """Everything a step needs; `forward` is the network, compiled where asked for.

    Where the features of a frozen backbone are `pooled` once (training/pooled.py), `forward` takes
    them in place of the images.
    """

    network: Any
    forward: Any
    views: list
    losses: Any
    optimizer: Any
    scaler: Any
    average: Any  # AveragedModel or None
    device: Any
    precision: str  # fp32, fp16 or bf16
    clip: dict  # arguments of optimisation.clip_gradients
    micro_batchsize: int | None  # images per view in memory at once
    nothing: dict  # {view: a part of a batch without images}
    pooled: bool = False

    def to_input(self, x):
        """A part of a batch as `forward` takes it: images (B, 3, H, W), token ids or features."""
        return dataset.to_network_input(x, self.device, self.network.input_spec)

    @property
    def evaluated(self):
        """The network that is saved and validated: the moving average where there is one."""
        return self.average.module if self.average else self.network

    def state(self):
        """What a resumed run needs of this, as a dict of tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load_state(self, state, path):
        """Restore what `state` gave; KeyError, TypeError or RuntimeError where it does not fit.

        ValueError where `path`, from which it was read, has branches that are shared here.
        """
        utils.require_equal_copies(self.network, state["network"], path)
        self.network.load_state_dict(state["network"])
        self.losses.load_state_dict(state["losses"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])


def build_training(opts, network, device, class_num):
    """Losses, optimizer, loss scaler and moving average around a network."""
    if opts.sync_bn:
        if device.type != "cuda":
            raise ValueError("--sync_bn works on GPUs alone: leave it out with --device cpu")
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for branch in branches_of(network):
        if opts.freeze:
            branch.freeze(opts.train_blocks)
        if opts.grad_checkpoint:
            branch.checkpoint_gradients()
    for branch in text_branches_of(network):
        if opts.freeze and not opts.train_text:
            branch.freeze()
        if opts.grad_checkpoint:
            branch.encoder.checkpoint_gradients()
    network.to(device, memory_format=torch.channels_last)
    terms = losses.build_losses(
        opts.loss_weights, class_num, network.embedding_dim, loss_merge=opts.loss_merge
    ).to(device)
    average = None
    if opts.moving_avg < 1:
        average = AveragedModel(
            network, multi_avg_fn=moving_average(opts.moving_avg), use_buffers=True
        )
    pooled = pools_once(opts)
    forward = exchange.distribute(Head(network) if pooled else network, device)
    head, backbone, words = split_parameters(network)
    groups = [(backbone, opts.lr * opts.backbone_lr), ([*head, *terms.parameters()], opts.lr)]
    if words:
        groups.append((words, opts.lr * opts.text_lr))
    if opts.freeze:
        groups = trained_groups(groups, network)
    return Training(
        network=network,
        forward=compile_network(forward, device) if opts.compile else forward,
        views=input_views(opts),
        losses=terms,
        optimizer=build_optimizer(groups, opts.optimizer, opts.weight_decay),
        scaler=torch.amp.GradScaler(device.type, enabled=opts.fp16),
        average=average,
        device=device,
        precision=precision_of(opts),
        clip={"norm": opts.clip_norm, "value": opts.clip_value},
        micro_batchsize=opts.micro_batchsize,
        nothing=empty_inputs(opts, network.head_dim if pooled else None),
        pooled=pooled,
    )


def moving_average(decay):
    """torch's exponential moving average for lists of tensors; whole numbers are copied.

    A mean of an index with itself, rounded down, is another index.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averages, current, count):
        if averages[0].is_floating_point():
            average(averages, current, count)
            return
        for old, new in zip(averages, current, strict=True):
            old.copy_(new)

    return update


def empty_inputs(opts, width):
    """{view: a part of a batch without images, or texts}; of pooled features so many numbers."""
    images = torch.empty(0, 3, opts.h, opts.w, dtype=torch.uint8)
    empty = images if width is None else torch.empty(0, width)
    texts = torch.empty(0, 1, dtype=torch.long)
    return {view: texts if view == TEXT else empty for view in input_views(opts)}


def pools_once(opts):
    """Whether what the frozen backbone sees of an image is one of a few copies, see pooled.py."""
    fixed = all(each.fixed for each in augmentations(opts).values())
    return opts.freeze and not (opts.train_blocks or opts.LPN) and fixed


def trained_groups(groups, network):
    """Of [(parameters, learning rate)] those that train after `Branch.freeze`; says how many."""
    unused = [getattr(each.model, n) for each in branches_of(network) for n in each.unused]
    left = {id(weight) for module in unused for weight in module.parameters()}
    used = sum(w.numel() for weights, _ in groups for w in weights if id(w) not in left)
    groups = [([w for w in weights if w.requires_grad], lr) for weights, lr in groups]
    groups = [group for group in groups if group[0]]
    trained = sum(w.numel() for weights, _ in groups for w in weights)
    print(f"--freeze: trains {trained:,} of {used:,} parameters")
    return groups
