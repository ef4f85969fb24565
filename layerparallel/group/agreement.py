"""Whether all ranks mean the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..version import __version__
from .base import Group


def agree(group: Group, facts: Mapping[str, Any]) -> None:
    """Makes sure that all ranks mean the same run; the versions of what they run on are compared, too.

    Args:
        facts: what has to be equal, by name: settings (numbers, texts, lists, dicts, dataclasses),
            and data as tensors or bytes. Only hashes of what is long are sent.

    Raises:
        InputError: on every rank, with what they disagree on and which ranks say what.
    """
    versions = {
        "version of Python": platform.python_version(),
        "version of torch": torch.__version__,
        "version of layerparallel": __version__,
    }
    said = {name: _digest(fact) for name, fact in {**versions, **facts}.items()}
    everyone = group.gather(said)
    names = dict.fromkeys(name for each in everyone for name in each)
    text = difference({n: [each.get(n, "nothing") for each in everyone] for n in names})
    if text:
        raise InputError(text)


def difference(facts: Mapping[str, Sequence[Any]]) -> str:
    """A sentence on what is not the same on all ranks; empty if everything is."""
    different = [name for name, values in facts.items() if any(v != values[0] for v in values)]
    if not different:
        return ""
    name, *others = different
    ranks: dict[Any, list[int]] = {}
    for rank, value in enumerate(facts[name]):
        ranks.setdefault(value, []).append(rank)
    shares = " and ".join(f"{value} on {named(who).lower()}" for value, who in ranks.items())
    more = f" (and on the {', the '.join(others)})" * bool(others)
    return f"The ranks disagree on the {name}{more}: {shares}; start all of them with the same."


def named(ranks: list[int]) -> str:
    """Ranks in words."""
    return f"Rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _digest(fact: Any) -> str:
    """A fact in few words: itself if it is short, or a hash."""
    if isinstance(fact, torch.Tensor):
        data = fact.detach().cpu().contiguous()
        shape = f"{data.dtype} {tuple(data.shape)} ".encode()
        return _hash(shape + data.flatten().view(torch.uint8).numpy().tobytes())
    if isinstance(fact, bytes | bytearray | memoryview):
        return _hash(bytes(fact))
    text = json.dumps(fact, sort_keys=True, default=_plain)
    return text.strip('"') if len(text) <= 60 else _hash(text.encode())


def _plain(fact: Any) -> Any:
    """What JSON does not know."""
    if dataclasses.is_dataclass(fact) and not isinstance(fact, type):
        values = {f.name: getattr(fact, f.name) for f in dataclasses.fields(fact)}
        return {type(fact).__qualname__: values}
    if isinstance(fact, torch.Tensor | bytes):
        return _digest(fact)
    if callable(fact) and hasattr(fact, "__qualname__"):
        return f"{fact.__module__}.{fact.__qualname__}"  # its repr would have its address
    return placeless(fact)


def placeless(fact: Any) -> str:
    """The text of an object without addresses, which are not the same on all ranks."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(fact))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
