"""Data sets by name: generated, bundled, downloaded and checked, or a user's own folder.

```python
from layerparallel import data

digits = data.load("digits")
prepare = data.Preparation.of(digits, data.Augmentation(crop=1, flip=False))
for batch in data.Batches(digits, 64, torch.Generator().manual_seed(0), prepare):
    batch.x, batch.y, batch.index
```

Published files are looked for in the folder that the environment variable ``LAYERPARALLEL_DATA``
names (in one subfolder per set, or straight in it), then in the cache, and then they are downloaded.
"""

import importlib
import inspect
from typing import Any

from layerparallel.data.augment import Augmentation, Drawn, Preparation
from layerparallel.data.base import Dataset
from layerparallel.data.batches import Batch, Batches
from layerparallel.errors import UnknownNameError, UnknownOptionError

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "Drawn",
    "Preparation",
    "load",
    "names",
]

_WHERE = {
    "cifar-10": ("cifar", "cifar10"),
    "cifar-100": ("cifar", "cifar100"),
    "digits": ("digits", "digits"),
    "fashion-mnist": ("mnist", "fashion_mnist"),
    "folder": ("folder", "folder"),
    "indian-pines": ("indian_pines", "indian_pines"),
    "level-sets": ("level_sets", "level_sets"),
    "level-sets-published": ("level_sets", "published"),
    "mnist": ("mnist", "mnist"),
    "svhn": ("svhn", "svhn"),
}


def names() -> list[str]:
    """The names of all data sets; "folder" is a user's own and takes its path."""
    return sorted(_WHERE)


def load(name: str, **options: Any) -> Dataset:
    """The data set of a name, with the options of its function (`layerparallel.data.NAME`).

    Raises:
        UnknownNameError: with the nearest name, or option, that there is.
        InputError: a file is missing or damaged, or an option is out of its bounds.
    """
    if name not in _WHERE:
        raise UnknownNameError("data set", name, _WHERE)
    module, attribute = _WHERE[name]
    function = getattr(importlib.import_module(f"layerparallel.data.{module}"), attribute)
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise UnknownOptionError(f"option of the data set {name}", option, known)
    return function(**options)
