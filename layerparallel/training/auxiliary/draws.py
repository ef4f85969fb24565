"""Random numbers of stages, those of dropout, say: the same on ranks as on one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed() -> int:
    """A number from torch's generator; the same on all ranks, if they were seeded alike."""
    return int(torch.randint(1 << 62, ()))


@contextmanager
def of_stage(seed: int, k: int, device: torch.device) -> Iterator[None]:
    """Within it random numbers are those of stage k, whoever has it; then they go on as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed + k)
        yield
