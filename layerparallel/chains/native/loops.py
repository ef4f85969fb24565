"""Native loops of a body: which steps have one, found once and forgotten when their code changes."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...steps.fields import At, Function, Stacked, Tied
from ...steps.integrators import block
from ...steps.state import State
from ..chain import Intervals
from ..generic import GenericChain
from .compiler import CompilerError
from .kernel import Kernel, target
from .lowering import UnsupportedError
from .program import Program
from .reads import HOOKS, Reads
from .trace import Example, trace

Shapes = tuple[tuple[int, ...], ...]
SAMPLES, MOST = 3, 33
"""Samples that a loop is tried with before it is used, beside as many as it is for, up to `MOST`."""
GLOBAL_HOOKS = tuple(
    getattr(torch.nn.modules.module, f"_global_{kind}_hooks")
    for kind in ("forward", "forward_pre", "backward", "backward_pre")
)
CONTIGUOUS = torch.contiguous_format
_ONE_AT_A_TIME = threading.Lock()
"""PyTorch's tracer is one for all threads."""


def turned_on() -> bool:
    """Whether LAYERPARALLEL_NATIVE=1 is set."""
    return os.environ.get("LAYERPARALLEL_NATIVE") == "1"


@dataclass(frozen=True, eq=False)
class Loop:
    """A step as machine code, for every batch size."""

    program: Program
    _kernels: dict[Hashable, Kernel | CompilerError] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return self.program.dtype

    def kernel(self, batch: int, keep: bool = True) -> Kernel:
        """Walks of this batch size.

        Args:
            keep: the tape keeps what is dear to compute, too.

        Raises:
            CompilerError: it cannot be compiled.
        """
        goal = target(batch, self.dtype.itemsize)
        if (goal, keep) not in self._kernels:
            try:
                self._kernels[goal, keep] = Kernel.of(self.program, goal, keep)
            except CompilerError as error:
                self._kernels[goal, keep] = error
        found = self._kernels[goal, keep]
        if isinstance(found, CompilerError):
            raise found
        return found


@dataclass
class Loops:
    """The native loops of one body's steps.

    Attributes:
        why: why the finest level has none; None where it has one, or was not asked for yet.
    """

    why: str | None = None
    _found: dict[Hashable, Loop | str] = field(default_factory=dict)
    _reads: Reads | None = None
    _never: str | None = None

    def __deepcopy__(self, memo: object) -> Loops:
        return Loops()

    def __reduce__(self) -> tuple[type[Loops], tuple[()]]:
        return Loops, ()

    def of(self, chain: GenericChain, like: State) -> Loop | None:
        """The loop of a chain's step; None where there is none, for the reason `why`.

        Args:
            like: a state of the finest level, each part (samples, ...).
        """
        try:
            found = self._looked_up(chain, like)
        except UnsupportedError as error:
            found = str(error)
        except CompilerError as error:
            found = str(error)
            _tell_once(found)
        if chain.span == 1:
            self.why = found if isinstance(found, str) else None
        return None if isinstance(found, str) else found

    def _looked_up(self, chain: GenericChain, like: State) -> Loop | str:
        shapes, dtype = tuple(tuple(a.shape[1:]) for a in like), like[0].dtype
        kind, step = chain.field, chain.step
        if not turned_on():
            return "LAYERPARALLEL_NATIVE=1 turns native loops on"
        if self._never is not None:
            return self._never
        if torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack():
            return "autocast or another mode of PyTorch is on"
        if not isinstance(kind, Stacked | Tied | Function):
            return "its modules are evaluated one after the other"
        if getattr(kind, "remade", ()):
            return "it keeps what it makes of its parameters"
        if kind.manner.watched or kind.compiled or kind.manner.carried.parts:
            return "it has dropout, batch norm, masks in the state, or is compiled by torch.compile"
        if any(not a.dim() or a.shape[0] != like[0].shape[0] or not a.numel() for a in like):
            return "its state has no dimension of samples, or no samples"
        if isinstance(kind, Tied) and any(
            x.dim() < 3 or x.shape[2] != like[0].shape[0] for x in chain.selected_own
        ):
            return "its input per step has no dimension of samples"
        if any(a.device.type != "cpu" for a in like):
            return "it is not on a CPU"
        if chain.span == 1 and self._reads is not None and not self._reads.same:
            self._found.clear()
            self._reads = None
        baked = isinstance(kind, Function) or (step.integrator is block and chain.reach == 1)
        tensors = (*chain.selected_own, *chain.shared)
        which = (
            *(shapes, dtype, step.integrator, step.samples, kind.manner.in_place),
            (step.operator, step.span) if step.span > 1 and step.operator.kind == "picard" else None,
            chain.reach if baked else None,
            chain.span == 1,
            tuple(
                (p.shape[1:] if k < len(chain.own) else p.shape, p.dtype) for k, p in enumerate(tensors)
            ),
            tuple(p.requires_grad for p in (*chain.own, *chain.shared)),
            tuple((name, b.shape, b.dtype) for name, b in kind.buffers.items()),
        )
        if any(map(bool, GLOBAL_HOOKS)):
            return "all modules have hooks"
        if self._reads is None and hooked(chain.field.modules):  # while it is the same there are none
            return "its modules have hooks"
        if which not in self._found:
            try:
                with _ONE_AT_A_TIME:
                    self._found[which] = self._made(chain, like, baked)
            except UnsupportedError as error:
                self._found[which] = str(error)
            except CompilerError as error:
                self._found[which] = str(error)
                _tell_once(str(error))
        found = self._found[which]
        if isinstance(found, Loop):
            found.kernel(like[0].shape[0])
        return found

    def _made(self, chain: GenericChain, like: State, baked: bool) -> Loop:
        modules, dtype = chain.field.modules, like[0].dtype
        shapes = tuple(tuple(a.shape[1:]) for a in like)
        few = small(chain, like, baked, SAMPLES)
        with torch.no_grad():

            def call() -> object:
                return few.chain.advance(few.u, Intervals(0, 1, 1))

            before = [dict(vars(m)) for m in modules]
            if self._reads is None:
                self._reads = Reads(modules, chain.field.functions, call)
            elif chain.span == 1:
                call()
            if self._reads.refusal is not None:
                raise UnsupportedError(f"it refuses {SAMPLES} samples ({self._reads.refusal})")
            if any(
                vars(m).keys() != b.keys() or any(vars(m)[k] is not b[k] for k in b)
                for m, b in zip(modules, before, strict=True)
            ):
                self._never = "it changes attributes of its modules"
            elif not self._reads.same:
                self._never = "it changes what it reads"
            if self._never is not None:
                raise UnsupportedError(self._never)
        program = trace(_single(chain, baked), _example(chain, shapes, dtype))
        loop, batch = Loop(program), like[0].shape[0]
        for samples in {SAMPLES, SAMPLES + 1, min(batch, MOST)}:
            _compare(
                loop.kernel(batch), few if samples == SAMPLES else small(chain, like, baked, samples)
            )
        return loop


