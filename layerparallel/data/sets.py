"""Data sets by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from ..errors import UnknownNameError, UnknownOptionError
from .base import Dataset

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
