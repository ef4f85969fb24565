"""Random steps, compiled, equal autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import largest_error
from random_programs import Program

from layerparallel.chains.native.code import Target


@settings(max_examples=100, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 40),
    batch=st.integers(1, 70),
    steps=st.integers(1, 12),
    stacked=st.booleans(),
    keep=st.booleans(),
    vector=st.sampled_from([16, 32, 64]),
    tile=st.sampled_from([1, 2]),
    single=st.booleans(),
)
def test_random_steps_equal_autograd(seed, width, batch, steps, stacked, keep, vector, tile, single):
    dtype = torch.float32 if single else torch.float64
    program = Program(seed, width)
    goal = Target(vector, tile)
    error = largest_error(
        program, (width,), batch=batch, steps=steps, stacked=stacked, keep=keep, goal=goal, dtype=dtype
    )
    assert error < (1e-4 if single else 1e-10), program.plan


@pytest.mark.parametrize("seed", range(4))
def test_random_recurrences_equal_autograd(seed):
    assert largest_error(Program(seed, 7, inputs=3), (7,), batch=10, steps=9, inputs=3) < 1e-10
