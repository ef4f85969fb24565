"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images of 32×32 pixels (Krizhevsky 2009).

The published files are pickles, and a pickle can run any code. So one is opened only after its
checksum was that of the published file, and by a reader that knows arrays, lists and strings alone.
"""

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Dataset
from .files import File, Source, read

SIDE = 32
TEN = Source(
    "CIFAR-10",
    ("cifar-10-batches-py", "cifar-10/cifar-10-batches-py", "cifar-10"),
    archive=File(
        "cifar-10-python.tar.gz",
        ("c58f30108f718f92721af3b95e74349a",),
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)
TEN_TRAIN = (
    File("data_batch_1", ("c99cafc152244af753f735de768cd75f",)),
    File("data_batch_2", ("d4bba439e000b95fd0a9bffe97cbabec",)),
    File("data_batch_3", ("54ebc095f3ab1f0389bbae665268c751",)),
    File("data_batch_4", ("634d18415352ddfa80567beed471001a",)),
    File("data_batch_5", ("482c414d41f54cd18b22e5b47cb7c3cb",)),
)
TEN_TEST = (File("test_batch", ("40351d587109b95175f43aff81a1287e",)),)
TEN_META = File("batches.meta", ("5ff9c542aee3614f3951f8cda6e48888",))

HUNDRED = Source(
    "CIFAR-100",
    ("cifar-100-python", "cifar-100/cifar-100-python", "cifar-100"),
    archive=File(
        "cifar-100-python.tar.gz",
        ("eb9058c3a382ffc7106e4002c42a8d85",),
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)
HUNDRED_TRAIN = (File("train", ("16019d7e3df5f24257cddd939b257f8d",)),)
HUNDRED_TEST = (File("test", ("f0ef6b0ae62326f3e7ffdfab6717acfc",)),)
HUNDRED_META = File("meta", ("7973b15100ade9c7d40fb424638fde48",))


def cifar10() -> Dataset:
    """CIFAR-10, ten classes; validation is the published test part.

    Raises:
        InputError: a file is missing or not the published one.
    """
    return _load("cifar-10", TEN, TEN_TRAIN, TEN_TEST, TEN_META, b"labels", b"label_names")


def cifar100() -> Dataset:
    """CIFAR-100, a hundred fine classes; validation is the published test part.

    Raises:
        InputError: a file is missing or not the published one.
    """
    return _load(
        "cifar-100",
        HUNDRED,
        HUNDRED_TRAIN,
        HUNDRED_TEST,
        HUNDRED_META,
        b"fine_labels",
        b"fine_label_names",
    )


def _load(
    name: str,
    source: Source,
    train: tuple[File, ...],
    test: tuple[File, ...],
    meta: File,
    labels: bytes,
    names: bytes,
) -> Dataset:
    classes = tuple(each.decode() for each in unpickle(read(source, meta), meta.name)[names])
    halves = []
    for files in (train, test):
        batches = [_batch(source, file, labels) for file in files]
        halves += [torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])]
    return Dataset(name, *halves, classes=classes)


def _batch(source: Source, file: File, labels: bytes) -> tuple[Tensor, Tensor]:
    found = unpickle(read(source, file), file.name)
    pixels, classes = found.get(b"data"), found.get(labels)
    if (
        not isinstance(pixels, np.ndarray)
        or not isinstance(classes, list)
        or pixels.dtype != np.uint8
        or pixels.shape != (len(classes), 3 * SIDE * SIDE)
    ):
        raise InputError(f"{file.name} of {source.title} has no images of 32×32 pixels: copy it again.")
    images = torch.from_numpy(pixels).view(-1, 3, SIDE, SIDE)
    return images, torch.tensor(classes, dtype=torch.int64)


class _Arrays(pickle.Unpickler):
    """Reads what these files hold: containers, numbers, strings and plain arrays."""

    KNOWN = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def unpickle(raw: bytes, name: str) -> dict[bytes, Any]:
    """The dictionary in the bytes of a CIFAR file.

    Raises:
        InputError: it is not one, or holds more than arrays, lists, numbers and strings.
    """
    try:
        found = _Arrays(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a pickle can fail in any way
        raise InputError(f"{name} cannot be read as a CIFAR file ({error}): copy it again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{name} holds a {type(found).__name__}, not a dictionary: copy it again.")
    return found
