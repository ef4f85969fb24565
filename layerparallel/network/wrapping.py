"""An existing feed-forward model taken apart into chains and what is between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bodies import Body, StackedBody, TiedBody, UnlikeBody
from .sequence import hooked, in_order, refuse_whole
from .stacking import refuse_hooks

PLAIN = (nn.Sequential, nn.ModuleList)
"""Taken apart wherever they stand; a class of one's own may be a block."""
LEAST = 2
"""Fewest modules in a row that make a chain."""


def parted(
    modules: nn.Sequential | Sequence[nn.Module], example: Any, stacked: bool
) -> tuple[nn.Module, list[nn.Module], nn.Module]:
    """Opening, chains with transitions, and closing; see `Network.from_modules`."""
    flat = list(_flat(modules))
    opening: list[nn.Module] = []
    parts: list[nn.Module] = []
    between = opening
    runs = list(_runs(flat, example))  # all of them first: meanwhile the modules evaluate
    if stacked:
        _refuse_ties(runs)
    for run in runs:
        if len(run) < LEAST:
            between += run
            continue
        if parts:
            parts.append(_joined(between))
        parts.append(_chain(run, stacked))
        between = []
    if not parts:
        raise ValueError(
            f"among the {len(flat)} modules there are no {LEAST} in a row of one class that keep the "
            "shape of the state, so there is no chain to be propagated in parallel; give the residual "
            "blocks themselves, not a module around them"
        )
    return _joined(opening), parts, _joined(between)


def _refuse_ties(runs: list[list[nn.Module]]) -> None:
    """Refuses parameters that a stack would copy and something else has, too.

    Raises:
        ValueError: there is one.
    """
    having = [{p for module in run for p in module.parameters()} for run in runs]
    for k, run in enumerate(runs):
        others = set().union(*having[:k], *having[k + 1 :])
        if len(run) >= LEAST and having[k] & others:
            raise ValueError(
                f"modules outside share a parameter with the chain of {type(run[0]).__name__}, "
                "which stacking would part; leave stacked=True out"
            )


def _flat(modules: Any) -> Iterator[nn.Module]:
    if isinstance(modules, nn.Module):
        refuse_whole(modules)
    each: Any = modules
    for module in each:
        if type(module) in PLAIN and in_order(module) and not hooked(module):
            yield from _flat(module)
        elif isinstance(module, nn.Module):
            yield module
        else:
            raise TypeError(
                f"{module!r} is not a module; give torch.nn modules, nn.Flatten() for a reshape"
            )


def _runs(flat: list[nn.Module], example: Any) -> Iterator[list[nn.Module]]:
    """Consecutive modules that can be one chain; what cannot is a run of its own."""
    modes = {part: part.training for module in flat for part in module.modules()}
    run: list[nn.Module] = []
    try:
        with torch.no_grad():
            value = example.clone() if isinstance(example, Tensor) else example  # they may change it
            for module in flat:
                before, value = value, module.eval()(value)
                keeps = _shape(before) == _shape(value) and any(True for _ in module.parameters())
                if run and not (keeps and type(run[-1]) is type(module)):
                    yield run
                    run = []
                run.append(module)
                if not keeps:
                    yield run
                    run = []
    finally:
        for part, mode in modes.items():
            part.training = mode
    if run:
        yield run


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    return [_shape(part) for part in value] if isinstance(value, tuple) else None


def _chain(run: list[nn.Module], stacked: bool) -> Body:
    """An argument named t is the model's own: its modules call each other without one."""
    if all(module is run[0] for module in run):
        body: Body = TiedBody(run[0], len(run), 1.0, "block")
    elif stacked:
        refuse_hooks(run)
        body = StackedBody.of(run, 1.0, "block")
    else:
        body = UnlikeBody(run, 1.0, "block", timed=False)
    body.timed = False
    return body


def _joined(modules: list[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
