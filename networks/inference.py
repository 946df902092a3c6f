"""The copy of a trained network that extracts features: batch norm folded, half precision if asked.

Training needs the original, which stays as it is.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from networks.branch import branches_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def fold_batch_norm(network):
    """Fold every batch norm into the convolution or linear layer before it, in place.

    In testing batch norm is a fixed scale and shift per channel, which the weights before it can
    carry. "Before" is the order in which a module registered its children. That is the order of use
    in all networks here except timm's: those, and USAM's single channel, keep their batch norms.
    Expects float32 and evaluation mode.
    """
    kept = {
        id(module)
        for branch in branches_of(network)
        if not branch.foldable
        for module in branch.modules()
    }
    folds = {
        nn.Conv2d: (fuse_conv_bn_eval, (nn.BatchNorm2d, nn.SyncBatchNorm)),
        nn.Linear: (fuse_linear_bn_eval, (nn.BatchNorm1d, nn.SyncBatchNorm)),
    }
    for parent in list(network.modules()):  # a shared branch comes once
        if id(parent) in kept:
            continue
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            fuse, norms = folds.get(type(layer), (None, ()))
            if isinstance(norm, norms):
                setattr(parent, name, fuse(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return network


def inference_copy(network, precision="fp32"):
    """A copy for `embed`: evaluation mode, batch norm folded, channels last.

    `precision` "fp16" or "bf16" stores the backbones up to their last feature map in half; USAM's
    attention, pooling, head and embedding stay float32. Weights that are already in half precision
    are faster than autocast, which converts them for every batch, and a little more exact.
    """
    dtype = DTYPES[precision]
    # The ImageNet classifiers, which nothing uses, are not copied.
    unused = [getattr(each.model, n) for each in branches_of(network) for n in each.unused]
    memo = {id(module): module for module in unused}
    folded = fold_batch_norm(copy.deepcopy(network, memo).eval())
    for branch in branches_of(folded):
        kept = {*branch.unused, *branch.after_map, "gem2"}
        for name, child in branch.model.named_children():
            if name not in kept:
                child.to(dtype)
        for parameter in branch.model.parameters(recurse=False):  # a ViT's class token
            parameter.data = parameter.data.to(dtype)
    return folded.to(memory_format=torch.channels_last)
