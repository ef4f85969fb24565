"""Images to measure times on, which do not depend on what is in them."""

from __future__ import annotations

import torch

from layerparallel.data.base import Dataset


def random_images(count: int, classes: int = 10, seed: int = 0) -> Dataset:
    """So many training images in the shape of CIFAR's, uint8; the first of them for validation."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    names = tuple(f"class {k}" for k in range(classes))
    return Dataset("random", images, labels, images[:classes], labels[:classes], names)
