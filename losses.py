"""Named loss terms, each a module `loss(outputs, labels) -> scalar`; trainable ones own weights.

`outputs` is {view: logits (B, C) float32}, `labels` is {view: (B,) int64}.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class InstanceLoss(nn.Module):
    """Cross-entropy of every view against the building's class, summed over the views.

    All views share one classifier, so the term pulls the images of a building to one class vector,
    whatever platform took them (Zheng et al., Dual-Path Convolutional Image-Text Embeddings with
    Instance Loss, TOMM 2020; University-1652, ACM MM 2020, eq. 1).
    """

    def forward(self, outputs, labels):
        return torch.stack(
            [F.cross_entropy(logits, labels[view]) for view, logits in outputs.items()]
        ).sum()


def build_losses():
    """The loss terms by name, in the order they are summed and logged."""
    return nn.ModuleDict({"instance": InstanceLoss()})


def require_finite(terms, step):
    """Raise FloatingPointError naming the step and the first of {term: number} not finite."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name} loss became {value} at step {step}: lower --lr, "
                "raise --warm_epoch, or use --bf16 instead of --fp16"
            )
