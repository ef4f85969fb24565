"""What a step may not do, because a solve evaluates it several times and many steps at once.

A step is evaluated twice, with gradients on, on copies of the state. Sure signs tell most: a generator
of random numbers that has moved, the state's version, a buffer that is another, a result that requires
a gradient though all that the step was given does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .comparing import Kept, equal, same
from .contents import left_behind
from .given import Given, as_laid_out, asks_for, in_order, perturbed, themselves
from .remains import Attribute, Attributes, Trace, leaves_behind, made_by_hooks
from .signs import Packing, generators, moved, other_generators
from .state import Carried, State, differentiable, refuse_other_kind

TIMES = 3
"""That a step is evaluated while generators move: a step that draws moves them every time, another
thread does not."""
THREADS = "; or give a thread that draws beside it a generator of its own"
AGAIN = "and a solve evaluates a step several times"

Evaluate = Callable[[State, Sequence[Tensor]], object]
"""A step of a state and of the tensors that it differentiates."""


class Scalars(TorchDispatchMode):
    """Notices that the value of a tensor becomes a number of Python's, on which a step may branch."""

    seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.seen |= func in READS
        return func(*args, **(kwargs or {}))


READS = frozenset([torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default])


@dataclass(frozen=True)
class Found:
    """What an examination has found.

    Attributes:
        value: the parts of the step's value that move, detached.
        in_place: it changes the state in place.
        writes: it writes to its parameters, but what is there already.
        branches: it reads values, so what it does to a sample may depend on the others.
        gradient: of the sum of the value with respect to the state, None where it has none.
        remade: attributes that have to be made anew for every step: they depend on its parameters.
    """

    value: State
    in_place: bool
    branches: bool
    gradient: Sequence[Tensor | None] = ()
    remade: tuple[Attribute, ...] = ()
    writes: bool = False


def examine(
    step: Evaluate,
    u: State,
    tensors: Sequence[Tensor],
    module: nn.Module | None,
    which: str,
    carried: Carried,
    one_for_all: bool = False,
) -> Found:
    """Evaluates a step twice.

    Args:
        step: returns what the user's code does.
        u: what it departs from; it is left alone.
        tensors: what a propagation differentiates of the step.
        module: whose buffers and attributes are looked at.
        which: names the step in a sentence.
        carried: parts of the state that it has to pass along.
        one_for_all: the module stands for all steps, with the parameters of each.

    Raises:
        ValueError: a sure sign that a solve would go wrong.
    """
    with torch.inference_mode(False):
        return _examined(step, as_laid_out(u), tensors, module, which, carried, one_for_all)


def _examined(
    step: Evaluate,
    u: State,
    tensors: Sequence[Tensor],
    module: nn.Module | None,
    which: str,
    carried: Carried,
    one_for_all: bool,
) -> Found:
    device, kept = u[0].device, Kept(tensors, module)
    along = [(part, part.clone()) for part in carried.parts.values()]
    for _ in range(TIMES):
        before, others = generators(device), other_generators()
        given, attributes = as_laid_out(u), Attributes(module)
        with torch.enable_grad(), Scalars() as scalars:
            value = step(given, themselves(tensors))
        drawn = moved(before, device) or others != other_generators()
        if not drawn:
            break
    first = carried.moving(value, "a step's value")
    in_place = any(a._version or not equal(a, b) for a, b in zip(given, u, strict=True))
    for part, copy in along:
        if not equal(part, copy):
            part.copy_(copy)
            raise ValueError(
                f"{which} changes a part of the state in place, which is {part.dtype} and has no "
                "derivative; return it as it came"
            )
    if drawn:
        raise ValueError(
            f"{which} draws random numbers, {AGAIN}; only torch.nn.functional's dropout is known here, "
            f"so take other noise out of the chain{THREADS}"
        )
    if any(a.requires_grad for a in first):
        raise ValueError(_unknown_source(module, which))
    _check_carried(value, carried, which)
    if [a.shape for a in u] == [a.shape for a in first]:  # else the integrator or the chain says it
        refuse_other_kind(u, first)
    attributes.after_one()

    def plain(u: State, own: Sequence[Tensor]) -> State:
        return carried.moving(step(u, own), "a step's value")

    try:
        second, gradient, packed, trace = _with_gradients(step, u, tensors, carried)
    except Exception as error:
        if (found := asks_for(plain, u, tensors, first)) is None:
            raise
        raise ValueError(f"{which} asks for {found}") from error
    changed = kept.changed()
    if changed is None and (name := attributes.counting()) is not None:
        with attributes.far_ahead(), torch.no_grad():
            later = plain(as_laid_out(u), themselves(tensors))
        changed = None if same(first, later, repeated=True) else f"its attribute {name}"
    if changed is not None:
        raise ValueError(
            f"{which} changes {changed} when it is evaluated, {AGAIN}; of all layers with memory only "
            "batch norm is known here, so keep the others out of the chain"
        )
    if packed:
        raise ValueError(
            f"{which} checkpoints itself or packs saved tensors, which recomputes it with other "
            "parameters; leave that out and give the solver memory='recompute'"
        )
    left = {} if module is None else left_behind(module)
    if left if made_by_hooks(module) else trace.held():
        raise ValueError(leaves_behind(which, left))
    if len(first) != len(second) or not same(first, second, repeated=True):
        if (found := asks_for(plain, u, tensors, first)) is not None:
            raise ValueError(f"{which} asks for {found}")
        raise ValueError(
            f"{which} draws random numbers or remembers: two evaluations of the same state differ, "
            f"{AGAIN}; take noise and memory out of the chain"
        )
    remade: tuple[Attribute, ...] = ()
    if (name := attributes.kept()) is not None:
        other, own = tuple(1 - 2 * a for a in u), themselves(tensors)
        of_state = _matters(plain, other, own, attributes)
        of_parameters = one_for_all and _matters(plain, u, list(map(perturbed, own)), attributes)
        if of_state or (of_parameters and module is not None and module.training):
            raise ValueError(
                f"{which} keeps {name} from its first evaluation for later ones, which are of other "
                f"{'states' if of_state else 'parameters'}; compute it in every evaluation"
            )
        if of_parameters:
            remade = attributes.forget()
    return Found(
        tuple(a.detach() for a in first), in_place, scalars.seen, gradient, remade, kept.written()
    )


