"""A parareal network on a layer group: one subnetwork on each rank, one exchange of interface values.

Every rank computes its x_j and y_j. Then, with the coarse network on every rank, all send theirs to
all, and take the coarse steps for themselves, to whose graph each has its own values: the gradients
with respect to them are then there without a message, and those of the coarse network on every rank.
With the coarse network on the last rank all send theirs there, and get their gradients from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, RankFailed, UnknownNameError
from ..group.agreement import agree
from ..group.base import Group
from ..network.crossing import Form, everywhere
from ..network.distribution import Elsewhere
from ..steps import draws
from ..steps.state import State, as_given, as_state
from .equations import Equations

Value = TypeVar("Value")
Forms = tuple[list[Form], list[Form]]
"""Of x_j and y_j of one rank."""


def propagate(net: Equations, x: Any) -> Any:
    """The output on every rank."""
    group, j = net.group, net.group.rank + 1

    def own() -> tuple[tuple[State, State], tuple[Forms, int]]:
        begin = net.prepared(j, x)
        end = as_state(net.fine(j, begin), f"the value of g^{j}")
        # C^1(x) goes nowhere: no difference is taken of it.
        states = _reached(as_state(begin, f"the value of C^{j}")) if j > 1 else (), _reached(end)
        forms = [Form.of(a) for a in states[0]], [Form.of(a) for a in states[1]]
        return states, (forms, draws.seed())

    mine, told = shown(group, own)
    forms = [each for each, _ in told]
    collect = _to_every if net.holders == "every" else _to_last
    begins, ends, thread = collect(group, mine, forms)

    def closed() -> Any:
        given = [as_given(state) if state else None for state in begins]
        return net.closed(net.corrected(given, [as_given(state) for state in ends]))

    if net.holders == "last":
        return everywhere(group, closed, thread)
    with draws.apart(told[0][1], mine[1][0].device):  # masks are the same on every rank
        return closed()


def shown(group: Group, work: Callable[[], tuple[Value, Any]]) -> tuple[Value, list[Any]]:
    """Does `work` on every rank, and tells all others about it.

    Args:
        work: returns a value, which stays on its rank, and what is to be told of it.

    Returns:
        The value, and what all ranks tell.

    Raises:
        RankFailed: `work` has raised on another rank; its own error where it did.
    """
    value, message, error = None, None, None
    try:
        value, message = work()
    except Exception as raised:
        error, message = (
            raised,
            RankFailed(f"rank {group.rank} raised {type(raised).__name__}: {raised}"),
        )
    said = group.gather(message)
    if error is not None:
        raise error
    failed = next((each for each in said if isinstance(each, RankFailed)), None)
    if failed is not None:
        raise failed
    return value, said  # type: ignore[return-value]


def _reached(state: State) -> State:
    """In a graph even where the subnetwork is frozen: a gradient will come."""
    if not torch.is_grad_enabled():
        return state
    return tuple(a if a.requires_grad else a.detach().requires_grad_() for a in state)


Collected = tuple[list[State], list[State], State]
"""All x_j, all y_j, and from where the graph of this rank goes back."""


def _to_every(group: Group, mine: tuple[State, State], forms: Sequence[Forms]) -> Collected:
    others = [rank for rank in range(group.size) if rank != group.rank]
    got = {rank: _empty(forms[rank], mine[1][0].device) for rank in others}
    own = _packed(forms[group.rank], mine)
    sends = [(rank, a) for rank in others for a in own]
    receives = [(rank, a) for rank in others for a in _packed(forms[rank], got[rank])]
    group.exchange(sends, receives).wait()
    mine = _like(forms[group.rank], mine)
    states = [got.get(rank, mine) for rank in range(group.size)]
    return [begin for begin, _ in states], [end for _, end in states], mine[1]


def _to_last(group: Group, mine: tuple[State, State], forms: Sequence[Forms]) -> Collected:
    found: State = _ToLast.apply(group, forms, *mine[0], *mine[1])
    if not group.last:
        return [], [], found
    states, rest = [], list(found)
    for begin, end in forms[:-1]:
        states.append((tuple(rest[: len(begin)]), tuple(rest[len(begin) : len(begin) + len(end)])))
        del rest[: len(begin) + len(end)]
    states.append(mine)
    return [begin for begin, _ in states], [end for _, end in states], ()


def _empty(forms: Forms, device: torch.device) -> tuple[State, State]:
    begin, end = (tuple(form.empty(device) for form in each) for each in forms)
    return begin, end


def _like(forms: Forms, states: tuple[State, State]) -> tuple[State, State]:
    """Of one rank, with gradients that lie in memory as the states do."""
    begin, end = (
        tuple(form.like(a) for form, a in zip(each, state, strict=True))
        for each, state in zip(forms, states, strict=True)
    )
    return begin, end


def _packed(forms: Forms, states: tuple[State, State]) -> list[Tensor]:
    """x_j and y_j of one rank as messages."""
    pairs = zip((*forms[0], *forms[1]), (*states[0], *states[1]), strict=True)
    return [form.packed(a.detach()) for form, a in pairs]


class _ToLast(torch.autograd.Function):
    """The values of all other ranks, on the last one; their gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, group: Group, forms: Sequence[Forms], *own: Tensor) -> State:
        rows, device = [[*begin, *end] for begin, end in forms], own[0].device
        mine, others = rows[group.rank], [(r, form) for r, row in enumerate(rows[:-1]) for form in row]
        ctx.group, ctx.device, ctx.mine, ctx.others = group, device, mine, others
        if not group.last:
            sends = [(group.size - 1, form.packed(a)) for form, a in zip(mine, own, strict=True)]
            group.exchange(sends, []).wait()
            return (own[0].new_zeros(()),)
        got = [form.empty(device) for _, form in others]
        receives = [(rank, form.packed(a)) for (rank, form), a in zip(others, got, strict=True)]
        group.exchange([], receives).wait()
        return tuple(got)

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Any, ...]:
        group: Group = ctx.group
        if group.last:
            pairs = zip(ctx.others, outgoing, strict=True)
            group.exchange([(rank, form.packed(g)) for (rank, form), g in pairs], []).wait()
            return (None, None, *(None for _ in ctx.mine))
        found = [form.empty(ctx.device) for form in ctx.mine]
        receives = [(group.size - 1, form.packed(g)) for form, g in zip(ctx.mine, found, strict=True)]
        group.exchange([], receives).wait()
        return (None, None, *found)


