"""Models as networks of ours, as plain PyTorch, and as their users have them now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

import jax_scan
import torch
from baselines import COMPILED, CompiledBlocks, gradient_of
from jax_scan import affine, cross_entropy, scanned
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp

CLASSES, BATCH = 5, 32
JAX = "JAX's compiled scan"
Step = Callable[[], None]


@dataclass
class Model:
    """One row of the table.

    Attributes:
        net: ours.
        plain: ordinary PyTorch, eager, as anyone would write it.
        instead: what its users take instead, by name; what is not installed is left out.
        found: of some of these, a gradient that they found, and the parameter of `plain` it belongs to.
    """

    name: str
    about: str
    net: lp.Network
    x: Tensor
    y: Tensor
    plain: nn.Module
    instead: dict[str, Step] = field(default_factory=dict)
    found: dict[str, tuple[str, Callable[[], Tensor]]] = field(default_factory=dict)

    def with_jax(
        self,
        loss: Callable[..., Any],
        parameters: dict[str, Any],
        name: str,
        at: Callable[[Any], Tensor],
    ) -> Model:
        """With JAX's scan, in whose gradient `at` finds that of the parameter `name`."""
        made = jax_scan.gradient(loss, parameters, self.x, self.y)
        if made is not None:
            self.instead[JAX], told = made
            self.found[JAX] = name, lambda: at(told())
        return self


def _drawn(*shape: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Inputs of this shape behind the batch, and classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=generator)
    return x, torch.randint(CLASSES, (batch,), generator=generator)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def _ends(serial: Any) -> dict[str, Any]:
    return {"opening": _state(serial.opening), "closing": _state(serial.closing)}


def _of_layers(
    name: str, about: str, layer: nn.Module, width: int, depth: int, step: Any, batch: int = BATCH
) -> Model:
    """A residual chain, every layer with its own parameters; `step` is F(u, parameters) in JAX."""
    torch.manual_seed(0)
    body = lp.chain(layer, depth, T=5.0)
    net = lp.Network(nn.Linear(2, width), body, nn.Linear(width, CLASSES))
    serial: Any = net.to_serial()
    (x, y), h = _drawn(2, batch=batch), body.h
    model = Model(name, f"{about}, {depth} layers", net, x, y, serial)
    model.instead[COMPILED] = gradient_of(CompiledBlocks(serial), x, y)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        u = affine(parameters["opening"], x)
        u = scanned(lambda v, p: v + h * step(v, p), u, parameters["body"])
        return cross_entropy(affine(parameters["closing"], u), y)

    layers = [_state(each) for each in serial.body]
    stacks = {key: torch.stack([each[key] for each in layers]) for key in layers[0]}
    key = next(iter(stacks))
    given = {**_ends(serial), "body": stacks}
    return model.with_jax(loss, given, f"body.0.{key}", lambda found: found["body"][key][0])


def built_in(depth: int = 1024) -> Model:
    def step(u: Any, p: Any) -> Any:
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

        return jnp.tanh(affine(p, u))

    return _of_layers("built-in layer", "`lp.Dense(8)`", lp.Dense(8), 8, depth, step)


def own_module(depth: int = 1024, width: int = 8, batch: int = BATCH) -> Model:
    def step(u: Any, p: Any) -> Any:
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

        return jnp.tanh(u @ p["0.weight"].T + p["0.bias"])

    layer = nn.Sequential(nn.Linear(width, width), nn.Tanh())
    about = f"`nn.Linear({width}, {width})`, `nn.Tanh()`"
    return _of_layers("own module", about, layer, width, depth, step, batch)


def residual_mlp(depth: int = 256, batch: int = BATCH) -> Model:
    def step(u: Any, p: Any) -> Any:
        import jax  # pyright: ignore[reportMissingImports]

        centred = u - u.mean(-1, keepdims=True)
        norm = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        v = norm * p["0.weight"] + p["0.bias"]
        v = jax.nn.gelu(v @ p["1.weight"].T + p["1.bias"], approximate=False)
        return v @ p["3.weight"].T + p["3.bias"]

    layer = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    name = "residual MLP with LayerNorm"
    return _of_layers(name, "LayerNorm, 16-64-16, GELU", layer, 16, depth, step, batch)


class _Right(nn.Module):
    """dy/dt = F(y), as torchdiffeq calls it."""

    def __init__(self, F: nn.Module):
        super().__init__()
        self.F = F

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.F(y)


