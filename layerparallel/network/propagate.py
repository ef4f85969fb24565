"""The propagation of a state through a chain as one differentiable operation.

The forward solve records its last sweep, the backward pass solves the adjoint chain about it, and the
last adjoint sweep collects the gradients of all parameters. This is the one autograd.Function that
computes; those of `crossing` carry values between ranks.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from ..chains.chain import Adjoint, Chain
from ..chains.generic import GenericChain, Noting
from ..chains.placement import Placement
from ..group.base import Group
from ..solvers import MGRIT, Serial, Split
from ..solvers.solution import Solution
from ..steps.examination import THREADS, TIMES
from ..steps.repeatable import Statistics
from ..steps.signs import Signs, uncached
from ..steps.state import Carried, ChangedInPlaceError, State, versions
from .bodies.habits import Modes
from .entering import fitting, refuse_non_finite, refuse_transforms
from .guard import guarded
from .leftovers import refuse_left_behind

Solver = Serial | MGRIT | Split
Direction = Literal["forward", "adjoint"]


class Binder(Protocol):
    """Makes a chain of parameter tensors (a `Body`)."""

    depth: int
    plain_in_turn: bool

    @property
    def modes(self) -> Modes: ...

    @property
    def notes(self) -> bool: ...

    def tensors(self) -> list[Tensor]: ...

    def nothings(self) -> list[Tensor]: ...

    @property
    def group(self) -> Group: ...

    def placement(self, length: int) -> Placement | None: ...

    def bind(
        self, tensors: Sequence[Tensor], placement: Placement | None, carried: Carried
    ) -> GenericChain: ...

    def fastest(self, chain: GenericChain, like: State) -> Chain: ...

    def unbind(self, gradients: dict[int, Tensor], chain: GenericChain) -> dict[int, Tensor]: ...

    def examine(
        self, u: State, inputs: State, carried: Carried, several: bool, anew: bool = False
    ) -> bool: ...

    def recall(self) -> None: ...

    def signs(self, device: torch.device, tensors: Sequence[Tensor]) -> Signs | None: ...

    def commit(self, statistics: Statistics, placement: Placement | None) -> None: ...


@dataclass
class Guess:
    """C-point states of the last forward and adjoint solve of one batch, detached."""

    forward: State | None = None
    adjoint: State | None = None


@dataclass(frozen=True)
class _Call:
    """What one propagation needs besides tensors."""

    body: Binder
    solver: Solver
    parts: int
    inputs: int
    carried: Carried
    guess: Guess | None
    report: Callable[[Direction, Solution], None]


def propagate(
    body: Binder,
    u0: State,
    inputs: Sequence[Tensor],
    solver: Solver,
    report: Callable[[Direction, Solution], None],
    guess: Guess | None = None,
) -> State:
    """u[N] of the chain that `body` makes of its parameters, differentiable.

    Args:
        u0: the first state, in the user's shapes. Parts of it that have no derivative are carried along.
        inputs: inputs per step, each (N, ...), of a driven chain.
        report: called with "forward" or "adjoint" and the solution.
        guess: where to start from, and where to leave the C-point states for the next call.

    Raises:
        ValueError: the solver does not fit the depth, the state is not finite, or a step cannot be
            evaluated several times.
        RuntimeError: called inside a torch.func transform, or differentiated twice.
    """
    solver.check(body.depth)
    held = body.tensors()
    refuse_transforms((*u0, *inputs, *held))
    u0, carried = Carried.of(fitting(held, u0, inputs))
    plain = isinstance(solver, Serial) and body.plain_in_turn and not body.notes
    if torch.is_grad_enabled() or not plain:
        body.examine(u0, tuple(inputs), carried, _several(solver))
    else:
        body.recall()
    call = _Call(body, solver, len(u0), len(inputs), carried, guess, report)
    tensors = (*u0, *inputs, *held, *body.nothings())
    on_ranks = not body.group.alone  # where another rank may have what requires a gradient
    if not torch.is_grad_enabled() or not (on_ranks or any(t.requires_grad for t in tensors)):
        with torch.no_grad():
            return carried.whole(_forward(call, tensors, record=False)[0])
    return carried.whole(_Propagate.apply(call, *tensors))


def _several(solver: Solver) -> bool:
    """Whether it evaluates several steps at once."""
    return not (isinstance(solver, Serial) and solver.memory == "store")


@dataclass(frozen=True)
class _Solved:
    """A forward solve, before anything has been told of it."""

    solution: Solution
    plain: GenericChain
    chain: Chain
    adjoint: Adjoint | None
    statistics: Statistics | None


def _forward(call: _Call, tensors: Sequence[Tensor], record: bool) -> tuple[State, _Solved]:
    u0, body = tuple(tensors[: call.parts]), call.body
    found = _as_examined(call, tensors, record)
    chain, solution = found.chain, found.solution
    if body.group.alone:  # on ranks the next module does, in a place where all hear of it
        refuse_non_finite(u0, solution.end)
    if found.statistics is not None:
        body.commit(found.statistics, chain.placement)
    if call.guess is not None:
        call.guess.forward = _left(call.solver.forward.forward, solution)
    call.report("forward", solution)
    return chain.unpack(solution.end, u0), found


def _as_examined(call: _Call, tensors: Sequence[Tensor], record: bool, times: int = TIMES) -> _Solved:
    """Solves; once more where steps turn out to do other things than when they were examined.

    Args:
        times: that it may solve while generators move: by another thread they do not always.
    """
    u0 = tuple(tensors[: call.parts])
    given = tensors[call.parts : call.parts + call.inputs], tensors[call.parts + call.inputs :]
    bound = _bound(call, tensors)
    compiled = not bound[1].interpreted and isinstance(call.solver, Serial)
    signs = None if compiled else call.body.signs(u0[0].device, given[1])
    if signs is None:
        return _solved(call, tensors, record, signs, bound)

    def changed() -> bool:
        return call.body.examine(u0, tuple(given[0]), call.carried, _several(call.solver), anew=True)

    numbers, before = torch.get_rng_state(), versions(u0)
    try:
        found = _solved(call, tensors, record, signs, bound)
    except RuntimeError as error:
        signs.refuse_written()
        in_place = isinstance(error, ChangedInPlaceError)
        known = changed()
        if not known and not in_place:
            raise
        if versions(u0) != before or (in_place and not known):
            raise ValueError(
                "a step has begun to change the state in place, or does so only where no gradient is "
                "taken; let it work on a copy, u.clone()"
            ) from error
    else:
        signs.refuse_written()
        if not signs.shown():
            return found
        drawn = signs.drawn()
        if not changed():
            if not drawn:
                return found
            if times > 1:
                return _as_examined(call, tensors, record, times - 1)
            raise ValueError(
                "a step has drawn random numbers, which it does not at the first state, and a solve "
                f"evaluates a step several times; take noise out of the chain{THREADS}"
            )
    torch.set_rng_state(numbers)
    return _solved(call, tensors, record, None, _bound(call, tensors))


def _bound(call: _Call, tensors: Sequence[Tensor]) -> tuple[GenericChain, Chain]:
    """The chain, as it is and by the fastest way."""
    body = call.body
    placement = body.placement(interval_length(call.solver, body.depth))
    given = tensors[call.parts : len(tensors) - len(body.nothings())]
    plain = body.bind(given, placement, call.carried)
    with uncached():
        return plain, body.fastest(plain, tuple(tensors[: call.parts]))


def _solved(
    call: _Call,
    tensors: Sequence[Tensor],
    record: bool,
    signs: Signs | None,
    bound: tuple[GenericChain, Chain],
) -> _Solved:
    u0, body, (plain, chain) = tuple(tensors[: call.parts]), call.body, bound
    placement = plain.placement
    solver = call.solver.forward.forward
    adjoint = chain.linearise(solver.groups(body.depth)) if record else None
    recorder, statistics = adjoint, plain.statistics
    if statistics is not None and recorder is None:
        recorder = Noting(plain)
    packed = chain.pack(u0)
    if adjoint is not None:
        adjoint.like = packed
    guess = _fitting(call.guess.forward, solver, chain, packed) if call.guess is not None else None
    with signs or contextlib.nullcontext(), uncached():
        solution = guarded(solver, chain, packed, guess, recorder, False)
    if placement is not None:
        ends = placement.ends(reverse=False)[1], body.group.size - 1
        solution.end = hand_over(body.group, solution.end, *ends)
    return _Solved(solution, plain, chain, adjoint, statistics)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> State:
        end, ctx.solved = _forward(call, tensors, record=True)
        end = tuple(a.clone() for a in end)  # the next module may change it in place
        ctx.call, ctx.modes = call, call.body.modes
        device = tensors[0].device.type
        ctx.autocast = (
            device,
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device),
        )
        # the tensors are kept by the recorded sweep; saving them makes autograd watch their versions
        ctx.save_for_backward(*tensors)
        return end

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # raises autograd's own error after a first backward
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the layer-parallel gradient cannot be differentiated again (create_graph=True); "
                "use net.to_serial() for second derivatives"
            )
        try:
            return calling()(_backward, ctx, tensors, outgoing)
        except RuntimeError as error:
            _refuse_changed(ctx, tensors, outgoing, error)
            raise


def _backward(
    ctx: Any, tensors: Sequence[Tensor], outgoing: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    call, chain, adjoint = ctx.call, ctx.solved.chain, ctx.solved.adjoint
    adjoint.keep = _graph_is_kept()
    parts = call.parts
    device, enabled, dtype = ctx.autocast
    with torch.autocast(device, dtype=dtype, enabled=enabled), uncached(), ctx.modes.again():
        packed = chain.pack(tuple(g.contiguous() for g in outgoing))
        placement, group = chain.placement, call.body.group
        if placement is not None:
            packed = hand_over(group, packed, group.size - 1, placement.ends(reverse=True)[0])
        solver, guess = call.solver.adjoint.adjoint, None
        if call.guess is not None:
            guess = _fitting(call.guess.adjoint, solver, adjoint, packed)
        solution = guarded(solver, adjoint, packed, guess, None, True)
    if call.guess is not None:
        call.guess.adjoint = _left(solver, solution)
    call.report("adjoint", solution)
    start = chain.unpack(solution.end, tensors[:parts])
    gradients = call.body.unbind(adjoint.gradients(), ctx.solved.plain)
    if not adjoint.keep:
        adjoint.free()
        ctx.solved = None
    if call.body.group.alone:
        refuse_left_behind(cast(nn.Module, call.body), adjoint)
    nothings = [torch.zeros_like(t) for t in call.body.nothings()]
    found = [gradients.get(k) for k in range(len(tensors) - parts - len(nothings))]
    return (None, *start, *found, *nothings)


def _refuse_changed(
    ctx: Any, tensors: Sequence[Tensor], outgoing: Sequence[Tensor], error: RuntimeError
) -> None:
    """Finds out whether a gradient has failed because steps do other things than before.

    Raises:
        ValueError: it has, or several gradients were asked for at once.
    """
    if any(map(torch._C._functorch.is_legacy_batchedtensor, outgoing)):  # type: ignore[attr-defined]
        raise ValueError(
            "this solver and layer take no batch of gradients (is_grads_batched=True, vectorize=True); "
            "take one after the other, or those of net.to_serial()"
        ) from error
    call: _Call = ctx.call
    u0, inputs = tuple(tensors[: call.parts]), tuple(tensors[call.parts :][: call.inputs])
    if call.body.signs(u0[0].device, ()) is not None:
        with ctx.modes.again():
            call.body.examine(u0, inputs, call.carried, _several(call.solver), anew=True)


def calling() -> Callable[..., Any]:
    """What calls a solve: torch.compile of what calls the network or `backward` leaves it alone."""
    if torch.compiler.is_compiling() or _compiles():
        from . import uncompiled

        return uncompiled.called
    return _called


def _compiles() -> bool:
    """Whether torch's compiler is at work around this call, and would take what is called."""
    if "torch._dynamo" not in sys.modules:
        return False
    autograd = sys.modules.get("torch._dynamo.compiled_autograd")
    if autograd is not None and autograd.compiled_autograd_enabled:
        return True
    return torch._C._dynamo.eval_frame.get_eval_frame_callback() is not None  # type: ignore[attr-defined]


