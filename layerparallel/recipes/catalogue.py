"""Recipes by name."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, ClassVar, Protocol

from ..errors import UnknownNameError
from ..runs import Run

_WHERE = {
    "cifar10": ("cifar", "Cifar10"),
    "cifar10-parareal": ("parareal", "Cifar10Parareal"),
    "cifar100": ("cifar", "Cifar100"),
    "cifar100-parareal": ("parareal", "Cifar100Parareal"),
    "imagenet-parareal": ("parareal", "ImagenetParareal"),
    "indian-pines": ("indian_pines", "IndianPines"),
    "level-sets": ("level_sets", "LevelSets"),
    "mnist": ("mnist", "Mnist"),
    "mnist-parareal": ("parareal", "MnistParareal"),
    "mnist-stages": ("mnist_stages", "MnistStages"),
    "mnist-vae": ("mnist_vae", "MnistVae"),
    "svhn-parareal": ("parareal", "SvhnParareal"),
}


class Recipe(Protocol):
    """The options of a recipe; every one has a default."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    """What the command line calls it."""

    @classmethod
    def needs(cls) -> str:
        """In a few words, what data it needs."""
        ...

    def build(self) -> Run:
        """The run with these options; raises ValueError where they cannot be."""
        ...


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(_WHERE)


def get(name: str) -> type[Recipe]:
    """The recipe of a name.

    Raises:
        UnknownNameError: with the nearest name that there is.
    """
    if name not in _WHERE:
        raise UnknownNameError("recipe", name, _WHERE)
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f"layerparallel.recipes.{module}"), attribute)


def rebuild(name: str, options: dict[str, Any]) -> Recipe:
    """A recipe with options as a record holds them (JSON knows no tuples).

    Raises:
        ValueError: where an option is one that this version does not know.
    """
    recipe = get(name)
    known = {field.name for field in dataclasses.fields(recipe)}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {name}", option, known)
    return recipe(**{key: _tuples(value) for key, value in options.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
