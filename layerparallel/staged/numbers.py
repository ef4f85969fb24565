"""Random numbers that go on from stage to stage, on whichever rank a stage is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Numbers = tuple[bytes, ...]
"""States of torch's generators, the CPU's and that of a GPU if there is one; none if none were used."""


def drawing(work: Callable[[Any], Any], value: Any, device: torch.device) -> tuple[Any, Numbers]:
    """What `work` makes of a value, and the generators behind it."""
    before = _numbers(device)
    found = work(value)
    after = _numbers(device)
    return found, after if after != before else ()


def draw_on_from(numbers: Numbers, device: torch.device) -> None:
    """Goes on with the random numbers behind a stage of this rank or another."""
    states = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in numbers]
    if states:
        torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _numbers(device: torch.device) -> Numbers:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(state.numpy().tobytes() for state in states)
