"""What a step may not do, because a solve evaluates it several times and many steps at once.

A step is evaluated twice, with gradients on, on copies of the state. Sure signs tell most: a generator
of random numbers that has moved, the state's version, a buffer that is another, a result that requires
a gradient though all that the step was given does not.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from .contents import left_behind
from .remains import Numbers, Trace, made_by_hooks
from .state import Carried, State, differentiable, refuse_other_kind

ROUNDING = {2: 2e-2, 4: 1e-3, 8: 1e-8}
"""Relative difference up to which values agree that are computed in batches of another size, by the
bytes of a number; of two bytes under autocast, too."""
SAME = {2: 1e-2, 4: 1e-4, 8: 1e-8}
"""The same of a value that is computed twice."""
TIMES = 3
"""That a step is evaluated while generators move: a step that draws moves them every time, another
thread does not."""
THREADS = "; or give a thread that draws beside it a generator of its own"
AGAIN = "and a solve evaluates a step several times"

Evaluate = Callable[[State, Sequence[Tensor]], object]
"""A step of a state and of the tensors that it differentiates."""


def _generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that steps on a device may draw from."""
    found = [torch.get_rng_state()]
    if device.type == "cuda":
        found.append(torch.cuda.get_rng_state(device))
    return found


def _other_generators() -> list[Any]:
    """The states of Python's generator and of NumPy's, which a step may draw from, too."""
    found: list[Any] = [random.getstate()]
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        found.append((kind, keys.tobytes(), *rest))
    return found


class Draws:
    """Notices random numbers that are drawn from now on, by a step or by another thread."""

    def __init__(self, device: torch.device):
        self.device, self.before, self.others = device, _generators(device), _other_generators()

    def seen(self) -> bool:
        """Whether a generator has moved."""
        still = all(map(torch.equal, self.before, _generators(self.device)))
        return not still or self.others != _other_generators()


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without the values that ``parametrize.cached()`` keeps: they are not of the parameters given."""
    before = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


class Packing:
    """Notices while it lasts that somebody packs saved tensors, as checkpointing does."""

    seen = False

    def __enter__(self) -> Packing:
        self._enter, noticed = saved_tensors_hooks.__enter__, self

        def enter(hooks: saved_tensors_hooks) -> None:
            noticed.seen = True
            return noticed._enter(hooks)

        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        saved_tensors_hooks.__enter__ = self._enter


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
        branches: it reads values, so what it does to a sample may depend on the others.
        gradient: of the sum of the value with respect to the state, None where it has none.
    """

    value: State
    in_place: bool
    branches: bool
    gradient: Sequence[Tensor | None] = ()


class Signs:
    """What tells after a solve that steps no longer do what they did when they were examined.

    Args:
        buffers: of all steps, if they have any but those of batch norm.
    """

    def __init__(self, device: torch.device, buffers: Callable[[], Iterable[Tensor]]):
        self.device, self.buffers, self.packing = device, buffers, Packing()

    def __enter__(self) -> None:
        self.draws, self.versions = Draws(self.device), self._versions()
        self.packing.__enter__()

    def __exit__(self, *_: object) -> None:
        self.packing.__exit__()

    def _versions(self) -> list[tuple[int, int]]:
        return [(id(b), 0 if b.is_inference() else b._version) for b in self.buffers()]

    def drawn(self) -> bool:
        """Whether random numbers were drawn."""
        return self.draws.seen()

    def shown(self) -> bool:
        """Whether there is one."""
        return self.packing.seen or self.drawn() or self.versions != self._versions()


class Kept:
    """Tensors that a step may not change: as they were, to compare with and to go back to."""

    def __init__(self, tensors: Sequence[Tensor], module: nn.Module | None):
        self.tensors = [(t, t.detach().clone()) for t in tensors]
        self.module = module
        self.buffers = {name: (b, b.clone()) for name, b in self._buffers().items()}

    def _buffers(self) -> dict[str, Tensor]:
        return {} if self.module is None else dict(self.module.named_buffers())

    def changed(self) -> str | None:
        """What has changed; it is as before then."""
        now = self._buffers()
        for name, (_, copy) in self.buffers.items():
            if name not in now or not _equal(now[name], copy):
                self._restore()
                return f"its buffer {name}"
        if all(_equal(t, copy) for t, copy in self.tensors):
            return None
        self._restore()
        return "a parameter"

    @torch.no_grad()
    def _restore(self) -> None:
        for name, (buffer, copy) in self.buffers.items():
            buffer.copy_(copy)
            assert self.module is not None
            place, _, leaf = name.rpartition(".")
            self.module.get_submodule(place)._buffers[leaf] = buffer
        for t, copy in self.tensors:
            t.detach().copy_(copy)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    same = a.detach() == b
    if differentiable(a):
        same |= (a.detach() != a.detach()) & (b != b)
    return bool(same.all())