def _called(work: Callable[..., Any], *given: Any) -> Any:
    return work(*given)


def interval_length(solver: Solver, depth: int) -> int:
    """Steps that no rank's block may cut: the intervals of the forward and of the adjoint solve."""
    parts = (solver.forward.forward, solver.adjoint.adjoint)
    return math.lcm(*(p.factors(depth)[0] for p in parts if isinstance(p, MGRIT)))


def hand_over(group: Group, state: State, source: int, target: int) -> State:
    """A state of the rank `source`, on `target` too."""
    if source == target or group.rank not in (source, target):
        return state
    if group.rank == source:
        group.exchange([(target, a.contiguous()) for a in state], []).wait()
        return state
    received = tuple(torch.empty_like(a, memory_format=torch.contiguous_format) for a in state)
    group.exchange([], [(source, a) for a in received]).wait()
    return received


def _graph_is_kept() -> bool:
    """Whether the running backward pass was called with retain_graph=True."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())  # type: ignore[attr-defined]


def _fitting(guess: State | None, solver: Serial | MGRIT, chain: Chain, u0: State) -> State | None:
    """The guess, if the solver starts warm and it is of this batch size and this coarsening."""
    if guess is None or not (isinstance(solver, MGRIT) and solver.warm_start):
        return None
    place = chain.place
    blocks = place.blocks.coarsened(solver.factors(place.depth)[0])
    points = len(blocks.points[place.group.rank])
    fits = all(
        g.shape == (points, *u.shape[1:]) and g.dtype == u.dtype and g.device == u.device
        for g, u in zip(guess, u0, strict=True)
    )
    return guess if fits else None


def _left(solver: Serial | MGRIT, solution: Solution) -> State | None:
    """What a solve leaves for the next warm start: nothing if it failed."""
    if not (isinstance(solver, MGRIT) and solver.warm_start) or solution.points is None:
        return None
    return tuple(p.detach() for p in solution.points) if solution.finite else None
