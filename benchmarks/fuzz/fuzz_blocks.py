"""Features of blocks that people write: each is drawn by itself, and any may meet any other.

A feature changes a block when it is made, or what the block does in its forward.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

WIDTH = 6
F = nn.functional


class Block(nn.Module):
    """``u + 0.1 branch(u)``, with features before, inside and behind the branch."""

    def __init__(self, features: tuple[str, ...], place: int):
        super().__init__()
        self.features, self.fc = features, nn.Linear(WIDTH, WIDTH)
        for name in features:
            if name in MADE:
                MADE[name](self, place)

    def forward(self, u: Any) -> Any:
        rest: Any = ()
        if isinstance(u, tuple):
            u, *others = u
            rest = tuple(others)
        for name in self.features:
            if name in BEFORE:
                u = BEFORE[name](self, u)
        if "checkpoint" in self.features:
            v = checkpoint(self.branch, u, use_reentrant=False)
        elif "reentrant checkpoint" in self.features:
            v = checkpoint(self.branch, u, use_reentrant=True)
        else:
            v = self.branch(u)
        if "a mask in the state" in self.features:
            v = v.masked_fill(rest[0], 0.0)
        if rest and "a pair" in self.features:
            return u + 0.1 * v, rest[0] + 0.1 * torch.sin(u)
        return (u + 0.1 * v, *rest) if rest else u + 0.1 * v

    def branch(self, u: Tensor) -> Tensor:
        v = torch.tanh(self.fc(u))
        for name in self.features:
            if name in BEHIND:
                v = BEHIND[name](self, v)
        return v


class Tempered(Block):
    """With an argument t of its own, which is no time."""

    def forward(self, u: Any, t: float | None = None) -> Any:
        return super().forward(u if t is None else u / t)


# ---- what is made with the block ------------------------------------------------------------------


def _module(name: str, make: Callable[[], nn.Module]) -> Callable[[Block, int], None]:
    return lambda block, place: block.add_module(name, make())


def _buffer(block: Block, place: int) -> None:
    block.register_buffer("scale", torch.full((), 1.5))


def _state_buffer(block: Block, place: int) -> None:
    block.register_buffer("mean", torch.zeros(WIDTH))


def _counter(block: Block, place: int) -> None:
    block.register_buffer("count", torch.zeros(()))


def _spare(block: Block, place: int) -> None:
    block.spare = nn.Linear(WIDTH, WIDTH)


def _frozen(block: Block, place: int) -> None:
    block.fc.bias.requires_grad_(False)


def _shared_inside(block: Block, place: int) -> None:
    block.second = nn.Linear(WIDTH, WIDTH)
    block.second.weight = block.fc.weight


def _weight_norm(block: Block, place: int) -> None:
    parametrizations.weight_norm(block.fc)


def _orthogonal(block: Block, place: int) -> None:
    parametrizations.orthogonal(block.fc)


def _spectral(block: Block, place: int) -> None:
    parametrizations.spectral_norm(block.fc)


def _pruned(block: Block, place: int) -> None:
    prune.l1_unstructured(block.fc, "weight", 0.3)


def _larger(module: nn.Module, given: Any, out: Any) -> Any:
    return 1.5 * out


def _hook(block: Block, place: int) -> None:
    block.fc.register_forward_hook(_larger)


def _outer_hook(block: Block, place: int) -> None:
    block.register_forward_hook(lambda module, given, out: out)


def _pre_hook(block: Block, place: int) -> None:
    block.fc.register_forward_pre_hook(lambda module, given: (given[0] + 0.5,))


def _parameter_hook(block: Block, place: int) -> None:
    block.fc.weight.register_hook(lambda g: 2 * g) if isinstance(block.fc.weight, nn.Parameter) else None


def _setting(block: Block, place: int) -> None:
    vars(block)["setting"] = {"gain": 1.0 + 0.1 * place}


def _complex(block: Block, place: int) -> None:
    block.spectrum = nn.Parameter(0.1 * torch.randn(WIDTH // 2 + 1, dtype=torch.cdouble))


def _nested(block: Block, place: int) -> None:
    parts = nn.ModuleList([nn.ModuleDict({"one": nn.Linear(WIDTH, WIDTH)})])
    block.nested = nn.ModuleDict({"list": parts})


MADE: dict[str, Callable[[Block, int], None]] = {
    "layer norm": _module("layer_norm", lambda: nn.LayerNorm(WIDTH)),
    "batch norm": _module("batch_norm", lambda: nn.BatchNorm1d(WIDTH)),
    "batch norm without memory": _module(
        "bare_norm", lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False)
    ),
    "instance norm": _module("instance", lambda: nn.InstanceNorm1d(WIDTH, track_running_stats=True)),
    "group norm": _module("group_norm", lambda: nn.GroupNorm(2, WIDTH)),
    "dropout": _module("dropout", lambda: nn.Dropout(0.3)),
    "dropout of 0": _module("dropout", lambda: nn.Dropout(0.0)),
    "gru cell": _module("gru", lambda: nn.GRUCell(WIDTH, WIDTH)),
    "embedding": _module("table", lambda: nn.Embedding(4, WIDTH)),
    "attention": _module("attention", lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
    "a buffer": _buffer,
    "a counter": _counter,
    "a buffer bound anew": _state_buffer,
    "an unused layer": _spare,
    "a frozen bias": _frozen,
    "shared weights inside": _shared_inside,
    "weight norm": _weight_norm,
    "orthogonal": _orthogonal,
    "spectral norm": _spectral,
    "pruned": _pruned,
    "a forward hook": _hook,
    "an outer hook": _outer_hook,
    "a forward pre-hook": _pre_hook,
    "a hook of a parameter": _parameter_hook,
    "a setting of its own": _setting,
    "complex weights": _complex,
    "nested containers": _nested,
}


# ---- what happens before the branch ----------------------------------------------------------------


def _relu_in_place(block: Block, u: Tensor) -> Tensor:
    return F.relu(u, inplace=True)


def _shifted_in_place(block: Block, u: Tensor) -> Tensor:
    return u.add_(0.01)


BEFORE: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "relu in place": _relu_in_place,
    "a shift in place": _shifted_in_place,
}


# ---- what happens behind the layer -----------------------------------------------------------------


def _count(block: Any, v: Tensor) -> Tensor:
    if block.training:
        block.count += 1
    return v


def _bound(block: Any, v: Tensor) -> Tensor:
    if block.training:
        block.mean = 0.9 * block.mean + 0.1 * v.detach().mean(0)
    return v


def _auxiliary(block: Any, v: Tensor) -> Tensor:
    block.auxiliary = v.square().mean()
    return v


def _drop_path(block: Any, v: Tensor) -> Tensor:
    if not block.training:
        return v
    return v * v.new_empty(len(v), 1).bernoulli_(0.98) / 0.98


def _noise(block: Any, v: Tensor) -> Tensor:
    return v + 1e-3 * torch.randn_like(v) if block.training else v


def _skipped(block: Any, v: Tensor) -> Tensor:
    return v if random.random() < 0.98 else 0 * v


def _branching(block: Any, v: Tensor) -> Tensor:
    return v if float(v.detach().sum()) > 0 else 0.5 * v


def _spectral_product(block: Any, v: Tensor) -> Tensor:
    return v + torch.fft.irfft(torch.fft.rfft(v) * block.spectrum, n=WIDTH)


class Doubled(torch.autograd.Function):
    """An operation of the user's own."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return 2 * v

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