# ---- who has what -------------------------------------------------------------------------------


def keep_own(net: Equations, group: Group, holders: str) -> bool:
    """Leaves on this rank what it is to have; False on one process, where nothing is to be done.

    Raises:
        InputError: see `PararealNetwork.distribute`.
    """
    if holders not in ("every", "last"):
        raise UnknownNameError("way to hold the coarse network", holders, ("every", "last"))
    if not net.group.alone:
        raise InputError(f"The network is distributed over {net.count} ranks already; make a new one.")
    if group.alone:
        return False
    facts = {
        "network": [type(part).__name__ for part in net.modules()],
        "subnetworks": list(net.ends),
        "holders of the coarse network": holders,
        "initial weights": dict(net.state_dict()),
    }
    agree(group, facts)
    if group.size != net.count:
        raise InputError(
            f"{net.count} subnetworks, one on each rank, do not fit {group.size} ranks; start "
            f"{net.count} ranks, or make {group.size} subnetworks."
        )
    _refuse_shared(net)
    last, rank = group.size - 1, group.rank
    homes = {j: _places(net, j) for j in range(1, net.count + 1)}
    for j, places in homes.items():
        _put_away(places, f"subnetwork {j}", j - 1, rank)
    if holders == "last":
        _put_away(_common(net), "the coarse network", last, rank)
    return True


Place = tuple[nn.Module, str]
"""A module that holds another, and its name there."""


def _places(net: Equations, j: int) -> list[Place]:
    """Where the modules of C^j and g^j are."""
    prepared: list[Place] = [(net.preprocessing, str(j))]
    if j == 1:
        prepared = [piece.place for piece in net.pieces("opening")]
    return [*prepared, *(piece.place for piece in net.pieces(j))]


def _common(net: Equations) -> list[Place]:
    """Where the modules of the coarse network and the postprocessing are."""
    coarse: list[Place] = [(net.coarse, key) for key in net.coarse]
    return [*coarse, *(piece.place for piece in net.pieces("closing"))]


def _module(place: Place) -> nn.Module:
    found = place[0]._modules[place[1]]
    assert found is not None
    return found


def _put_away(places: Sequence[Place], what: str, home: int, rank: int) -> None:
    if home != rank:
        for holder, name in places:
            holder._modules[name] = Elsewhere(what, home)


def _refuse_shared(net: Equations) -> None:
    parts = {f"subnetwork {j}": _places(net, j) for j in range(1, net.count + 1)}
    parts["the coarse network or the postprocessing"] = _common(net)
    seen: dict[nn.Parameter, str] = {}
    for name, places in parts.items():
        for p in (p for place in places for p in _module(place).parameters()):
            if seen.setdefault(p, name) != name:
                raise InputError(
                    f"{seen[p]} and {name} share a parameter of shape {tuple(p.shape)}, and are on "
                    "different ranks of the layer group; give each its own, or cut elsewhere."
                )