@cache
def _tell_once(reason: str) -> None:
    """Says once in a process that there is no working compiler."""
    warnings.warn(
        "LAYERPARALLEL_NATIVE=1 is set, and steps are evaluated by PyTorch's operations all the same: "
        f"{reason}",
        RuntimeWarning,
        stacklevel=2,
    )


def hooked(modules: Sequence[nn.Module]) -> bool:
    """Whether any has hooks."""
    return any(getattr(module, hooks) for module in modules for hooks in HOOKS)


def own_of(chain: GenericChain) -> tuple[Tensor, ...]:
    """What every step has of its own, as a loop takes it; inputs of s layers one by one."""
    found = [p.detach() for p in chain.selected_own]
    if isinstance(chain.field, Tied):
        found = [x.select(1, j) for x in found for j in range(x.shape[1])]
    return tuple(p if p.shape[0] == 0 or p[0].is_contiguous() else p.contiguous() for p in found)


def shared_of(chain: GenericChain) -> tuple[Tensor, ...]:
    """What all steps have in common, as a loop takes it: with the buffers of modules of now."""
    buffers = (b.detach().clone(memory_format=CONTIGUOUS) for b in chain.field.buffers.values())
    return (*(p.detach().contiguous() for p in chain.shared), *buffers)


def _example(chain: GenericChain, shapes: Shapes, dtype: torch.dtype) -> Example:
    per_sample = isinstance(chain.field, Tied)
    own = [p[0] for p in own_of(chain)]
    shared = shared_of(chain)
    u = tuple(torch.zeros((1, *shape), dtype=dtype) for shape in shapes)
    wanted = [p.requires_grad and chain.span == 1 for p in chain.own]
    wanted += [False] * (len(own) - len(wanted))
    wanted += [p.requires_grad and chain.span == 1 for p in chain.shared]
    wanted += [False] * (len(own) + len(shared) - len(wanted))
    return Example(
        u,
        tuple(p[:1] for p in own) if per_sample else tuple(own),
        shared,
        per_sample,
        (chain.step.samples,),
        tuple(wanted),
    )


