"""Random steps for native loops: up to twelve operations on features, of every kind in the list."""

import random

import torch
from torch import nn

ACTIVATIONS = (
    *(torch.tanh, torch.sigmoid, torch.relu, nn.functional.silu, nn.functional.gelu, nn.functional.elu),
    *(nn.functional.softplus, torch.sin, torch.abs, nn.functional.mish, nn.functional.leaky_relu),
    *(nn.functional.hardtanh, nn.functional.softsign, torch.cos, torch.erf),
)


class Program(nn.Module):
    """Operations drawn by a seed; the value is bounded, so that many steps stay tame."""

    def __init__(self, seed: int, width: int, inputs: int = 0):
        super().__init__()
        self.draw = random.Random(seed)
        self.layers, self.plan = nn.ModuleList(), []
        torch.manual_seed(seed)
        here = width
        for _ in range(self.draw.randint(1, 12)):
            here = self._drawn(here, width)
        if inputs:
            self.plan.append(("input", self._layer(nn.Linear(inputs, here))))
        if here != width:
            self.plan.append(("layer", self._layer(nn.Linear(here, width))))
        self.plan.append(("function", torch.tanh))
        scale = nn.Parameter(torch.rand(width) + 0.5)
        self.scale = scale

    def _layer(self, layer: nn.Module) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def _drawn(self, here: int, width: int) -> int:
        draw = self.draw
        kind = draw.choice(
            [
                "linear",
                "linear",
                "act",
                "act",
                "norm",
                "gate",
                "cat",
                "softmax",
                "mean",
                "slice",
                "residual",
                "again",
                "reshape",
                "bilinear",
                "max",
            ]
        )
        if kind == "linear":
            there = draw.randint(1, 40)
            self.plan.append(("layer", self._layer(nn.Linear(here, there, bias=draw.random() < 0.8))))
            return there
        if kind == "act":
            self.plan.append(("function", draw.choice(ACTIVATIONS)))
        elif kind == "norm":
            norm = draw.choice(
                [nn.LayerNorm, nn.RMSNorm]
            )  # PyTorch's RMSNorm divides by 1.5e-8 at least
            self.plan.append(("layer", self._layer(norm(here, eps=1e-5))))
        elif kind == "gate" and here > 1:
            half = here // 2
            self.plan.append(("gate", half))
            return half
        elif kind == "cat":
            self.plan.append(("cat", None))
            return here + width if here + width <= 40 else self._cut(width)
        elif kind == "softmax":
            self.plan.append(("softmax", None))
        elif kind == "mean":
            self.plan.append(("mean", None))
        elif kind == "slice" and here > 2:
            self.plan.append(("slice", here - 1))
            return here - 1
        elif kind == "residual":
            self.plan.append(("residual", self._layer(nn.Linear(here, here))))
        elif kind == "again" and here == width and self.layers:
            same = [k for k, m in enumerate(self.layers) if isinstance(m, nn.Linear)]
            fits = [k for k in same if self.layers[k].in_features == self.layers[k].out_features == here]
            if fits:
                self.plan.append(("layer", draw.choice(fits)))
        elif kind == "reshape" and here % 2 == 0:
            self.plan.append(("reshape", None))
        elif kind == "bilinear" and here <= 8:
            self.plan.append(("bilinear", self._layer(nn.Bilinear(here, here, here))))
        elif kind == "max":
            self.plan.append(("max", None))
        return here

    def _cut(self, width: int) -> int:
        self.plan[-1] = ("instead", None)
        return width

    def forward(self, u: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        v = u
        for kind, what in self.plan:
            match kind:
                case "layer":
                    v = self.layers[what](v)
                case "input":
                    v = v + self.layers[what](given[0])
                case "function":
                    v = what(v)
                case "gate":
                    v = v[..., :what] * torch.sigmoid(v[..., -what:])
                case "cat":
                    v = torch.cat([v, u], -1)
                case "instead":
                    v = u * v[..., :1]
                case "softmax":
                    v = v.softmax(-1)
                case "mean":
                    v = v - v.mean(-1, keepdim=True)
                case "slice":
                    v = v[..., 1:]
                case "residual":
                    v = v + torch.tanh(self.layers[what](v))
                case "reshape":
                    v = v.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
                case "bilinear":
                    v = torch.tanh(self.layers[what](v, v))
                case "max":
                    unlike = torch.linspace(1, 1.5, v.shape[-1], dtype=v.dtype)  # no two the largest
                    v = v / (1 + (v * unlike).abs().amax(-1, keepdim=True))
        return v * self.scale
