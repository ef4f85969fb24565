"""From what was typed to dataclasses of options, by argparse; wrong input is one sentence."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from .options import Option, options_of
from .suggestions import nearest

WIDTH = 100
"""Characters of a line of help, on a wider terminal or on none, too."""
COLUMN = 28
"""Where the help of an option begins."""
ORDER = ("Prediction", "Training", "Data", "Network", "", "Run")
"""Of the sections of help; the empty name stands for all others, in the order of their options."""
FEW = 6
"""Options that are all named where none is near to what was typed."""
OPTION = re.compile(r"-(?!\.?\d|$)")
"""How an option begins, and no negative number."""
REFUSALS = {
    re.compile(r"unrecognized arguments: (?P<typed>[^\s=]+)"): "unknown",
    re.compile(r"argument (?P<flag>--[\w-]+).*: expected (one|at least one) argument"): "empty",
    re.compile(r"argument (?P<flag>--\S+): ignored explicit argument '(?P<value>.*)'"): "full",
    re.compile(r"the following arguments are required: RUN"): "nowhere",
}
"""What argparse says, and which method says it in our words."""


def parse(
    command: str, about: str, arguments: Sequence[str], *kinds: type, without: Collection[str] = ()
) -> tuple[Any, ...]:
    """An instance of each dataclass, whose fields together are the options.

    Args:
        command: what is typed in front of the arguments, without "layerparallel".
        about: what the command does: paragraphs.
        without: fields that are no options here and keep their defaults.

    Raises:
        InputError: what is typed is no value of its option.
        SystemExit: after the help, or what is typed is no option.
    """
    options = {
        kind: [option for option in options_of(kind) if option.field not in without] for kind in kinds
    }
    every = [option for each in options.values() for option in each]
    parser = Parser(f"layerparallel {command}", _filled(about), every)
    if not {"-h", "--help"}.isdisjoint(arguments):  # before anything is refused
        parser.print_help()
        parser.exit()
    typed = vars(parser.parse_intermixed_args([_dashed(text) for text in arguments]))
    return tuple(
        kind(
            **{
                option.field: option.read(typed[option.field])
                for option in each
                if option.field in typed
            }
        )
        for kind, each in options.items()
    )


def is_option(text: str) -> bool:
    """Whether it is an option and no value."""
    return bool(OPTION.match(text))


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts, column below column."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)


def _filled(paragraphs: str) -> str:
    return "\n\n".join(
        textwrap.fill(" ".join(each.split()), _width(), break_on_hyphens=False)
        for each in paragraphs.replace("``", "`").split("\n\n")
    )


def _dashed(text: str) -> str:
    """An option with dashes for underscores: --batch_size=8 as --batch-size=8."""
    flag, equals, value = text.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else text


class Parser(argparse.ArgumentParser):
    """A parser that exits with one sentence; an unknown option is met with the one that was meant.

    Args:
        prog: what is typed in front of the options.
        description: as it is to be shown.
        options: by sections; others may be added.
    """

    def __init__(self, prog: str, description: str, options: Sequence[Option] = ()):
        places = "".join(f" {option.shown.metavar}" for option in options if option.shown.positional)
        super().__init__(
            prog,
            usage=f"{prog}{places} [options]",
            description=description,
            formatter_class=partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=COLUMN, width=_width()
            ),
            add_help=not options,
            allow_abbrev=False,
        )
        self.options = {flag: option for option in options for flag in option.flags}
        names = dict.fromkeys(option.section for option in options)
        for name in sorted(names, key=lambda name: ORDER.index(name if name in ORDER else "")):
            section = self.add_argument_group(name)
            for option in options:
                if option.section == name:
                    _add(section, option)

    def error(self, message: str) -> NoReturn:
        for says, method in REFUSALS.items():
            if found := says.match(message):
                message = getattr(self, method)(**found.groupdict())
                break
        message = message.removeprefix("argument ")
        self.exit(2, f"layerparallel: {message}{'' if message[-1] in '.?' else '.'}\n")

    @property
    def command(self) -> str:
        return self.prog.removeprefix("layerparallel ")

    def unknown(self, typed: str) -> str:
        """What to say to an option that is none of those there are, or to a value of no option."""
        if not is_option(typed):
            return (
                f"{typed!r} belongs to no option: an option begins with --, and a switch takes no value."
            )
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        known = [flag.lstrip("-") for flag in flags if flag != "--help"]
        says, near = (
            f"There is no option {typed} of `{self.command}`: ",
            nearest(typed.lstrip("-"), known),
        )
        if near:
            return f"{says}did you mean --{near}?"
        if len(known) > FEW:
            return f"{says}`{self.prog} --help` lists those there are."
        return f"{says}there is --{', --'.join(known)}." if known else f"{says}it has none."

    def empty(self, flag: str) -> str:
        """What to say to an option without its value."""
        option = self.options.get(flag)
        return option.lacks if option else f"{flag} takes a value: see `{self.prog} --help`."

    def full(self, flag: str, value: str) -> str:
        """What to say to a switch with a value."""
        return f"{flag} takes no value: leave out ={value}."

    def nowhere(self) -> str:
        """What to say where no run folder is given."""
        return f"`{self.command}` takes a run folder: give one that `layerparallel train` has named."


def _add(section: Any, option: Option) -> None:
    """Tells argparse of an option, whose texts are read by the option itself."""
    shown: dict[str, Any] = {"default": argparse.SUPPRESS, "help": option.help.replace("%", "%%")}
    many: dict[str, Any] = {"nargs": "+"} if option.several else {}
    if option.shown.positional:
        metavar = option.shown.metavar.partition(" ")[0]
        section.add_argument(option.field, **shown, **many, metavar=metavar)
    elif option.switch:
        action = argparse.BooleanOptionalAction
        section.add_argument(option.flag, **shown, dest=option.field, action=action)
    else:
        section.add_argument(*option.flags, **shown, **many, dest=option.field, metavar=option.metavar)
