"""What the commands of all benchmarks share: their parser, and rows as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from layerparallel.cli.parsing import Parser


def parser(file: str, description: str | None, rows: str = "rows") -> Parser:
    """The parser of the benchmark whose run.py is `file`, with the flag --json."""
    name = Path(file).parent.name
    made = Parser(f"layerparallel bench {name}", description or "")
    made.add_argument("--json", action="store_true", help=f"print {rows} as JSON")
    return made


def at_least_one(made: Parser, args: argparse.Namespace, *names: str) -> None:
    """Refuses numbers below 1."""
    for name in names:
        if getattr(args, name) < 1:
            made.error(f"--{name} {getattr(args, name)} is below 1: give at least 1")


def one_core() -> None:
    """Binds the process to one core and one thread, without denormals; much may be compiled."""
    import torch._dynamo.config  # slow to import

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 256


def print_json(found: Any) -> None:
    """Rows on standard output."""
    json.dump(found, sys.stdout, indent=1)
    print()
