"""C of a step's two walks: the loops over intervals, steps and tiles around what `arrays` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .registry import UnsupportedError
from .split import Walks
from .walking import Backward, Forward, roles

CALL_FIELDS = (
    *("count", "length", "walked", "batch", "collect"),
    *("own", "own_step", "shared", "times", "start", "end", "onto", "rhs", "less", "into"),
    *("tape", "own_gradient", "shared_gradient", "scratch"),
)
"""What a kernel is called with: an array of 64-bit numbers and addresses, in this order."""


@dataclass(frozen=True)
class Target:
    """What code is made for.

    Args:
        vector: bytes of a vector.
        tile: vectors of samples in a tile.
    """

    vector: int
    tile: int


STACK = 4 << 20
"""Bytes of arrays that a walk may have."""


def source(walks: Walks, target: Target) -> str:
    """C of the two walks of a step, as functions ``forward`` and ``backward`` of one argument each.

    Raises:
        UnsupportedError: its arrays are too large.
    """
    head = [prelude(walks.program.dtype, target), _struct(walks)]
    forward, backward = Forward(walks), Backward(walks)
    body = [forward.written(), backward.written()]
    for c in (forward.c, backward.c):
        needed = c.lanes * target.vector * target.tile + c.common * walks.program.dtype.itemsize
        if needed > STACK:
            raise UnsupportedError(f"its arrays need {needed >> 20} MB, and a loop has {STACK >> 20}")
    tables = [
        f"static const int {name}_{kind}[] = {{{', '.join(map(str, places))}}};"
        for kind, part in (("f", forward), ("b", backward))
        for places, name in part.c.tables.items()
    ]
    return "\n".join([*head, *tables, *body])


def prelude(dtype: torch.dtype, target: Target) -> str:
    """The C that all code begins with: vectors, and functions and sums of them."""
    head = [
        f"#define IS_FLOAT {int(dtype == torch.float32)}",
        f"#define REAL {'float' if dtype == torch.float32 else 'double'}",
        f"#define VB {target.vector}",
        f"#define T {target.tile}",
        *_transpose(target.vector // dtype.itemsize),
        '#include "lanes.h"',
    ]
    return "\n".join(head)


def _transpose(lanes: int) -> list[str]:
    """A macro that turns W vectors of W lanes: ever larger blocks off the diagonal change places."""
    lines = ["#define TRANSPOSE(x)"]
    size = 1
    while size < lanes:
        low = [k if not k & size else lanes + k - size for k in range(lanes)]
        high = [k + size if not k & size else lanes + k for k in range(lanes)]
        for r in range(lanes):
            if not r & size:
                pair = f"x[{r}], x[{r + size}]"
                first, second = (f"SHUFFLE({pair}, {', '.join(map(str, p))})" for p in (low, high))
                lines.append(f"{{ V a = {first}, b = {second}; x[{r}] = a; x[{r + size}] = b; }}")
        size *= 2
    return [" \\\n".join(lines)]


def headers() -> dict[str, str]:
    """The files that the code includes, by name."""
    folder = Path(__file__).parent / "c"
    return {name: (folder / name).read_text() for name in ("lanes.h", "functions.h")}


def _struct(walks: Walks) -> str:
    parts = len(walks.program.shapes)
    counts = {"own": len(roles(walks, "own")), "shared": len(roles(walks, "shared"))}
    many = {
        **{name: max(counts["own"], 1) for name in ("own", "own_step", "own_gradient")},
        **{name: max(counts["shared"], 1) for name in ("shared", "shared_gradient")},
        **dict.fromkeys(("start", "end", "onto", "rhs", "less", "into"), parts),
    }
    numbers = {"count", "length", "walked", "batch", "collect", "own_step"}
    lines = ["typedef struct {"]
    for name in CALL_FIELDS:
        kind = "int64_t " if name in numbers else "real *"
        lines.append(f"  {kind}{name}{f'[{many[name]}]' if name in many else ''};")
    return "\n".join([*lines, "  double h;", "} Call;"])
