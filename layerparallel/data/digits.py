"""The 1,797 handwritten digits of 8×8 pixels that scikit-learn carries: nothing to download."""

import numpy as np
import torch

from ..errors import InputError
from .base import FULL_SCALE, Dataset

LARGEST = 16.0  # of the 17 grey levels


def digits(validation: int = 360, seed: int = 0) -> Dataset:
    """Grey digits (Alpaydin and Kaynak 1998), scaled from 0..16 to 0..255, split by a seed.

    Args:
        validation: samples that are kept for validation; the rest is for training.
        seed: draws them.

    Raises:
        InputError: validation leaves nothing on one side.
    """
    from sklearn.datasets import load_digits

    values, classes = load_digits(return_X_y=True)
    images = np.asarray(values).reshape(-1, 8, 8)
    if not 0 < validation < len(images):
        raise InputError(
            f"validation = {validation} of {len(images)} digits: give 1 to {len(images) - 1}."
        )
    x = torch.from_numpy(images * (FULL_SCALE / LARGEST)).round().to(torch.uint8)[:, None]
    y = torch.from_numpy(np.asarray(classes).astype(np.int64))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, kept = order[validation:], order[:validation]
    return Dataset("digits", x[train], y[train], x[kept], y[kept], tuple("0123456789"))
