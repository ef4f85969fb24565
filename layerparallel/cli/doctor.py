"""`layerparallel doctor`: what this machine has, and whether native loops work on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import layerparallel as lp

from ..chains.native.compiler import CompilerError, compiler, folder
from .parsing import table


@dataclass(frozen=True)
class Doctor:
    """What this machine has, and whether native loops work on it: a small chain is compiled and run."""


def doctor() -> None:
    """See `Doctor`."""
    print(table(_found()))


def _found() -> Iterator[tuple[str, str]]:
    yield "layerparallel", lp.__version__
    yield "Python, PyTorch", f"{platform.python_version()}, {torch.__version__}"
    yield "processor", f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for name, find in (("compiler", compiler), ("compiled loops", folder)):
        try:
            yield name, str(find())
        except CompilerError as error:
            yield name, str(error)
    net = lp.Network(
        None, lp.chain(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()), 16, T=1.0), None
    )
    net(torch.randn(4, 8)).sum().backward()
    yield "a chain of 16 layers", net.chains[0].way
