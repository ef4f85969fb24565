"""The recipe that a command is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import recipes
from ..errors import InputError
from .parsing import is_option, table

Suits = Callable[[Any], bool]


def listed(suits: Suits = bool) -> str:
    """The recipes that suit, a line each: name, what data it needs, what it trains."""
    every = [recipes.get(name) for name in recipes.names()]
    return table((each.name, each.needs(), summary(each)) for each in every if suits(each))


def summary(kind: Any) -> str:
    """The first line of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def named_recipe(command: str, arguments: list[str], suits: Suits = bool) -> tuple[Any, str, list[str]]:
    """The recipe that the first argument names, what there is to say of it, and the other arguments.

    Raises:
        InputError: there is no recipe of that name.
        SystemExit: the help was asked for, and shown.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: layerparallel {command} RECIPE [options]\n\n{listed(suits)}")
        print(f"\nThe options of one: layerparallel {command} RECIPE --help")
        raise SystemExit(0)
    if not arguments or is_option(arguments[0]):
        names = ", ".join(recipes.names())
        raise InputError(f"`{command}` takes the name of a recipe first: there is {names}.")
    recipe: Any = recipes.get(arguments[0])
    return recipe, f"{recipe.__doc__}\n\nData: {recipe.needs()}.", arguments[1:]