BEHIND: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "layer norm": lambda block, v: block.layer_norm(v),
    "batch norm": lambda block, v: block.batch_norm(v),
    "batch norm without memory": lambda block, v: block.bare_norm(v),
    "instance norm": lambda block, v: block.instance(v[:, :, None].expand(-1, -1, 3)).mean(2),
    "group norm": lambda block, v: block.group_norm(v),
    "dropout": lambda block, v: block.dropout(v),
    "dropout of 0": lambda block, v: block.dropout(v),
    "gru cell": lambda block, v: block.gru(v, v),
    "embedding": lambda block, v: v + block.table(torch.arange(len(v)) % 4),
    "attention": lambda block, v: v + block.attention(v[:, None], v[:, None], v[:, None])[0][:, 0],
    "a buffer": lambda block, v: block.scale * v,
    "a counter": _count,
    "a buffer bound anew": _bound,
    "shared weights inside": lambda block, v: block.second(v),
    "a setting of its own": lambda block, v: vars(block)["setting"]["gain"] * v,
    "complex weights": _spectral_product,
    "nested containers": lambda block, v: block.nested["list"][0]["one"](v),
    "an auxiliary loss": _auxiliary,
    "drop path": _drop_path,
    "noise": _noise,
    "skipped at random": _skipped,
    "a branch": _branching,
    "in place inside": lambda block, v: v.mul(1.1).clamp_(-0.9, 0.9),
    "detached inside": lambda block, v: v + v.detach().abs(),
    "an autograd function": lambda block, v: Doubled.apply(v),
    "a sort": lambda block, v: v.sort(dim=1).values,
    "single precision inside": lambda block, v: v.float().double(),
    "functional dropout in place": lambda block, v: _dropped(block, v),
    "a tensor held": lambda block, v: v + block.memory,
}


def _dropped(block: Any, v: Tensor) -> Tensor:
    v = v.clone()
    F.dropout(v, 0.2, training=block.training, inplace=True)
    return v


EXTRA = ("checkpoint", "reentrant checkpoint", "a mask in the state", "a pair", "argument t")
FEATURES = tuple(dict.fromkeys([*MADE, *BEFORE, *BEHIND, *EXTRA]))
RANDOM = frozenset(["dropout", "functional dropout in place"])
"""Known to the library, by other masks than plain PyTorch's."""
