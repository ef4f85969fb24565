"""Timings in turns, and gradients compared."""

from itertools import islice

import pytest
import torch

from layerparallel.solvers.measure import compare, rounds, turns


def test_turns_go_round_and_every_call_is_warmed_up():
    called: list[str] = []
    calls = [lambda name=name: called.append(name) for name in "ab"]
    assert [len(times) for times in islice(turns(calls), 2)] == [2, 2]
    assert called == list("aabbaabb")
    called.clear()
    times = rounds(calls, repeats=3)
    assert called == list("aabb" * 4)  # the first to warm up
    assert [len(each) for each in times] == [3, 3]
    assert all(ms >= 0 for each in times for ms in each)


def test_gradients_of_several_ranks_are_compared_as_one():
    torch.manual_seed(0)
    exact = {"a": torch.randn(4), "b": torch.randn(3, 2)}
    found = {name: g + 0.1 * torch.randn_like(g) for name, g in exact.items()}
    sums: list[torch.Tensor] = []

    def keep(part: torch.Tensor) -> torch.Tensor:
        sums.append(part)
        return part

    for name in exact:
        compare({name: found[name]}, {name: exact[name]}, total=keep)
    whole = compare(found, exact)
    last = compare({"b": found["b"]}, {"b": exact["b"]}, total=lambda part: part + sums[0])
    assert last.relative == pytest.approx(whole.relative)
    assert last.cosine == pytest.approx(whole.cosine)


def test_the_worst_layer_is_none_where_none_is_stacked():
    exact = {"body.layer.weight": torch.ones(3, 2), "opening.weight": torch.ones(4)}
    found = {
        name: g * torch.linspace(1, 1.2, len(g)).view(-1, *[1] * (g.dim() - 1))
        for name, g in exact.items()
    }
    assert compare(found, exact, depth=3).worst_layer == pytest.approx(0.2)
    assert compare(found, exact, depth=4).worst_layer is None
    assert compare(found, exact).worst_layer is None
