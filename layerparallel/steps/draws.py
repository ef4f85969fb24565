"""Random numbers that are drawn apart from all others: those of dropout in a stage, say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed() -> int:
    """A number from torch's generator; the same on all ranks, if they were seeded alike."""
    return int(torch.randint(1 << 62, ()))


@contextmanager
def apart(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Within it random numbers may be drawn at will; then they go on as before.

    GPUs are left alone while the process has not used any.

    Args:
        seed: from which to begin; where torch's generators are if None.
        device: where alone they are drawn, beside the CPU; on every GPU if None.
    """
    gpus = _gpus(device)
    with torch.random.fork_rng(gpus, device_type="cuda"):
        if seed is not None:
            on_gpus = [torch.cuda.default_generators[n] for n in gpus]
            for generator in (torch.default_generator, *on_gpus):
                generator.manual_seed(seed)
        yield


def _gpus(device: torch.device | None) -> list[int]:
    if not torch.cuda.is_initialized():
        return []
    if device is None:
        return [*range(torch.cuda.device_count())]
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
