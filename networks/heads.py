"""What follows the pooling: centring by view, and the head shared by all views."""

import torch
from torch import nn
from torch.nn import functional as F


class Centring(nn.Module):
    """A pooled feature minus the mean of its view, then of length 1: (B, D) -> (B, D).

    Two platforms see the same place in different light and from different heights, which moves all
    features of a view alike; what is left tells the places apart. With a `width` it is also
    whitened, (B, D) -> (B, width): see `whitening`. Means and directions are part of the network's
    state, zero until they are set.
    """

    def __init__(self, views, dim, width=None):
        super().__init__()
        self.register_buffer("means", torch.zeros(views, dim))  # (views, D)
        self.register_buffer("directions", torch.zeros(dim, width) if width else None)

    def is_set(self, numbers):
        """Whether the means of these branches, and the directions, have been set."""
        means = all(self.means[number - 1].any() for number in numbers)
        return means and (self.directions is None or bool(self.directions.any()))

    def set_mean(self, number, mean):
        """Set the mean (D,) of branch number 1, 2, ..."""
        self.means[number - 1] = mean

    def centred(self, x, number):
        """(B, D) -> (B, D), without whitening."""
        return F.normalize(x - self.means[number - 1], dim=1)

    def forward(self, x, number):
        x = self.centred(x, number)
        return x if self.directions is None else F.normalize(x @ self.directions, dim=1)


def whitening(features, width, shrink=0.1):
    """Directions (D, width) that whiten centred features (N, D).

    They are the first principal directions, each divided by the root of its variance plus `shrink`
    times the largest: with few images small variances are not known well enough to divide by them.
    Directions beyond the rank of the features are zero. PCA whitening of features for retrieval:
    Jegou & Chum, ECCV 2012.
    """
    rank = min(width, *features.shape)
    some_more = min(rank + 16, *features.shape)  # the last directions it finds are not exact
    _, spread, directions = torch.svd_lowrank(features, some_more, niter=2)
    variance = spread[:rank] ** 2 / len(features)  # (rank,)
    directions = directions[:, :rank] / (variance + shrink * variance[0]).sqrt()
    return F.pad(directions, (0, width - rank))


class ClassBlock(nn.Module):
    """Head shared by all views: Linear to the embedding, batch norm, dropout, Linear to classes.

    Feature (B, input_dim) -> logits (B, class_num), or `(logits, embedding)` with `return_f`.
    Retrieval uses the embedding (B, num_bottleneck); in training it comes after the dropout.
    """

    def __init__(
        self,
        input_dim,
        class_num,
        droprate,
        relu=False,
        bnorm=True,
        num_bottleneck=512,
        linear=True,
        return_f=False,
    ):
        super().__init__()
        self.return_f = return_f
        block = [nn.Linear(input_dim, num_bottleneck)] if linear else []
        width = num_bottleneck if linear else input_dim
        if bnorm:
            block.append(nn.BatchNorm1d(width))
        if relu:
            block.append(nn.LeakyReLU(0.1))
        if droprate > 0:
            block.append(nn.Dropout(droprate))
        self.add_block = nn.Sequential(*block)
        self.classifier = nn.Sequential(nn.Linear(width, class_num))
        self._initialise()

    def _initialise(self):
        # As published: He et al. 2015 by fan-out for the embedding, near-zero class weights.
        for layer in self.add_block:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classifier[0].weight, std=0.001)
        nn.init.zeros_(self.classifier[0].bias)

    def embed(self, x):
        """Pooled feature (B, input_dim) -> embedding (B, num_bottleneck), not normalised."""
        return self.add_block(x)

    def forward(self, x):
        embedding = self.embed(x)
        logits = self.classifier(embedding)
        return (logits, embedding) if self.return_f else logits


class LinearHead(ClassBlock):
    """Head without batch norm: dropout, then one linear layer that starts as a rotation.

    Orthogonal, it keeps the distances of pretrained features at first (Saxe et al., ICLR 2014), so
    that little training on few images moves them from there. It has no bias.
    """

    def __init__(self, input_dim, class_num, droprate, num_bottleneck=512, return_f=False):
        width = {"num_bottleneck": num_bottleneck, "return_f": return_f}
        super().__init__(input_dim, class_num, 0, bnorm=False, **width)
        linear = nn.Linear(input_dim, num_bottleneck, bias=False)
        nn.init.orthogonal_(linear.weight)
        self.add_block = nn.Sequential(nn.Dropout(droprate), linear)


def make_head(kind, input_dim, class_num, droprate, width, return_f=False):
    """The head of a kind of HEADS; with "none" the embedding is the pooled feature as it is."""
    if kind == "linear":
        return LinearHead(input_dim, class_num, droprate, width, return_f)
    if kind == "none":
        return ClassBlock(input_dim, class_num, 0, bnorm=False, linear=False, return_f=return_f)
    return ClassBlock(input_dim, class_num, droprate, num_bottleneck=width, return_f=return_f)
