"""Scaling to 1024 ranks, predicted in virtual time and checked against real runs.

    layerparallel bench scaling [--json] [--section NAME ...] [--ranks P ...] [--plots DIR]

Sections: `real`, predictions beside one and two real processes; `aims`, 1024 layers of width 8
against what is wanted of them; `strong`, that network and 512 layers of width 220 on more and more
ranks; `weak`, four layers a rank. What is compared: plain PyTorch and the quickest of the library on one
core, data parallelism, pipelines.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch

sys.path.insert(0, str(Path(__file__).parent))

import aims
import real
from tasks import dense

from layerparallel.predict import links, show
from layerparallel.predict.scaling import Row, Study

SECTIONS = ("real", "aims", "strong", "weak")
CLAIM = "Slides: crossover near 16 cores; constant run time at 4 layers a core"


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1 << k for k in range(11)])
    parser.add_argument("--network", default="ethernet", help="of strong and weak")
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 5000], help="of 1024 x 8")
    parser.add_argument("--weights", default="smooth", choices=("smooth", "independent"))
    parser.add_argument("--wide", type=int, default=512, help="layers of width 220; 0 for none")
    parser.add_argument("--few", type=int, default=2, help="solvers run for every number of ranks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plots", type=Path, help="folder for pictures")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = sys.stderr if args.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    found: dict[str, Any] = {}
    if "real" in args.section:
        found["real"] = real.rows(args.repeats)
        real.show(found["real"], say)
    if "aims" in args.section:
        found["aims"] = aims.rows(args.batches, args.repeats, args.weights, say)
    for section in ("strong", "weak"):
        if section in args.section:
            found[section] = scaling(section, args, say)
    if args.json:
        harness.print_json(found)
    return 0


def scaling(section: str, args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The rows of all networks, by name."""
    network = links.find(args.network)
    wide = [dense(args.wide, 220, 100, args.weights)] if args.wide else []
    found = {}
    for task in [*(dense(1024, 8, batch, args.weights) for batch in args.batches), *wide]:
        name = f"{task.name}, batch {task.batch}"
        task = dataclasses.replace(task, repeats=args.repeats)
        study = Study(task, network.link, bound=0.1, few=args.few, say=say)
        say(f"\n{section} scaling: {name}; {network}")
        if section == "strong":
            ranks = [count for count in args.ranks if count <= task.depth]
            rows: list[Row] = study.strong(ranks)
        else:
            name = name.replace(str(task.depth), "4 layers a rank", 1)
            rows = study.weak(args.ranks, 4)
        if args.plots is not None:
            file = args.plots / f"{section}_{task.name.split()[-1]}_{task.batch}.png"
            title = f"{section.capitalize()} scaling: {name}"
            say(str(show.plot(file, rows, title, str(network), CLAIM)))
        found[name] = [show.row_json(row) for row in rows]
    return found


if __name__ == "__main__":
    sys.exit(main())
