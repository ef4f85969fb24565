"""Another thread draws from the global generators while steps are examined and solved."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from twins import BODIES, Block, assert_twins, entering, made, refusal

DRAWS: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.randperm(10),
    "python": random.random,
    "numpy": lambda: np.random.rand(3),  # noqa: NPY002
}


class Loader:
    """A thread that draws while a step is evaluated, in the calls it is told of."""

    def __init__(self, draw: Callable[[], object], calls: Callable[[int], bool]):
        self.draw, self.calls, self.count = draw, calls, 0
        self.threads = ThreadPoolExecutor(1)
        self.beside = lambda block, v: self.called(v)  # one function, which copies of a block share

    def called(self, v: Tensor) -> Tensor:
        self.count += 1
        if self.calls(self.count):
            self.threads.submit(self.draw).result()
        return v


@pytest.mark.parametrize("which", DRAWS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", ["serial", "mgrit"])
@pytest.mark.parametrize("call", [1, 4, 6])
def test_a_thread_that_draws_now_and_then_is_no_noise_of_the_steps(which, body, solver, call):
    """In the first call it meets the examination, later the solve."""
    loader = Loader(DRAWS[which], lambda n: n == call)
    net, plain = made(lambda: Block(loader.beside), body, solver)
    assert_twins(net, plain, entering())
    assert loader.count > call


def test_one_that_always_draws_is_told_of():
    loader = Loader(DRAWS["torch"], lambda n: True)
    net, _ = made(lambda: Block(loader.beside), "tied")
    assert "give a thread that draws beside it a generator of its own" in refusal(net, entering())
