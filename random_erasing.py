"""Random erasing: a random rectangle of a training image is replaced by the mean colour."""

import math

import torch


class RandomErasing(torch.nn.Module):
    """Erase one rectangle of a float image (C, H, W), with the given probability, in a copy.

    The rectangle covers a share of the image's area uniform in `scale`, with the ratio of height
    to width log-uniform in `ratio`; where it does not fit in a hundred tries, nothing is erased.
    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020, algorithm 1. The paper draws
    the ratio uniformly, which favours tall rectangles; log-uniform treats both sides alike.

    Draws from torch's global generator, so a seeded sample is erased alike in every process.

    Args:
        probability: chance of erasing at all, 0 to 1.
        scale: smallest and largest share of the area, 0 to 1.
        ratio: smallest and largest height / width.
        value: what is put in, one number per channel; 0 is ImageNet's mean colour after Normalize.
    """

    def __init__(self, probability=0.5, scale=(0.02, 0.4), ratio=(0.3, 3.3), value=(0.0, 0.0, 0.0)):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"erasing probability {probability} is not between 0 and 1")
        self.probability = probability
        self.scale = scale
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
        self.value = value

    def forward(self, image):
        if torch.rand(()) >= self.probability:
            return image
        _, height, width = image.shape
        for _ in range(100):
            area = height * width * _uniform(*self.scale)
            ratio = math.exp(_uniform(*self.log_ratio))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top = int(torch.randint(height - h + 1, ()))
                left = int(torch.randint(width - w + 1, ()))
                erased = image.clone()
                fill = torch.tensor(self.value, dtype=image.dtype)[:, None, None]  # (C, 1, 1)
                erased[:, top : top + h, left : left + w] = fill
                return erased
        return image


def _uniform(low, high):
    return low + (high - low) * torch.rand(()).item()
