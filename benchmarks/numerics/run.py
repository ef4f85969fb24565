"""Errors of the elementary functions of native loops, over all 32-bit inputs.

    layerparallel bench numerics [--stride 1] [--json]

The exact value is that of PyTorch in float64. Errors of normal results are in units in the last place
of the exact value, those of denormal results are absolute. Native loops take denormal inputs as 0, and
so does the exact value. `apart` counts inputs for which vectors of 16, 32 and 64 bytes differ.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import harness
import torch
from torch import Tensor

from layerparallel.chains.native.code import Target, prelude
from layerparallel.chains.native.compiler import compiled

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name) for name in ("exp", "expm1", "sigmoid", "tanh", "erf", "log", "log1p")
}
VECTORS = (16, 32, 64)
SMALLEST = 2.0**-126
"""The smallest normal number."""
CHUNK = 1 << 16
APPLY = """
void apply_{name}(const float *a, float *out, int64_t n) {{
  const unsigned long before = flush_on();
  for (int64_t i = 0; i < n; i += W) *(U *)(out + i) = f_{name}(*(const U *)(a + i));
  flush_off(before);
}}"""


@cache
def library(vector: int) -> ctypes.CDLL:
    """All functions for vectors of so many bytes."""
    texts = [prelude(torch.float32, Target(vector, 1)), *(APPLY.format(name=n) for n in FUNCTIONS)]
    return compiled("\n".join(texts))


def native(name: str, x: Tensor, vector: int) -> Tensor:
    """A function of native loops, of every element of an array."""
    lanes = vector // 4
    padded = torch.nn.functional.pad(x, (0, -len(x) % lanes))
    out = torch.empty_like(padded)
    call = library(vector)[f"apply_{name}"]
    call(
        ctypes.c_void_p(padded.data_ptr()), ctypes.c_void_p(out.data_ptr()), ctypes.c_int64(len(padded))
    )
    return out[: len(x)]


def flushed(x: Tensor) -> Tensor:
    """With denormal numbers as 0."""
    return torch.where(x.abs() < SMALLEST, x * 0, x)


def units(found: Tensor, exact: Tensor) -> Tensor:
    """Errors in units in the last place of the exact values (float64); an overflow counts as 2^128."""
    found, exact = (a.clamp(-(2.0**128), 2.0**128) for a in (found.double(), exact))
    unit = (exact.view(torch.int64) & 0x7FF << 52).view(torch.float64) * 2.0**-23
    error = (found - exact).abs_().div_(unit.clamp_(min=2.0**-149))
    return torch.where(exact.isnan() & found.isnan(), 0, error.nan_to_num_(torch.inf))


@dataclasses.dataclass
class Worst:
    """The largest errors so far.

    Attributes:
        ulps: of normal results, and of 0, infinity and NaN.
        at: the input that has it.
        denormal: of denormal results, absolute.
    """

    ulps: float = 0.0
    at: float = 0.0
    denormal: float = 0.0

    def meet(self, x: Tensor, found: Tensor, exact: Tensor) -> None:
        small = (exact.abs() < SMALLEST) & (exact != 0)
        error = units(found, exact).masked_fill_(small, 0)
        largest, k = error.max(0)
        if largest > self.ulps:
            self.ulps, self.at = float(largest), float(x[k])
        if small.any():
            off = (found.double() - exact).abs()[small].max()
            self.denormal = max(self.denormal, float(off))


def inputs(stride: int) -> Iterator[Tensor]:
    """Every `stride`-th of all numbers, in pieces; infinities and NaN are among them."""
    for first in range(0, 1 << 32, stride * CHUNK):
        bits = torch.arange(first, min(first + stride * CHUNK, 1 << 32), stride)
        yield bits.to(torch.int32).view(torch.float32)


def measured(name: str, pieces: Iterator[Tensor]) -> dict[str, Any]:
    """A row of the table."""
    ours, theirs, apart, count = Worst(), Worst(), 0, 0
    for x in pieces:
        zeroed = flushed(x)
        exact = FUNCTIONS[name](zeroed.double())
        different: list[Tensor] = []
        for vector in VECTORS:
            found = native(name, x, vector)
            if not different or not torch.equal(found.view(torch.int32), different[0].view(torch.int32)):
                ours.meet(x, found, exact)
                different.append(found)
        bits = torch.stack([found.view(torch.int32) for found in different])
        apart += int((bits != bits[0]).any(0).sum())
        theirs.meet(x, FUNCTIONS[name](zeroed), exact)
        count += len(x)
    row = {"case": name, "inputs": count, "apart": apart, **dataclasses.asdict(ours)}
    return {**row, **{f"torch_{key}": value for key, value in dataclasses.asdict(theirs).items()}}


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--stride", type=int, default=47, help="take every so many-th number; 1: all")
    parser.add_argument("--function", nargs="+", choices=list(FUNCTIONS), help="only these")
    args = parser.parse_args(argv)
    harness.at_least_one(parser, args, "stride")
    torch.set_num_threads(1)
    rows = []
    if not args.json:
        print(
            f"{'':8} {'ulp':>8} {'at':>16} {'denormal':>9}   {'PyTorch':>8} {'at':>16} {'denormal':>9}"
        )
    for name in args.function or FUNCTIONS:
        row = measured(name, inputs(args.stride))
        rows.append(row)
        if not args.json:
            print(
                f"{name:8} {row['ulps']:8.2f} {row['at']:16.9g} {row['denormal']:9.1e}   "
                f"{row['torch_ulps']:8.2f} {row['torch_at']:16.9g} {row['torch_denormal']:9.1e}"
                + (f"   {row['apart']} of {row['inputs']} apart" if row["apart"] else ""),
                flush=True,
            )
    if args.json:
        harness.print_json(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