@torch.no_grad()
def _matters(step: Given, u: State, tensors: Sequence[Tensor], attributes: Attributes) -> bool:
    """Whether a step's value is another without what was kept of an evaluation of something else."""
    kept = step(as_laid_out(u), tensors)
    with attributes.forgotten():
        return not same(kept, step(as_laid_out(u), tensors), repeated=True)


def _with_gradients(
    step: Evaluate, u: State, tensors: Sequence[Tensor], carried: Carried
) -> tuple[State, Sequence[Tensor | None], bool, Trace]:
    """A step's value, its gradient, whether it packs what is saved, and a trace of its graph.

    It is given what a chain gives it: see `given`.
    """
    leaves = [t.detach().requires_grad_(t.requires_grad and differentiable(t)) for t in tensors]
    departures = [a.requires_grad_() for a in in_order(u)]
    trace = Trace([*departures, *leaves])
    given, own = tuple(trace.tensors[: len(u)]), trace.tensors[len(u) :]
    with torch.enable_grad(), Packing() as packing:
        value = carried.moving(step(given, own), "a step's value")
    packed = packing.seen or _recomputes(value)
    gradient: Sequence[Tensor | None] = [None] * len(u)
    if not packed:
        gradient = pulled(value, departures)
    return tuple(a.detach() for a in value), gradient, packed, trace


def pulled(value: State, departures: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient of a value, by weights that no sum over an entry's neighbours takes out."""
    ends = [a for a in value if a.requires_grad]
    if not ends:
        return [None] * len(departures)
    weights = [torch.arange(a.numel(), device=a.device).cos().view(a.shape).to(a.dtype) for a in ends]
    return torch.autograd.grad(ends, departures, weights, allow_unused=True)


def _unknown_source(module: nn.Module | None, which: str) -> str:
    if module is None:
        return (
            f"{which} uses tensors that require a gradient, which a plain function cannot be given; "
            "make it a module and pass that to chain"
        )
    parts = list(module.modules())
    if any(hasattr(part, "_get_fsdp_state") for part in parts):
        return (
            f"{which} is sharded by fully_shard, which puts other parameters in place of those it is "
            "evaluated with; shard the whole network, fully_shard(net), and none of its steps"
        )
    return (
        f"{which} uses a tensor that requires a gradient and is neither its parameter nor an attribute "
        "of its modules, so that its gradient would be lost; make it an attribute, or pass it through "
        "the opening"
    )


def _check_carried(value: object, carried: Carried, which: str) -> None:
    for k, part in carried.parts.items():
        if not isinstance(value, tuple) or k >= len(value) or not equal(value[k], part):
            raise ValueError(
                f"{which} changes part {k} of the state, which is {part.dtype} and has no derivative; "
                "return it as it came"
            )


def _recomputes(value: State) -> bool:
    """Whether a graph has nodes that evaluate modules anew in the backward pass."""
    queue, known = [a.grad_fn for a in value if a.grad_fn is not None], set()
    while queue:
        node = queue.pop()
        if node in known:
            continue
        known.add(node)
        if "CheckpointFunction" in node.name():
            return True
        queue += [after for after, _ in node.next_functions if after is not None]
    return False
