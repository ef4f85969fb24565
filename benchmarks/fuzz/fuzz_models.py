"""Random models, and what is changed about them between two steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fuzz_blocks import RANDOM, WIDTH, Block, Tempered
from torch import Tensor, nn
from torch.nn.utils import prune

import layerparallel as lp

BATCH, SHORT = 5, 4
"""Samples, and steps of a chain that MGRIT solves exactly in as many cycles."""


@dataclass(frozen=True)
class Model:
    """One random model.

    Attributes:
        features: of every block.
        body: how the blocks are given to the library.
        solver: by which it is propagated.
        change: what is done to it behind the first step.
        depth: number of blocks.
    """

    features: tuple[str, ...]
    body: str
    solver: str
    change: str
    depth: int
    seed: int

    @property
    def masked(self) -> bool:
        return "a mask in the state" in self.features

    @property
    def paired(self) -> bool:
        return "a pair" in self.features and not self.masked

    @property
    def drops(self) -> bool:
        """Whether it draws masks that are not those of plain PyTorch."""
        return bool(RANDOM & set(self.features)) or (
            "dropout of 0" in self.features and self.change == "dropout switched on"
        )

    def blocks(self) -> list[nn.Module]:
        torch.manual_seed(self.seed)
        kind = Tempered if "argument t" in self.features else Block
        return [kind(self.features, k).double() for k in range(1 if self.body == "tied" else self.depth)]

    def encoder(self) -> nn.Module:
        torch.manual_seed(self.seed + 1)
        return nn.Linear(3, WIDTH).double()

    def whole(self) -> nn.Module:
        """Encoder and blocks, all that is trained."""
        return nn.ModuleDict({"encoder": self.encoder(), "blocks": nn.ModuleList(self.blocks())})


def solver(name: str, depth: int) -> Any:
    """One that is exact."""
    if name == "serial":
        return lp.Serial()
    if name == "recomputed":
        return lp.Serial("recompute")
    cycles = -(-depth // 2) + 1
    memory = "recompute" if "recomputed" in name else "store"
    return lp.MGRIT(
        coarsening=2,
        forward_cycles=cycles,
        adjoint_cycles=cycles,
        memory=memory,
        guard=False,
        coarse="inject",
    )


class Plain(nn.Module):
    """The blocks one after the other, as anyone would write it."""

    def __init__(self, model: Model, whole: Any):
        super().__init__()
        self.model, self.whole = model, whole

    def chain(self, u: Any) -> Any:
        for k in range(self.model.depth):
            u = self.whole["blocks"][0 if self.model.body == "tied" else k](u)
        return u

    def forward(self, x: Tensor) -> Tensor:
        begin = self.whole["encoder"](x)
        if "a tensor held" in self.model.features:
            for block in self.modules():
                if isinstance(block, Block):
                    block.memory = torch.sin(begin)
        state: Any = begin
        if self.model.masked:
            state = begin, x[:, :1].expand(-1, WIDTH) > 1.0
        elif self.model.paired:
            state = begin, torch.cos(begin)
        end = self.chain(state)
        return end[0] if isinstance(end, tuple) else end


class Ours(Plain):
    """The blocks as a chain of the library."""

    def __init__(self, model: Model, whole: Any):
        super().__init__(model, whole)
        blocks = list(whole["blocks"])
        if model.body == "tied":
            body = lp.chain(blocks[0], model.depth, integrator="block", tied=True)
        elif model.body == "from modules":
            body = None
        else:
            body = lp.chain(blocks, integrator="block", stacked=model.body == "stacked")
        exact = solver(model.solver, model.depth)
        if body is not None:
            self.net = lp.Network(None, body, None, exact)
        else:
            example: Any = torch.zeros(BATCH, WIDTH, dtype=torch.double)
            if model.masked:
                example = example, torch.zeros(BATCH, WIDTH, dtype=torch.bool)
            elif model.paired:
                example = example, example.clone()
            if "a tensor held" in model.features:
                for block in blocks:
                    block.memory = torch.zeros(BATCH, WIDTH, dtype=torch.double)
            self.net = lp.Network.from_modules(blocks, example)
            self.net.solver = exact
        self.net.evaluate_with = exact

    def chain(self, u: Any) -> Any:
        return self.net(u)


CHANGES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda whole: None,
    "frozen later": lambda whole: [b.fc.requires_grad_(False) for b in whole["blocks"]],
    "encoder frozen": lambda whole: whole["encoder"].requires_grad_(False),
    "evaluation": lambda whole: whole.eval(),
    "dropout switched on": lambda whole: [
        setattr(part, "p", 0.4) for part in whole.modules() if isinstance(part, nn.Dropout)
    ],
    "loaded": lambda whole: whole.load_state_dict(
        {name: 0.9 * v if v.is_floating_point() else v for name, v in whole.state_dict().items()},
        assign=True,
    ),
    "pruned later": lambda whole: [
        prune.l1_unstructured(b.fc, "weight", 0.5)
        for b in whole["blocks"]
        if "weight" in b.fc._parameters
    ],
    "replaced": lambda whole: [setattr(b, "fc", _bigger(b.fc)) for b in whole["blocks"]],
    "batch norm in evaluation": lambda whole: [
        part.eval() for part in whole.modules() if isinstance(part, nn.BatchNorm1d)
    ],
    "a hook later": lambda whole: [
        b.fc.register_forward_hook(lambda module, given, out: out * 1.25) for b in whole["blocks"]
    ],
}
"""By name; the same for a copy of the model in plain PyTorch."""


def _bigger(fc: nn.Module) -> nn.Module:
    """An adapter around a layer."""
    new = nn.Linear(WIDTH, WIDTH).double()
    nn.init.eye_(new.weight)
    nn.init.zeros_(new.bias)
    return nn.Sequential(copy.deepcopy(fc), new)
