"""Bounds of a recipe's options, written where the option is.

    epochs: Count = 10
    momentum: Annotated[float, Bound(least=0, below=1)] = 0.9

A subclass that gives an option another default keeps its bounds.
"""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from ..errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Bound:
    """Which finite numbers an option takes: `least` to `most`, above `above`, below `below`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        if -math.inf < self.least and self.most < math.inf:
            return f"{self.least} to {self.most}"
        named = (
            ("at least", self.least),
            ("more than", self.above),
            ("at most", self.most),
            ("less than", self.below),
        )
        return " and ".join(f"{words} {value}" for words, value in named if math.isfinite(value))

    def check(self, name: str, value: float) -> None:
        """Raises InputError where a number is out of this bound."""
        problems = {
            "not finite": not math.isfinite(value),
            f"below {self.least}": value < self.least,
            f"above {self.most}": value > self.most,
            f"not above {self.above}": value <= self.above,
            f"not below {self.below}": value >= self.below,
        }
        found = next((problem for problem, is_so in problems.items() if is_so), None)
        if found:
            raise InputError(f"{name} = {value} is {found}: give {self}.")


Count = Annotated[int, Bound(least=1)]
Positive = Annotated[float, Bound(above=0)]
NotNegative = Annotated[float, Bound(least=0)]
Several = T | tuple[T, ...]
"""One for all levels, or one for each."""


def bounds_of(kind: type) -> dict[str, list[Bound]]:
    """The bounds of every option of a dataclass: its own and those of the classes it derives from."""
    found: dict[str, list[Bound]] = {}
    for each in reversed(kind.__mro__):
        for name, hint in inspect.get_annotations(each, eval_str=True).items():
            for bound in dict.fromkeys(_bounds(hint)):
                found.setdefault(name, []).append(bound)
    return found


def check_bounds(options: Any) -> None:
    """Raises InputError where an option of a recipe is out of its bounds."""
    for name, bounds in bounds_of(type(options)).items():
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            for bound in bounds:
                bound.check(name, number)


def _bounds(hint: Any) -> Iterator[Bound]:
    """Wherever they stand in an annotation: that of `int | None` has them beside None."""
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Bound))
    for inner in get_args(hint):
        yield from _bounds(inner)
