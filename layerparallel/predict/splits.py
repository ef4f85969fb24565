"""Ranks shared out over samples, layers and stages: estimated for all splits, measured for a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..solvers import MGRIT
from .baselines import (
    SCHEDULES,
    OneRank,
    Split,
    Timed,
    data_parallel,
    in_microbatches,
    pipeline,
    timed,
)
from .search import Search


def splits(
    search: Search, row: Sequence[Timed], ranks: int, most: int, at: Callable[[int], Search]
) -> list[Timed]:
    """Splits of so many ranks by powers of two, the quickest first.

    Args:
        row: splits that were measured before; they are among them as they are.
        most: others that are measured, of those the estimate finds quickest.
        at: the search of the task at another depth, that of a stage.
    """
    found = {each.split: each for each in row if each.split.ranks == ranks}
    guesses = [each for each in _guesses(search, ranks) if each.split not in found]
    for each in sorted(guesses, key=lambda each: each.seconds)[:most]:
        found[each.split] = _measured(search, each, at)
    return sorted(found.values(), key=lambda each: each.seconds)


def _guesses(search: Search, ranks: int) -> Iterator[Timed]:
    """Every split but that of the layers alone: exact where ranks work by themselves, and by MGRIT."""
    one, depth = search.one, search.task.depth
    solvers = [solver for solver in search.errors.known() if search.exact_enough(solver)]
    for data in _powers(min(ranks, search.task.batch)):
        for layer in _powers(ranks // data):
            stages = ranks // data // layer
            if data * layer * stages != ranks or stages * layer > depth or data * stages == 1:
                continue
            if layer == 1:
                yield _exact(one, data, stages, search)
            shape = Split(depth, data=data, layer=layer, stages=stages)
            fitting = [s for s in solvers if len(s.factors(shape.stage_depth)) == s.levels - 1]
            several = [_guess(search, each) for each in _settings(shape, fitting, search)]
            yield from sorted(several, key=lambda each: each.seconds)[:1]


def _exact(one: OneRank, data: int, stages: int, search: Search) -> Timed:
    if stages == 1:
        return data_parallel(one, data, search.link)
    found = (pipeline(one, stages, search.link, name, data) for name in SCHEDULES[1:])
    return min(found, key=lambda each: each.seconds)


def _settings(shape: Split, solvers: Sequence[MGRIT], search: Search) -> Iterator[Split]:
    """All solvers, schedules and numbers of microbatches."""
    for solver in solvers:
        split = replace(shape, way=solver)
        if shape.stages == 1:
            yield split
        else:
            for name in SCHEDULES[1:]:
                yield from in_microbatches(replace(split, schedule=name), search.task.batch)


def _guess(search: Search, split: Split) -> Timed:
    samples = split.samples(search.task.batch)
    assert isinstance(split.way, MGRIT)
    seconds = search.estimates(split.way, split.layer, search.link, split.stage_depth, samples)
    return _of_group(search, split, seconds)


def _measured(search: Search, guess: Timed, at: Callable[[int], Search]) -> Timed:
    """What was guessed of MGRIT is measured; what is exact was.

    A stage is measured as a network of so many layers. Its steps are longer than the stage's own, so
    that its solves may misbehave where those do not: they are not guarded.
    """
    split = guess.split
    if not isinstance(split.way, MGRIT):
        return guess
    way = split.way if split.stages == 1 else replace(split.way, guard=False)
    group = at(split.stage_depth).on(split.layer, way, split.samples(search.task.batch))
    return _of_group(search, split, group.seconds)


def _of_group(search: Search, split: Split, seconds: float) -> Timed:
    """Of a layer group's seconds; its forward and backward passes have the shares of one rank's."""
    share = search.one(split.samples(search.task.batch))
    assert isinstance(split.way, MGRIT)
    error = search.errors(split.way)
    return timed(split, share.times(seconds / share.total), search.one, search.link, error)


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to the bound."""
    return [1 << k for k in range(most.bit_length())]
