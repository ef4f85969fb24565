"""Solvers as plain values, for records of runs: to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UnknownNameError
from ..steps.state import two_norm
from .mgrit import MGRIT
from .serial import Serial
from .split import Split

KINDS: dict[str, type[Serial | MGRIT | Split]] = {"Serial": Serial, "MGRIT": MGRIT, "Split": Split}
torch.serialization.add_safe_globals([*KINDS.values(), two_norm])  # checkpoints may hold a solver


def describe(solver: Serial | MGRIT | Split) -> dict[str, Any]:
    """A solver as numbers, names and lists, with its ``kind``; a norm of one's own is left out."""
    found: dict[str, Any] = {"kind": type(solver).__name__}
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        if isinstance(value, Serial | MGRIT | Split):
            found[field.name] = describe(value)
        elif field.name != "norm":
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def rebuild(description: Mapping[str, Any]) -> Serial | MGRIT | Split:
    """The solver that `describe` told of.

    Raises:
        ValueError: a kind or an option that this version does not have (`UnknownNameError` names the
            nearest), or a value that is out of range.
    """
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in KINDS:
        raise UnknownNameError("solver", str(kind), KINDS)
    known = [field.name for field in dataclasses.fields(KINDS[kind])]
    for name, value in options.items():
        if name not in known:
            raise UnknownNameError(f"option of {kind}", name, known)
        if isinstance(value, Mapping):
            options[name] = rebuild(value)
        elif isinstance(value, list):
            options[name] = tuple(value)
    return KINDS[kind](**options)
