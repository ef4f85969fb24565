"""Errors that the user of a run can mend."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input; the text is one sentence with the value, the bound and the remedy."""


class UnknownNameError(InputError):
    """A name that is not one of those there are; the text suggests the nearest."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known) or 'none'}."
        super().__init__(f"There is no {what} {name!r}: {remedy}")
