"""Optimizers, learning-rate schedules, gradient clipping: from gradients to new weights."""

import math

import torch

from networks.text import text_branches_of

WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}  # as University1652-Baseline, as Sample4Geo


def split_parameters(network):
    """(head, backbone, words): parameters of the classifiers, of the branches, of a text model.

    `words` are those of a pretrained text model alone; what is new in a branch of texts counts as
    head. GeM and USAM belong to the backbone, as published, and so does MuSe-Net's ResNet for the
    style.
    """
    of_texts = text_branches_of(network)
    new = {id(x) for branch in of_texts for x in branch.new_parameters()}
    words = {id(x) for branch in of_texts for x in branch.parameters()} - new
    head, backbone, text_model = [], [], []
    for name, parameter in network.named_parameters():
        in_branch = name.startswith(("model_", "pt_model.model.")) and id(parameter) not in new
        group = text_model if id(parameter) in words else backbone if in_branch else head
        group.append(parameter)
    return head, backbone, text_model


def build_optimizer(groups, name="sgd", weight_decay=None):
    """The optimizer of [(parameters, learning rate)]; `weight_decay` None: WEIGHT_DECAY's.

    "sgd" has Nesterov momentum 0.9, as published for the baseline; "adamw" is torch's
    (Loshchilov & Hutter, ICLR 2019), betas 0.9 and 0.999. A group keeps its learning rate as
    `base_lr`, which a schedule multiplies.
    """
    groups = [{"params": list(weights), "lr": lr, "base_lr": lr} for weights, lr in groups]
    decay = WEIGHT_DECAY[name] if weight_decay is None else weight_decay
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=decay, fused=True)
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=decay, nesterov=True, fused=True)
    fill_momentum(optimizer)
    return optimizer


def fill_momentum(optimizer):
    """Give every weight that SGD trains a momentum: where it has none, zero, which is the same.

    The fused step fails where a weight gets its first gradient later than others, and after a
    skipped first step (--fp16) reads a momentum that nobody has written.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.requires_grad and optimizer.state[weight].get("momentum_buffer") is None:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def load_optimizer(optimizer, state):
    """Load an optimizer's state dict, also one written by another version or on another device."""
    for group, current in zip(state["param_groups"], optimizer.param_groups, strict=True):
        # How a step is computed is this version's choice. Without it the loss scaler would hand
        # its scale to a step that does not divide by it.
        group["fused"], group["foreach"] = current["fused"], current["foreach"]
    optimizer.load_state_dict(state)
    fill_momentum(optimizer)


def learning_rate_factor(
    epoch, progress, epochs, *, schedule="step", warm_epoch=0.0, warm_from=0.1, step_size=80
):
    """Multiple of the base learning rate at `progress` (0 to 1) through a 0-based epoch.

    Over the first `warm_epoch` epochs it rises linearly from `warm_from` to 1. (The published code
    scales the loss instead, which leaves weight decay at full strength and spoils the logged loss.)
    Then "step": a tenth after every `step_size` epochs, or after each epoch of a list; "cosine":
    half a cosine from 1 to 0 at the end (Loshchilov & Hutter, ICLR 2017, eq. 5).
    """
    time = epoch + progress
    warm = min(1.0, warm_from + (1 - warm_from) * time / warm_epoch) if warm_epoch else 1.0
    if schedule == "cosine":
        share = max(0.0, time - warm_epoch) / max(epochs - warm_epoch, 1e-9)
        return warm * (1 + math.cos(math.pi * min(share, 1.0))) / 2
    if isinstance(step_size, int):
        return warm * 0.1 ** (epoch // step_size)
    return warm * 0.1 ** sum(epoch >= milestone for milestone in step_size)


def clip_gradients(optimizer, norm=None, value=None):
    """Clip the gradients of all weights, in place: each to +-`value`, all together to `norm`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if value is not None:
        torch.nn.utils.clip_grad_value_(weights, value)
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(weights, norm)
