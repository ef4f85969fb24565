"""Errors that the user of a run can mend."""

import dataclasses
import difflib
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def alternatives(remedies: Sequence[str]) -> str:
    """Remedies as a sentence names them: a, b or c."""
    *others, last = remedies
    return f"{', '.join(others)} or {last}" if others else last


class InputError(ValueError):
    """Wrong input; the text is one sentence with the value, the bound and the remedy."""


class UnknownNameError(InputError):
    """A name that is not one of those there are; the text suggests the nearest."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        plain = {each.lower(): each for each in reversed(known)}
        near = difflib.get_close_matches(str(name).lower(), plain, n=1, cutoff=0.4)
        remedy = (
            f"did you mean {plain[near[0]]!r}?" if near else f"there is {', '.join(known) or 'none'}."
        )
        super().__init__(f"There is no {what} {name!r}: {remedy}")


def named_options(settings: type[Settings]) -> type[Settings]:
    """A dataclass whose unknown options are refused with the nearest known one."""
    known = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    plain = settings.__init__

    @functools.wraps(plain)
    def checked(self: Settings, *values: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                raise UnknownOptionError(f"option of {settings.__name__}", name, known)
        plain(self, *values, **options)

    settings.__init__ = checked
    return settings


class UnknownOptionError(UnknownNameError, TypeError):
    """An unknown keyword; a TypeError, too, as Python's own."""


class RankFailed(RuntimeError):  # noqa: N818
    """Another rank has failed; the text is one sentence that names it, where it is known."""


# ---- Ctrl-C while the command line is imported, torch with it: the end without a traceback --------

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)


def _is_program() -> bool:
    """Whether the command line is being imported: runpy leaves "-m" in argv as long as it does."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["layerparallel"]
    return Path(program).stem == "layerparallel"


def imported() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _importing() -> None:
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain and _is_program() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


_importing()
