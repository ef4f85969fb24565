"""Recipes: complete trainings, by name.

A recipe is a frozen dataclass of options; it builds a `Run`.

```python
from layerparallel import recipes

run = recipes.get("level-sets")(depth=256).build()
```
"""

import dataclasses
import importlib
from typing import Any, ClassVar, Protocol

from layerparallel.errors import UnknownNameError
from layerparallel.trainer import Run

_WHERE = {
    "cifar10": ("layerparallel.recipes.cifar", "Cifar10"),
    "cifar10-parareal": ("layerparallel.recipes.parareal", "Cifar10Parareal"),
    "cifar100": ("layerparallel.recipes.cifar", "Cifar100"),
    "cifar100-parareal": ("layerparallel.recipes.parareal", "Cifar100Parareal"),
    "imagenet-parareal": ("layerparallel.recipes.parareal", "ImagenetParareal"),
    "indian-pines": ("layerparallel.recipes.indian_pines", "IndianPines"),
    "level-sets": ("layerparallel.recipes.level_sets", "LevelSets"),
    "mnist": ("layerparallel.recipes.mnist", "Mnist"),
    "mnist-parareal": ("layerparallel.recipes.parareal", "MnistParareal"),
    "mnist-stages": ("layerparallel.recipes.mnist_stages", "MnistStages"),
    "mnist-vae": ("layerparallel.recipes.mnist_vae", "MnistVae"),
    "svhn-parareal": ("layerparallel.recipes.parareal", "SvhnParareal"),
}


class Recipe(Protocol):
    """The options of a recipe; every one has a default."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

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
    return getattr(importlib.import_module(module), attribute)


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
