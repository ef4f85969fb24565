"""The filters there are, and their text form for the command line."""

from __future__ import annotations

from ...errors import InputError, UnknownNameError
from .filter import Filter, Form, Shape, Whole
from .low_rank import LowRank
from .pool import WAYS, Pool
from .rounded import KINDS, Rounded

NAMES = ("none", "pool", "lowrank", *KINDS)


def parse(text: str) -> Filter:
    """A filter from its text: a kind with its numbers, and how its values are rounded.

    ``none``, ``pool:2``, ``pool:2:bilinear``, ``lowrank:4``, each with ``+bf16`` or ``+int8`` behind it
    if it is to be rounded; ``bf16`` alone is ``none+bf16``.

    Raises:
        UnknownNameError: a name in it is not known.
        InputError: a number is missing, or is not one that the filter can have; or two ways of rounding.
    """
    whole, *rounding = text.strip().split("+")
    if whole in KINDS:
        whole, rounding = "none", [whole, *rounding]
    found = _kind(whole, text)
    for each in rounding:
        if each not in KINDS:
            raise UnknownNameError("way of rounding", each, KINDS)
        found = Rounded(found, each)
    return found


def _kind(text: str, whole: str) -> Filter:
    name, *values = text.split(":")
    if name == "none" and not values:
        return Whole()
    if name == "pool" and len(values) <= 2:
        up = values[1] if len(values) == 2 else "nearest"
        if up not in WAYS:
            raise UnknownNameError("interpolation", up, WAYS)
        return Pool(_number(values[0], whole) if values else 2, up)
    if name == "lowrank" and len(values) == 1:
        return LowRank(_number(values[0], whole))
    if name not in ("none", "pool", "lowrank"):
        raise UnknownNameError("filter", name, NAMES)
    raise InputError(
        f"The filter {whole!r} cannot be read: give none, pool:FACTOR, pool:FACTOR:bilinear or "
        "lowrank:RANK, with +bf16 or +int8 behind it if you like."
    )


def _number(text: str, whole: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{text!r} in the filter {whole!r} is no whole number: give one, as in pool:2.")
    return int(text)


__all__ = ["Filter", "Form", "LowRank", "Pool", "Rounded", "Shape", "Whole", "parse"]
