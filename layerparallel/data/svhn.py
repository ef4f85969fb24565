"""Street View House Numbers: 73,257 + 26,032 colour images of a digit, 32×32 (Netzer et al. 2011)."""

import io

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Dataset
from .files import File, Source, read

SIDE = 32
ADDRESS = "http://ufldl.stanford.edu/housenumbers/"
SVHN = Source("SVHN", ("svhn", "SVHN"))
TRAIN = File("train_32x32.mat", ("e26dedcc434d2e4c54c9b2d4a06d8373",), ADDRESS + "train_32x32.mat")
TEST = File("test_32x32.mat", ("eb5a983be6a315427106f1b164d9cef3",), ADDRESS + "test_32x32.mat")


def svhn() -> Dataset:
    """Digits of house numbers in ten classes, 0 to 9; validation is the published test part.

    Raises:
        InputError: a file is missing or not the published one.
    """
    train, test = (parse(read(SVHN, file), file.name) for file in (TRAIN, TEST))
    return Dataset("svhn", *train, *test, tuple("0123456789"))


def parse(raw: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Images uint8 `(n, 3, 32, 32)` and digits int64 `(n,)` from the bytes of a .mat file.

    The file has `X` (32, 32, 3, n) and `y` (n, 1) from 1 to 10, where 10 is the digit 0.

    Raises:
        InputError: it is no such file.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(raw), variable_names=["X", "y"])
        x, y = found["X"], found["y"]
    except Exception as error:  # scipy fails in many ways on what is no .mat file
        raise InputError(f"{name} is no .mat file with X and y as SVHN has: copy it again.") from error
    if x.dtype != np.uint8 or x.shape != (SIDE, SIDE, 3, y.size) or y.size == 0:
        raise InputError(
            f"{name} has X of {x.dtype} {x.shape} and y of shape {y.shape}: SVHN has uint8 "
            "(32, 32, 3, n) and n digits."
        )
    if y.min() < 1 or y.max() > 10:
        raise InputError(f"{name} has digits from {y.min()} to {y.max()}: SVHN has 1 to 10.")
    images = np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    digits = y.reshape(-1).astype(np.int64) % 10
    return torch.from_numpy(images), torch.from_numpy(digits)
