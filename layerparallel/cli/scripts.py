"""Benchmarks have parsers of their own, argparse's: under `layerparallel bench` they refuse as we do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..errors import InputError
from .parsing import is_option, too_many, unknown

UNKNOWN = "unrecognized arguments: "
"""How argparse begins what it says of them."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """While it lasts, a parser of argparse raises InputError, and shows no usage in front of it."""
    plain, argparse.ArgumentParser.error = argparse.ArgumentParser.error, _refuse
    try:
        yield
    finally:
        argparse.ArgumentParser.error = plain


def _refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
    if message.startswith(UNKNOWN):
        text = message.removeprefix(UNKNOWN).split()[0].partition("=")[0]
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        command = self.prog.removeprefix("layerparallel ")
        raise unknown(text, command, flags) if is_option(text) else too_many(text)
    raise InputError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`.")
