"""The fields of a dataclass as options: flag, kind of value, default, bound, help.

A field's docstring is its help, its annotation says what it takes, and `sections` of its class where
it stands, see `recipes.base.Base`. A trailing underscore is no part of the flag: `json_` is --json.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from ..recipes.options import bounds_of
from .suggestions import nearest

NONE = "none"
"""How an option is given no value that has one by default."""
OBVIOUS = ("at least 0", "at least 1", "more than 0")
"""Bounds that the help leaves out."""
LARGEST = 2**32 - 1
"""The largest whole number that an option takes: small enough for a tensor, and for sums of some."""
KINDS: dict[type, tuple[str, str, str]] = {
    int: ("a whole number", "N", "8"),
    float: ("a number", "X", "0.1"),
    str: ("a text", "TEXT", "TEXT"),
    Path: ("a path", "PATH", "PATH"),
}
"""What a value is called, what stands for it in the help, and an example."""


@dataclass(frozen=True)
class Shown:
    """In a field's annotation: what stands for its value, another flag for it, or that it has none."""

    metavar: str = ""
    alias: str = ""
    positional: bool = False


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    field: str
    """The dataclass's name for it."""
    item: Any
    """int, float, str, Path, bool for a switch, or the tuple of choices."""
    several: bool
    """Whether it takes several values."""
    single: bool
    """Whether one value stands for itself; else it is a tuple of one."""
    optional: bool
    """Whether it takes none."""
    default: Any
    """MISSING where it has to be given."""
    help: str
    section: str
    shown: Shown

    @property
    def flag(self) -> str:
        return "--" + self.field.rstrip("_").replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags that mean it, or its opposite."""
        if self.shown.positional:
            return ()
        return tuple(flag for flag in (self.flag, self.shown.alias, self.opposite) if flag)

    @property
    def opposite(self) -> str:
        """The flag that leaves a switch off; empty of what is none."""
        return f"--no-{self.flag[2:]}" if self.switch else ""

    @property
    def switch(self) -> bool:
        return self.item is bool

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        if isinstance(self.item, tuple):
            one = "{" + ",".join(map(str, self.item)) + "}"
        else:
            one = self.shown.metavar or KINDS[self.item][1]
        if self.optional and self.default is not None:
            one += f"|{NONE}"
        return one

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        if isinstance(self.item, tuple):
            *others, last = map(str, self.item)
            return f"{', '.join(others)} or {last}"
        one = KINDS[self.item][0]
        if self.several and not self.single:
            one = one.removeprefix("a ") + "s"
        return f"{one} or {NONE}" if self.optional and self.default is not None else one

    @property
    def example(self) -> str:
        """The flag with a value."""
        if _says(self.default):
            return f"{self.flag} {told(self.default)}"
        if isinstance(self.item, tuple):
            return f"{self.flag} {self.item[0]}"
        one = self.shown.metavar or KINDS[self.item][2]
        return f"{self.flag} {one} {one}" if self.several else f"{self.flag} {one}"

    @property
    def lacks(self) -> str:
        """What to say where its value is missing."""
        return f"{self.flag} takes {self.takes}: give such as {self.example}."

    def read(self, typed: bool | str | Sequence[str]) -> Any:
        """Its value from what argparse has found behind the flag.

        Raises:
            InputError: that is none.
        """
        if isinstance(typed, bool):
            return typed
        texts = [typed] if isinstance(typed, str) else typed
        values = tuple(self._value(text) for text in texts)
        return values if self.several and not (self.single and len(values) == 1) else values[0]

    def _value(self, text: str) -> Any:
        if self.optional and text.lower() == NONE:
            return None
        if isinstance(self.item, tuple):
            for choice in self.item:
                if str(choice) == text:
                    return choice
            near = nearest(text, map(str, self.item))
            remedy = f"did you mean {near}?" if near else "give one of these."
            raise InputError(f"{self.flag} takes {self.takes}, not {text!r}: {remedy}")
        try:
            if not text:
                raise ValueError
            value = self.item(text)
        except ValueError as error:
            raise InputError(
                f"{self.flag} takes {self.takes}, not {text!r}: give such as {self.example}."
            ) from error
        if self.item is int and abs(value) > LARGEST:
            raise InputError(f"{self.flag} {text} is too large: give at most {LARGEST}.")
        return value


def told(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def options_of(kind: type) -> list[Option]:
    """The fields of a dataclass, in their order."""
    hints, docs, sections = get_type_hints(kind, include_extras=True), _docs(kind), _sections(kind)
    notes = {name: [str(bound) for bound in bounds] for name, bounds in bounds_of(kind).items()}
    remarks: Callable[[], dict[str, str]] = getattr(kind, "remarks", dict)
    notes |= {name: [remark] for name, remark in remarks().items()}
    return [
        _option(
            each,
            hints[each.name],
            docs.get(each.name, ""),
            notes.get(each.name, []),
            sections[each.name],
        )
        for each in fields(kind)
    ]


def _option(field: Field[Any], hint: Any, doc: str, notes: list[str], section: str) -> Option:
    shown = next(
        (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Shown)), Shown()
    )
    parts = [part for part in _alternatives(hint) if part is not types.NoneType]
    tuples = [part for part in parts if get_origin(part) is tuple]
    (item,) = {part for part in parts if part not in tuples} | {
        inner for part in tuples for inner in _alternatives(get_args(part)[0])
    }
    said = [f"default {told(field.default)}"] if _says(field.default) else []
    said += ["default on"] if field.default is True else []
    said += [note for note in notes if note not in OBVIOUS]
    return Option(
        field.name,
        get_args(item) if get_origin(item) is Literal else item,
        several=bool(tuples),
        single=len(parts) > len(tuples),
        optional=types.NoneType in _alternatives(hint),
        default=field.default,
        help=doc + (f" ({'; '.join(said)})" if said else ""),
        section=section,
        shown=shown,
    )


def _says(default: Any) -> bool:
    """Whether there is a value to show."""
    return not (default in (MISSING, None, ()) or isinstance(default, bool))


def _alternatives(hint: Any) -> Iterator[Any]:
    """The types that an annotation allows, one after the other."""
    if get_origin(hint) is Annotated:
        yield from _alternatives(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for inner in get_args(hint):
            yield from _alternatives(inner)
    else:
        yield hint


def _sections(kind: type) -> dict[str, str]:
    """The section of every field; see `recipes.base.Base.sections`."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        begins, section = vars(each).get("sections", {}), "Options"
        for name in inspect.get_annotations(each):
            section = begins.get(name, section)
            found.setdefault(name, section)
    return found


@cache
def _docs(kind: type) -> dict[str, str]:
    """The docstring of every field, on one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, behind in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match behind:
                    case ast.Expr(ast.Constant(str() as text)):
                        found[field.target.id] = " ".join(text.split())
    return found
