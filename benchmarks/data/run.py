"""What data cost: from CIFAR-10's files to the first batch, and augmentation.

    layerparallel bench data [--json] [--threads N] [--rounds N]

Loading reads the published files (`LAYERPARALLEL_DATA`), checks them, takes means and deviations and
makes one augmented batch; the baseline unpickles the same files and does nothing more. Files are in
the system's cache. A batch of augmentation is timed beside one training step of ResNet-20.
"""

from __future__ import annotations

import pickle
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import harness
import torch
from torch.nn.functional import cross_entropy

from layerparallel import data, models
from layerparallel.data import cifar, files
from layerparallel.errors import InputError

BATCH = 128
Row = dict[str, Any]


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Median over rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def row(case: str, baseline: str, theirs: float, ours: float, aim: str) -> Row:
    return {
        "case": case,
        "threads": torch.get_num_threads(),
        "baseline": baseline,
        "baseline_ms": theirs,
        "ours_ms": ours,
        "ratio": theirs / ours,
        "aim": aim,
        "relative_error": None,
        "cosine": None,
    }


def first_batch() -> data.Batch:
    """All that is between the files and the first step."""
    found = data.load("cifar-10")
    prepare = data.Preparation.of(found, data.Augmentation())
    return data.Batches(found, BATCH, torch.Generator().manual_seed(0), prepare)[0]


def loading(rounds: int) -> Row:
    batch = first_batch()  # and the imports
    assert batch.x.shape == (BATCH, 3, 32, 32)
    raw = {file: files.read(cifar.TEN, file) for file in (*cifar.TEN_TRAIN, *cifar.TEN_TEST)}

    def least() -> list[Any]:
        return [pickle.loads(each, encoding="bytes") for each in raw.values()]

    theirs = milliseconds(least, rounds)
    ours = milliseconds(first_batch, rounds)
    return row("CIFAR-10, files to first batch", "pickle.loads alone", theirs, ours, "< 3000 ms")


def augmentation(rounds: int) -> Row:
    """One augmented batch beside one step of SGD on ResNet-20, layer by layer in PyTorch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10 * BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    classes = torch.arange(10 * BATCH) % 10
    names = tuple("0123456789")
    found = data.Dataset("random", images, classes, images[:BATCH], classes[:BATCH], names)
    prepare = data.Preparation.of(found, data.Augmentation())
    batches = data.Batches(found, BATCH, generator, prepare)
    network = models.resnet(20).to_serial().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batch = batches[0]

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(batch.x), batch.y).backward()
        optimizer.step()

    step()
    theirs = milliseconds(step, rounds)
    ours = milliseconds(lambda: batches[1], 10 * rounds)
    found_row = row(f"augmented batch of {BATCH}", "step of ResNet-20", theirs, ours, "ratio > 10")
    return {**found_row, "share": ours / theirs}


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    for name in ("threads", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} is below 1: give 1 or more")
    torch.set_num_threads(args.threads)
    rows = [augmentation(args.rounds)]
    try:
        rows.append(loading(args.rounds))
    except InputError as error:  # no files and no network
        print(f"not measured: {error}", file=sys.stderr)
    if args.json:
        harness.print_json(rows)
        return 0
    for each in rows:
        print(
            f"{each['case']:32} {each['ours_ms']:8.1f} ms, {each['baseline']} "
            f"{each['baseline_ms']:8.1f} ms (aim: {each['aim']})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