def neural_ode(
    depth: int = 1024, batch: int = BATCH, method: Literal["euler", "rk4"] = "euler"
) -> Model:
    torch.manual_seed(0)
    width = 8
    F = nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, width))
    body = lp.chain(F, depth, T=5.0, tied=True, integrator=method)
    net = lp.Network(nn.Linear(2, width), body, nn.Linear(width, CLASSES))
    serial: Any = net.to_serial()
    (x, y), h = _drawn(2, batch=batch), body.h
    about = f"tied MLP 8-32-8, {depth} steps of {method}"
    model = Model("neural ODE", about, net, x, y, serial)
    if find_spec("torchdiffeq"):
        from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

        right, times = _Right(serial.body.layer), torch.tensor([0.0, 5.0])

        class Solved(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.serial = serial  # whose gradients are set to None

            def forward(self, x: Tensor) -> Tensor:
                how: Any = {"method": method, "options": {"step_size": h}}
                return serial.closing(odeint(right, serial.opening(x), times, **how)[-1])

        model.instead["torchdiffeq"] = gradient_of(Solved(), x, y)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

        p = parameters["body"]

        def F(u: Any) -> Any:
            v = jnp.tanh(u @ p["0.weight"].T + p["0.bias"])
            return v @ p["2.weight"].T + p["2.bias"]

        def step(u: Any, _: Any) -> Any:
            k1 = F(u)
            if method == "euler":
                return u + h * k1
            k2 = F(u + h / 2 * k1)
            k3 = F(u + h / 2 * k2)
            return u + h / 6 * (k1 + 2 * k2 + 2 * k3 + F(u + h * k3))

        u = scanned(step, affine(parameters["opening"], x), None, depth)
        return cross_entropy(affine(parameters["closing"], u), y)

    given = {**_ends(serial), "body": _state(serial.body.layer)}
    name = "body.layer.0.weight"
    return model.with_jax(loss, given, name, lambda found: found["body"]["0.weight"])


class _Series(nn.Module):
    """Inputs (B, N, d) as those of a chain, in front of a state of zeros."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> lp.Driven:
        return lp.Driven(x.new_zeros(len(x), self.width), x.transpose(0, 1).contiguous())


class _Cell(nn.Module):
    """A recurrent cell as a step: state first."""

    def __init__(self, cell: nn.GRUCell):
        super().__init__()
        self.cell = cell

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.cell(x, h)


def recurrence(length: int = 1000, width: int = 16, batch: int = BATCH) -> Model:
    torch.manual_seed(0)
    inputs = 4
    body = lp.chain(_Cell(nn.GRUCell(inputs, width)), length, integrator="block", tied=True)
    net = lp.Network(_Series(width), body, nn.Linear(width, CLASSES))
    serial: Any = net.to_serial()
    x, y = _drawn(length, inputs, batch=batch)
    gru = nn.GRU(inputs, width, batch_first=True)
    state = _state(serial.body.layer.cell)
    gru.load_state_dict({f"{name}_l0": value for name, value in state.items()})

    class Plain(nn.Module):
        """nn.GRU, which is what plain PyTorch has for it."""

        def __init__(self) -> None:
            super().__init__()
            self.gru, self.closing = gru, serial.closing

        def forward(self, x: Tensor) -> Tensor:
            return self.closing(self.gru(x)[1][0])

    model = Model("recurrence", f"GRU of width {width}, {length} steps, `nn.GRU`", net, x, y, Plain())

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        import jax  # pyright: ignore[reportMissingImports]
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

        p = parameters["cell"]
        driven = x.swapaxes(0, 1) @ p["weight_ih"].T + p["bias_ih"]

        def step(h: Any, a: Any) -> Any:
            b = h @ p["weight_hh"].T + p["bias_hh"]
            r, z = (jax.nn.sigmoid(a[:, k : k + width] + b[:, k : k + width]) for k in (0, width))
            n = jnp.tanh(a[:, 2 * width :] + r * b[:, 2 * width :])
            return (1 - z) * n + z * h

        h = scanned(step, jnp.zeros((x.shape[0], width)), driven)
        return cross_entropy(affine(parameters["closing"], h), y)

    given = {"cell": state, "closing": _state(serial.closing)}
    return model.with_jax(loss, given, "gru.weight_hh_l0", lambda found: found["cell"]["weight_hh"])


def _compiled(name: str, about: str, net: lp.Network, x: Tensor, y: Tensor) -> Model:
    plain = net.to_serial()
    model = Model(name, about, net, x, y, plain)
    model.instead["torch.compile"] = gradient_of(torch.compile(plain, dynamic=False), x, y)  # type: ignore[arg-type]
    return model


def resnet(depth: int = 56) -> Model:
    from layerparallel.models import resnet as built

    torch.manual_seed(0)
    net = built(depth, classes=CLASSES)
    return _compiled("ResNet", f"ResNet-{depth} for CIFAR-10, images of 32×32", net, *_drawn(3, 32, 32))


def transformer(depth: int = 12) -> Model:
    torch.manual_seed(0)
    width = 64
    blocks = [
        nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, functional.gelu, batch_first=True, norm_first=True
        )
        for _ in range(depth)
    ]
    body = lp.chain(blocks, integrator="block", stacked=True)
    opening = nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Flatten(2), _Tokens())
    net = lp.Network(opening, body, nn.Sequential(_Mean(), nn.Linear(width, CLASSES)))
    return _compiled("ViT", f"{depth} blocks of width {width}, 16 tokens", net, *_drawn(3, 32, 32))


class _Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


MODELS: tuple[Callable[..., Model], ...] = (
    built_in,
    own_module,
    neural_ode,
    recurrence,
    residual_mlp,
    resnet,
    transformer,
)