def _single(chain: GenericChain, baked: bool) -> Any:
    """The step of a chain for one interval, as `trace` calls it."""
    samples, field = chain.step.samples, chain.field.holding()

    def step(
        u: Sequence[Tensor], own: Sequence[Tensor], shared: Sequence[Tensor], t: Tensor, h: Tensor
    ) -> Sequence[Tensor]:
        if isinstance(field, Tied):  # inputs of s layers one by one
            stacks = [own[k : k + samples] for k in range(0, len(own), samples)]
            own = [torch.stack(list(each)) for each in stacks]
        single = replace(chain.step, field=field, h=chain.step.h if baked else h)
        at = At(range(samples), t)
        end = single(tuple(a[None] for a in u), tuple(p[None] for p in own), tuple(shared), at)
        return [a[0] for a in end]

    return step


@dataclass(frozen=True)
class Few:
    """A chain of one step with other numbers than a user's, and a state and an adjoint for it."""

    chain: GenericChain
    u: State
    adjoint: State


def small(chain: GenericChain, like: State, baked: bool, samples: int) -> Few:
    """One step of a chain, with all numbers a little off: zeros would hide what is wrong.

    The step size is 1, unless it is part of the code: a small one would hide what F does.
    """
    generator = torch.Generator().manual_seed(0)

    def off(p: Tensor) -> Tensor:
        if not p.is_floating_point():
            return p.detach()
        noise = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        return (p.detach() * (1 + 0.1 * noise) + 0.01 * noise).requires_grad_(p.requires_grad)

    def drawn(p: Tensor, dim: int) -> Tensor:
        """Inputs per step of as many samples."""
        picked = torch.arange(samples) % p.shape[dim]
        return p.detach().index_select(dim, picked).requires_grad_(p.requires_grad)

    own = tuple(off(p[:1, ...]).requires_grad_(p.requires_grad) for p in chain.own)
    selected = tuple(off(p[:1, ...]) for p in chain.selected_own) if chain.span > 1 else None
    if isinstance(chain.field, Tied):
        own = tuple(drawn(p, 1) for p in own)
        selected = None if selected is None else tuple(drawn(p, 2) for p in selected)
    shared = tuple(off(p).requires_grad_(p.requires_grad) for p in chain.shared)
    u, adjoint = (
        tuple(torch.randn((1, samples, *a.shape[1:]), dtype=a.dtype, generator=generator) for a in like)
        for _ in range(2)
    )
    size = chain.step_size if baked else 1 / chain.span
    one = replace(
        chain, own=own, shared=shared, selected=selected, steps=1, placement=None, step_size=size
    )
    return Few(one, u, adjoint)


def _compare(kernel: Kernel, few: Few) -> None:
    """Holds a kernel against PyTorch: a step forward, and back with all gradients.

    Raises:
        UnsupportedError: they differ.
    """
    chain, over = few.chain, Intervals(0, 1, 1)
    adjoint = chain.linearise()
    end = adjoint.record(few.u, over)
    back = adjoint.collect(few.adjoint, over) if chain.span == 1 else adjoint.advance(few.adjoint, over)
    right = adjoint.gradients()
    dtype = kernel.walks.program.dtype
    own, shared = own_of(chain), shared_of(chain)
    times = chain.layer_times(dtype)
    common = {"length": 1, "walked": 1, "h": chain.reach, "own": own, "shared": shared, "times": times}
    tape = torch.empty(kernel.tape_shape(1, few.u[0].shape[1]), dtype=dtype)
    arrived, pulled = (tuple(torch.empty_like(a) for a in few.u) for _ in range(2))
    kernel("forward", start=few.u, end=arrived, tape=tape, **common)
    gradients = [
        [torch.zeros_like(a) if kernel.written(role, k) else None for k, a in enumerate(given)]
        for role, given in (("own", own[: len(chain.own)]), ("shared", shared[: len(chain.shared)]))
    ]
    kernel(
        "backward",
        start=few.adjoint,
        end=pulled,
        tape=tape,
        own_gradient=gradients[0],
        shared_gradient=gradients[1],
        collect=True,
        **common,
    )
    pairs = list(zip((*arrived, *pulled), (*end, *back), strict=True))
    for k, g in enumerate((*gradients[0], *gradients[1])):
        theirs = right.get(k)
        if g is not None:
            pairs.append((g, torch.zeros_like(g) if theirs is None else theirs))
        elif theirs is not None:
            pairs.append((torch.zeros_like(theirs), theirs))
    bound = 3e-4 if dtype == torch.float32 else 1e-10
    for ours, theirs in pairs:
        theirs = theirs.detach().reshape(ours.shape)
        scale = max(float(theirs.abs().max()) if theirs.numel() else 0.0, 1e-3)
        off = float((ours - theirs).abs().max()) / scale if theirs.numel() else 0.0
        if not off <= bound:
            raise UnsupportedError(
                f"a compiled step differs from PyTorch's by {off:.1e}: it may mix samples"
            )
