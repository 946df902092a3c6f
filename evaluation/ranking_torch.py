"""The ranks of `evaluation.ranking` by torch, for a GPU; imported where one was chosen."""

import numpy as np
import torch


def dot_products(queries, gallery, device):
    """`scores` of `ranking.score_blocks` on a device of torch; queries (Nq, D), gallery (Ng, D)."""
    gallery = torch.tensor(gallery, device=device)
    return lambda rows: torch.tensor(queries[rows], device=device) @ gallery.T  # (B, Ng)


def rank_block(scores, positives, junk, level, rank_tied):
    """(ranks, bounds) of B queries by scores (B, Ng), as of `ranking.positive_ranks` for each.

    positives, junk: B arrays of gallery indices; `level`: `ranking.LEVEL`. Each score is searched
    among the row's sorted positives. A row where a positive ties with a wrong image is left to
    `rank_tied`, a function such as `ranking.positive_ranks`, which gets the same scores as a NumPy
    array.
    """
    images, rows, places = _flat_index(positives)
    hidden, hidden_rows, _ = _flat_index(junk)
    width = places.max(initial=0) + 1
    shape = len(scores), width
    matching = torch.full(shape, torch.inf, dtype=scores.dtype, device=scores.device)
    matching[rows, places] = scores[rows, images]
    matching = matching.sort(dim=1).values  # (B, P) worst first, padded with infinity
    rivals = scores.clone()
    rivals[rows, images] = -torch.inf
    rivals[hidden_rows, hidden] = -torch.inf
    beaten = torch.searchsorted(matching, rivals)  # (B, Ng) positives below each score
    counts = torch.zeros(len(scores), width + 1, dtype=torch.int64, device=scores.device)
    counts.scatter_add_(1, beaten, beaten.new_ones(1, 1).expand_as(beaten))
    above = counts.flip(1).cumsum(1).flip(1)[:, 1:].cpu().numpy()  # (B, P) rivals above each
    tied = (matching.gather(1, beaten.clamp_(max=width - 1)) == rivals).any(dim=1).cpu().numpy()
    sizes = np.array([len(each) for each in positives])
    best = matching[range(len(scores)), sizes - 1, np.newaxis]  # (B, 1), infinity without any
    first, last = (rivals > best + level).sum(dim=1), (rivals >= best - level).sum(dim=1)
    bounds = 1 + torch.stack([first, last], dim=1).cpu().numpy()
    bounds[sizes == 0] = 0
    above += sizes[:, np.newaxis] - np.arange(width)  # now ranks, worst first
    ranks = [above[row, :size][::-1] for row, size in enumerate(sizes)]
    for row in np.flatnonzero(tied):
        ranks[row], _ = rank_tied(scores[row].cpu().numpy(), positives[row], junk[row])
    return ranks, bounds


def _flat_index(groups):
    """All members of B arrays in one, and of each its group's number and its place in the group."""
    counts = np.array([len(group) for group in groups])
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.concatenate(groups), np.repeat(np.arange(len(groups)), counts), places
