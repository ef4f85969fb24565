"""Steps for tests of native loops, and how a loop is held against autograd."""

import torch
from torch import nn
from torch.func import functional_call

from layerparallel.chains.native.kernel import Kernel, target
from layerparallel.chains.native.trace import Example, trace


class Calls(nn.Module):
    """A module called with the state and whatever else, by a function."""

    def __init__(self, call, *modules):
        super().__init__()
        self.inside, self.call = nn.ModuleList(modules), call

    def forward(self, *given):
        return self.call(*given, *self.inside)


class Rows(nn.Module):
    """Every sample is several rows that mix: attention, written out."""

    def __init__(self, width=4):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, u):
        scores = self.query(u) @ self.key(u).transpose(-1, -2)
        return torch.tanh((0.2 * scores).softmax(-1) @ u)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def stepper(module, names, stacked, parts):
    """``u + h module(u, ...)`` as `trace` calls it, with parameters of the step's own or shared."""

    def step(u, own, shared, t, h):
        tensors = dict(zip(names, own if stacked else shared, strict=True))
        inputs = () if stacked else tuple(own)
        state = u[0] if parts == 1 else tuple(u)
        found = as_tuple(functional_call(module, tensors, (state, *inputs)))
        return [a + h * b for a, b in zip(u, found, strict=True)]

    return step


def drawn(module, shape, *, batch, steps, stacked, inputs, parts, dtype, seed=0):
    """State, own and shared tensors for a chain of `steps` steps of a module."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, dtype=dtype, generator=generator)

    parameters = [p.detach().clone() for p in module.to(dtype).parameters()]
    u = [normal(batch, *shape) for _ in range(parts)]
    if stacked:
        own = [torch.stack([p + 0.1 * normal(*p.shape) for _ in range(steps)]) for p in parameters]
        return u, own, []
    own = [normal(steps, batch, inputs)] if inputs else []
    return u, own, parameters


def largest_error(
    module,
    shape=(8,),
    *,
    batch=3,
    steps=5,
    stacked=False,
    inputs=0,
    parts=1,
    dtype=torch.float64,
    keep=True,
    goal=None,
    seed=0,
):
    """Of a compiled walk against autograd in float64, over the largest of each: states and gradients.

    In 32 bits, where eager PyTorch is off by more than 1e-5, over that in units of 1e-5.
    """
    names = [name for name, _ in module.named_parameters()]
    u, own, shared = drawn(
        module,
        shape,
        batch=batch,
        steps=steps,
        stacked=stacked,
        inputs=inputs,
        parts=parts,
        dtype=dtype,
        seed=seed,
    )
    step = stepper(module, names, stacked, parts)
    alone = tuple(p[0] for p in own) if stacked else tuple(x[0, :1] for x in own)
    program = trace(step, Example(tuple(a[:1] for a in u), alone, tuple(shared), not stacked))
    kernel = Kernel.of(program, goal or target(batch, dtype.itemsize), keep)
    size, adjoint = 0.3, [torch.cos(a) for a in u]
    given = u, own, shared, adjoint, steps, size
    ours = walked(kernel, *given)
    exact = differentiated(step, module.double(), *given, torch.float64)
    worst = worst_of(ours, exact)
    if dtype == torch.float64:
        return worst
    eager = differentiated(step, module.to(dtype), *given, dtype)
    return worst / max(1.0, worst_of(eager, exact) / 1e-5)


def worst_of(ours, exact):
    """The largest difference of a tensor, over its largest element."""
    worst = 0.0
    for a, b in zip(ours, exact, strict=True):
        if a is None or b is None:
            assert a is None or not a.any()
            assert b is None or not b.any()
            continue
        scale = max(float(b.abs().max()), 1e-3)
        worst = max(worst, float((a.double() - b).abs().max()) / scale)
    return worst


def walked(kernel, u, own, shared, adjoint, steps, size):
    """By the kernel: the last state, the adjoint of the first, all gradients."""
    dtype, batch = u[0].dtype, u[0].shape[0]
    common = {"length": steps, "walked": steps, "h": size, "own": own, "shared": shared}
    common["times"] = torch.zeros(steps, 1, dtype=dtype)
    tape = torch.empty(kernel.tape_shape(steps, batch), dtype=dtype)
    end, back = ([torch.empty(1, *a.shape, dtype=dtype) for a in u] for _ in range(2))
    kernel("forward", start=[a[None] for a in u], end=end, tape=tape, **common)
    gradients = [
        [torch.zeros_like(a) if kernel.written(role, k) else None for k, a in enumerate(given)]
        for role, given in (("own", own), ("shared", shared))
    ]
    kernel(
        "backward",
        start=[a[None].contiguous() for a in adjoint],
        end=back,
        tape=tape,
        own_gradient=gradients[0],
        shared_gradient=gradients[1],
        collect=True,
        **common,
    )
    return [*(a[0] for a in (*end, *back)), *gradients[0], *gradients[1]]


def differentiated(step, module, u, own, shared, adjoint, steps, size, dtype):
    """The same by autograd, in a dtype."""
    leaves = [a.to(dtype).clone().requires_grad_() for a in (*u, *own, *shared)]
    first, rest = leaves[: len(u)], leaves[len(u) :]
    mine, all_have = rest[: len(own)], rest[len(own) :]
    state = list(first)
    time, h = torch.zeros(1, dtype=dtype), torch.tensor(size, dtype=dtype)
    for n in range(steps):
        state = step(state, [a[n] for a in mine], all_have, time, h)
    found = torch.autograd.grad(state, leaves, [a.to(dtype) for a in adjoint], allow_unused=True)
    return [*(a.detach() for a in state), *found]
