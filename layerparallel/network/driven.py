"""Chains with an input per step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..steps.state import State


@dataclass(frozen=True)
class Driven:
    """What an opening returns for a chain with an input per step: first state and inputs.

    Attributes:
        state: u[0].
        inputs: one tensor (N, B, ...) or several; step n is called with ``inputs[n]``.
    """

    state: Tensor | State
    inputs: Tensor | tuple[Tensor, ...]