def examine(
    step: Evaluate,
    u: State,
    tensors: Sequence[Tensor],
    module: nn.Module | None,
    which: str,
    carried: Carried,
) -> Found:
    """Evaluates a step twice.

    Args:
        step: returns what the user's code does.
        u: what it departs from; it is left alone.
        tensors: what a propagation differentiates of the step.
        module: whose buffers and attributes are looked at.
        which: names the step in a sentence.
        carried: parts of the state that it has to pass along.

    Raises:
        ValueError: a sure sign that a solve would go wrong.
    """
    with torch.inference_mode(False):
        return _examined(step, _copies(u), tensors, module, which, carried)


def _examined(
    step: Evaluate,
    u: State,
    tensors: Sequence[Tensor],
    module: nn.Module | None,
    which: str,
    carried: Carried,
) -> Found:
    device, kept = u[0].device, Kept(tensors, module)
    along = [(part, part.clone()) for part in carried.parts.values()]
    for _ in range(TIMES):
        draws, given, numbers = Draws(device), _copies(u), Numbers(module)
        with torch.enable_grad(), uncached(), Scalars() as scalars:
            value = step(given, [t.detach() for t in tensors])
        if not (drawn := draws.seen()):
            break
    first = carried.moving(value, "a step's value")
    in_place = any(a._version or not _equal(a, b) for a, b in zip(given, u, strict=True))
    for part, copy in along:
        if not _equal(part, copy):
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
    numbers.after_one()
    second, gradient, packed, trace = _with_gradients(step, u, tensors, carried)
    changed = kept.changed()
    if changed is None and (name := numbers.counting()) is not None:
        with numbers.far_ahead(), torch.no_grad(), uncached():
            later = carried.moving(step(_copies(u), [t.detach() for t in tensors]), "a step's value")
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
        where = next(iter(left), None)
        raise ValueError(
            f"{which} leaves a tensor with a graph in "
            f"{f'its attribute {where}' if where else 'a container, a hook or a global'}, {AGAIN}; "
            "return it as a part of the state"
        )
    if len(first) != len(second) or not same(first, second, repeated=True):
        raise ValueError(
            f"{which} draws random numbers or remembers: two evaluations of the same state differ, "
            f"{AGAIN}; take noise and memory out of the chain"
        )
    return Found(tuple(a.detach() for a in first), in_place, scalars.seen, gradient)


def _with_gradients(
    step: Evaluate, u: State, tensors: Sequence[Tensor], carried: Carried
) -> tuple[State, Sequence[Tensor | None], bool, Trace]:
    """A step's value, its gradient, whether it packs what is saved, and a trace of its graph."""
    leaves = [t.detach().requires_grad_(t.requires_grad and differentiable(t)) for t in tensors]
    departures = [a.requires_grad_() for a in _copies(u)]
    trace = Trace([*departures, *leaves])
    given, own = tuple(trace.tensors[: len(u)]), trace.tensors[len(u) :]
    with torch.enable_grad(), uncached(), Packing() as packing:
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


def _copies(u: State) -> State:
    return tuple(a.detach().clone() for a in u)


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
        if not isinstance(value, tuple) or k >= len(value) or not _equal(value[k], part):
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


def same(a: State, b: State, repeated: bool = False) -> bool:
    """Whether two values of a step are equal but for rounding.

    Args:
        repeated: they were computed in the same way.
    """
    return all(_close(x.detach(), y.detach(), repeated) for x, y in zip(a, b, strict=True))


def _close(x: Tensor, y: Tensor, repeated: bool) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    finite = torch.isfinite(x)
    if not x.numel() or not torch.equal(finite, torch.isfinite(y)):
        return not x.numel()
    x, y = x[finite], y[finite]
    size = x.element_size() // (2 if x.is_complex() else 1)
    if not repeated and torch.is_autocast_enabled(x.device.type):
        size = 2
    bound = (SAME if repeated else ROUNDING).get(size, ROUNDING[2])
    largest = float(x.abs().amax()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=bound, atol=bound * largest)
