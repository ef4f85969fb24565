"""A nested state as named arrays, and back: layers that are alike become the rows of one array.

``{"network": {"body.17.weight": w}}`` of a chain of N layers is row 17 of the array
``network/body.{n}.weight``, (N, ...), of which every rank has some rows. One array in place of N
tensors is saved and read some hundred times as fast.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote

import torch
from torch import Tensor

Path = tuple[str, ...]
Layers = Mapping[str, int]
"""Of every chain of like layers what stands before a layer's number, ``"body."``, and its depth N."""

NETWORK = "network"
ROW = "{n}"
CHUNK_BYTES = 256 << 20
"""Largest piece of an array; a rank reads no larger ones than this, however few rows it wants."""


def flat(state: Mapping[str, Any]) -> tuple[dict[Path, Tensor], dict[Path, Any]]:
    """The tensors of a nested state by their paths, and everything else."""
    tensors: dict[Path, Tensor] = {}
    plain: dict[Path, Any] = {}

    def descend(path: Path, value: Any) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
        elif isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            for key, item in value.items():
                descend((*path, key), item)
        else:
            plain[path] = value

    for key, item in state.items():
        descend((key,), item)
    return tensors, plain


def opened(state: dict[str, Any], path: Path, others: Collection[str]) -> bool:
    """Whether a path leads past no name of `others`; makes the mappings on its way, up to there."""
    for key in path[:-1]:
        if key in others:
            return False
        state = state.setdefault(key, {})
    return path[-1] not in others


def put(state: dict[str, Any], path: Path, value: Any) -> None:
    """A value at its path, whose mappings are there."""
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


@dataclass(frozen=True)
class Chunk:
    """Rows of an array, or the whole of one.

    Attributes:
        name: of the array.
        size: of the whole array.
        first: number of its first row here; 0 for a whole array.
        value: the rows, or the whole.
    """

    name: str
    size: torch.Size
    first: int
    value: Tensor

    @property
    def offsets(self) -> torch.Size:
        """Where it begins within the array."""
        return torch.Size([self.first, *[0] * (len(self.size) - 1)][: len(self.size)])


def chunks(tensors: Mapping[Path, Tensor], layers: Layers) -> Iterator[Chunk]:
    """The arrays of these tensors, in pieces of at most `CHUNK_BYTES` where they have rows.

    Raises:
        ValueError: rows of one array differ in dtype or shape.
    """
    rows: dict[tuple[str, int], dict[int, Tensor]] = {}
    places: dict[str, tuple[str, int | None, int]] = {}  # a layer's name stands in several paths
    for path, value in tensors.items():
        keys, row, depth = [], None, 0
        for key in path:
            if key not in places:
                places[key] = _placed(key, layers)
            pattern, number, count = places[key]
            if number is None or row is None:
                keys.append(pattern)
                row, depth = (row, depth) if number is None else (number, count)
            else:
                keys.append(_quoted(key))
        name = "/".join(keys)
        if row is None:
            yield Chunk(name, value.shape, 0, value)
        else:
            rows.setdefault((name, depth), {})[row] = value
    for (name, depth), found in rows.items():
        sample = next(iter(found.values()))
        if any((value.dtype, value.shape) != (sample.dtype, sample.shape) for value in found.values()):
            kinds = {f"{tuple(value.shape)} of {value.dtype}" for value in found.values()}
            raise ValueError(unlike(name, kinds))
        most = max(1, CHUNK_BYTES // max(1, sample.numel() * sample.element_size()))
        for run in runs(found):
            for start in range(run.start, run.stop, most):
                part = [found[n] for n in range(start, min(start + most, run.stop))]
                yield Chunk(name, torch.Size([depth, *sample.shape]), start, _stacked(part))


def unlike(name: str, kinds: Iterable[str]) -> str:
    """What is said of rows of one array that differ."""
    return (
        f"the layers' {unquote(name)} is {' and '.join(sorted(kinds))}, and layers that are alike have "
        "one dtype and shape; convert the whole network"
    )


def _stacked(rows: list[Tensor]) -> Tensor:
    """Rows as one tensor; without a copy where they follow each other in memory, as parts of a stack."""
    first, size = rows[0], rows[0].numel()
    memory, start = first.untyped_storage().data_ptr(), first.storage_offset()
    if all(
        row.storage_offset() == start + n * size
        and row.is_contiguous()
        and row.untyped_storage().data_ptr() == memory
        for n, row in enumerate(rows)
    ):
        return first.as_strided((len(rows), *first.shape), (size, *first.stride()))
    return torch.stack(rows)


def runs(rows: Iterable[int]) -> Iterator[range]:
    """Numbers as ranges without gaps."""
    for _, group in groupby(enumerate(sorted(rows)), key=lambda each: each[1] - each[0]):
        numbers = [n for _, n in group]
        yield range(numbers[0], numbers[-1] + 1)


def _placed(key: str, layers: Layers) -> tuple[str, int | None, int]:
    """A key as part of an array's name, the row that it stands for, and how many rows there are."""
    for prefix, depth in layers.items():
        number, dot, rest = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and number.isdigit():
            return _quoted(prefix) + ROW + dot + _quoted(rest), int(number), depth
    return _quoted(key), None, 0


def _quoted(key: str) -> str:
    return quote(key, safe="")  # no slash and no brace is left


@dataclass(frozen=True)
class Array:
    """What an array of a checkpoint holds: its path, with `ROW` for a layer's number."""

    name: str
    shape: torch.Size
    dtype: torch.dtype

    def path(self, row: int) -> Path:
        """Of a row; of the whole where it has no rows."""
        return tuple(unquote(key.replace(ROW, str(row))) for key in self.name.split("/"))

    @property
    def rows(self) -> range:
        """Of a chain's layers; one for a whole array."""
        return range(self.shape[0]) if ROW in self.name else range(1)

    @property
    def single(self) -> torch.Size:
        """Shape of one row, or of the whole."""
        return self.shape[1:] if ROW in self.name else self.shape

    def parted(self, first: int, value: Tensor) -> Iterator[tuple[Path, Tensor]]:
        """The tensors of rows from `first` on, by their paths."""
        if ROW not in self.name:
            yield self.path(0), value
            return
        for n, row in enumerate(value.unbind(), start=first):
            yield self.path(n), row


def under_network(path: Path) -> str | None:
    """The name that a path has in the network; None where it is not of its state."""
    if NETWORK in path[:-1]:
        return path[path.index(NETWORK) + 1]
    return None
