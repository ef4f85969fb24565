"""Networks whose modules keep something beside their tensors (`get_extra_state`)."""

from typing import Any

import torch
from torch import nn

import layerparallel as lp


class Scaled(nn.Module):
    """Keeps a scale that is neither parameter nor buffer, in whatever form `kept` gives it."""

    def __init__(self, scale: float, kept: type = dict):
        super().__init__()
        self.linear, self.scale, self.kept = nn.Linear(3, 3), scale, kept

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.tanh(self.linear(u))

    def get_extra_state(self) -> Any:
        value = torch.tensor([self.scale])
        return {dict: {"scale": self.scale, "more": [value]}, torch.Tensor: value}[self.kept]

    def set_extra_state(self, state: Any) -> None:
        self.scale = float(state["scale"] if self.kept is dict else state)


def network(kind: str, scale: float, kept: type = dict) -> lp.Network:
    layers = [Scaled(scale + n * (kind == "unlike"), kept) for n in range(4)]
    body = {
        "template": lambda: lp.chain(layers[0], 4),
        "stacked": lambda: lp.chain(layers, stacked=True),
        "unlike": lambda: lp.chain(layers),
        "tied": lambda: lp.chain(layers[0], 4, tied=True),
        "two": lambda: [lp.chain(layers[0], 4), Scaled(scale, kept), lp.chain(layers)],
    }[kind]()
    return lp.Network(Scaled(scale, kept), body, nn.Linear(3, 2), lp.MGRIT(coarsening=2))
