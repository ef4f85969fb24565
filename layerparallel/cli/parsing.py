"""From what was typed to dataclasses of options; wrong input is one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from ..errors import InputError
from .help import page
from .options import Option, options_of
from .suggestions import nearest

FEW = 6
"""Options that are all named where none is near to what was typed."""
NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
"""How a negative number begins, which is no option."""


def parse(
    command: str, about: str, arguments: Sequence[str], *kinds: type, without: Collection[str] = ()
) -> tuple[Any, ...]:
    """An instance of each dataclass, whose fields together are the options; --help shows them and exits.

    Args:
        command: what is typed in front of the arguments, without "layerparallel".
        about: what the command does: its first line, and more.
        without: fields that are no options here and keep their defaults.

    Raises:
        InputError: something typed is no option, or no value of its option.
    """
    options = {
        kind: [option for option in options_of(kind) if option.field not in without] for kind in kinds
    }
    every = [option for each in options.values() for option in each]
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(page(command, about, every))
        raise SystemExit(0)
    found = _Parser(command, every).parse(arguments)
    return tuple(
        kind(**{option.field: found[option.flag] for option in each if option.flag in found})
        for kind, each in options.items()
    )


def is_option(text: str) -> bool:
    """Whether it is an option and no value."""
    return text.startswith("-") and text != "-" and not NUMBER.match(text)


def unknown(typed: str, command: str, flags: Sequence[str]) -> InputError:
    """What to say to an option that is none of those there are."""
    known = [flag.lstrip("-") for flag in flags]
    says, near = f"There is no option {typed} of `{command}`: ", nearest(typed.lstrip("-"), known)
    if near:
        return InputError(f"{says}did you mean {flags[known.index(near)]}?")
    if len(flags) > FEW:
        return InputError(f"{says}`layerparallel {command} --help` lists those there are.")
    return InputError(f"{says}there is {', '.join(flags)}." if flags else f"{says}it has none.")


def too_many(text: str) -> InputError:
    """What to say to an argument that belongs to no option."""
    return InputError(f"{text!r} is an argument too many: every option begins with --.")


class _Parser:
    """One pass over what was typed."""

    def __init__(self, command: str, options: Sequence[Option]):
        self.command = command
        self.flags = {flag: option for option in options for flag in option.flags}
        self.places = [option for option in options if option.shown.positional]
        self.found: dict[str, Any] = {}

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The value of every option that was given, by its flag."""
        left, free = list(arguments), []
        while left:
            text = left.pop(0)
            if is_option(text):
                self._take(text, left)
            elif self.places:
                free.append(text)
            else:
                raise too_many(text)
        for option in self.places:
            self._place(option, free)
        return self.found

    def _take(self, text: str, left: list[str]) -> None:
        """One option with its values, from the front of what is left."""
        typed, equals, value = text.partition("=")
        flag = typed if typed in self.flags else typed.replace("_", "-")
        if flag not in self.flags:
            known = [flag for flag, each in self.flags.items() if flag != each.opposite or each.default]
            raise unknown(typed, self.command, known)
        option = self.flags[flag]
        if option.flag in self.found:
            raise InputError(f"{flag} is given twice: give it once.")
        texts, most = [value] if equals else [], len(left) if option.several else 1
        if option.switch and self.places:  # what follows stands for itself
            most = 0
        while not equals and left and len(texts) < most and not is_option(left[0]):
            texts.append(left.pop(0))
        if not option.switch:
            self.found[option.flag] = option.read(texts)
        elif texts:
            (other,) = {option.flag, option.opposite} - {flag}
            raise InputError(f"{flag} takes no value, not {texts[0]!r}: leave it out, or give {other}.")
        else:
            self.found[option.flag] = flag == option.flag

    def _place(self, option: Option, texts: list[str]) -> None:
        """What stands for itself: run folders."""
        if not texts:
            raise InputError(
                f"`{self.command}` takes a run folder: give one that `layerparallel train` has named."
            )
        if len(texts) > 1 and not option.several:
            raise InputError(
                f"{texts[1]!r} is an argument too many: `{self.command}` takes one run folder."
            )
        self.found[option.flag] = option.read(texts)
