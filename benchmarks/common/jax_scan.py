"""The gradient of a chain by JAX: a compiled `lax.scan`, the fastest serial loop in common use.

JAX is no dependency. Where it is not installed, `gradient` returns None and the benchmark says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Tree = Mapping[str, Any]
"""Tensors by name, nested."""


def gradient(
    loss: Callable[[Any, Any, Any], Any], parameters: Tree, x: Tensor, y: Tensor
) -> tuple[Callable[[], None], Callable[[], Tree]] | None:
    """What computes the gradient, compiled, and what it has found, as tensors.

    Args:
        loss: ``loss(parameters, x, y)`` in jax.numpy.
        parameters: in the order and shapes that `loss` takes.
    """
    if importlib.util.find_spec("jax") is None:
        return None
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    def to_jax(value: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(a.detach().numpy()), value)

    compiled = jax.jit(jax.grad(loss))
    given = to_jax(dict(parameters)), to_jax(x), to_jax(y)
    found: list[Any] = []

    def step() -> None:
        found[:] = [jax.block_until_ready(compiled(*given))]

    def told() -> Tree:
        import numpy as np

        return jax.tree.map(lambda a: torch.from_numpy(np.array(a)), found[0])

    return step, told


def cross_entropy(logits: Any, y: Any) -> Any:
    """Mean over the batch."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()


def affine(parameters: Any, x: Any) -> Any:
    """x W^T + b."""
    return x @ parameters["weight"].T + parameters["bias"]


def scanned(step: Callable[[Any, Any], Any], u: Any, over: Any, length: int | None = None) -> Any:
    """The state behind all steps; `over` has an entry for each, or is None for `length` like ones."""
    from jax import lax  # pyright: ignore[reportMissingImports]

    return lax.scan(lambda v, each: (step(v, each), None), u, over, length=length)[0]
