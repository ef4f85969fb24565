"""A stock pre-activation ResNet, made layer-parallel without touching it: `Network.from_modules`.

The class below knows nothing of layerparallel; its forward is written the usual way. Handed over as the
modules it calls one after the other, its like blocks become chains, the blocks that change the shape
transitions between them. Parameters and running statistics stay the model's own. Prints how far outputs
and gradients are from the model's, by solver.

The branches of this model begin small (as with zero-initialised or SkipInit branches), so two cycles do.
With branches of the usual size no number of cycles does before the iteration ends by itself; then
`Serial()` is the solver to use (benchmarks/resnet_cycles).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import layerparallel as lp
from layerparallel.solvers.measure import GradientError, compare, gradients

# ---- defined elsewhere --------------------------------------------------------------------------


class PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        nn.init.normal_(self.conv2.weight, std=0.1 * (9 * outputs) ** -0.5)  # begins near the identity

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return skip + self.conv2(F.relu(self.bn2(out)))


class PreActResNet(nn.Module):
    def __init__(self, blocks: int, width: int, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stage1 = self.stage(width, width, blocks, 1)
        self.stage2 = self.stage(width, 2 * width, blocks, 2)
        self.stage3 = self.stage(2 * width, 4 * width, blocks, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)

    @staticmethod
    def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [PreActBlock(outputs, outputs) for _ in range(blocks - 1)]
        return nn.Sequential(PreActBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stage3(self.stage2(self.stage1(self.conv(x))))
        out = F.adaptive_avg_pool2d(F.relu(self.bn(out)), 1)
        return self.fc(out.flatten(1))


# ---- here ---------------------------------------------------------------------------------------


def multigrid(cycles: int) -> lp.MGRIT:
    return lp.MGRIT(coarsening=4, coarse="picard", forward_cycles=cycles, adjoint_cycles=cycles)


SOLVERS = {
    "serial": lp.Serial(),
    "1 + 1 cycles": multigrid(1),
    "2 + 2 cycles": multigrid(2),
    "to the end": multigrid(4),
}
"""Chains of 16, 15 and 15 blocks have at most four intervals of four: exact after as many cycles."""


def main(blocks: int = 16, width: int = 8) -> dict[str, tuple[float, GradientError]]:
    torch.manual_seed(0)
    model = PreActResNet(blocks, width, classes=10)
    x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))

    plain = copy.deepcopy(model)
    output = plain(x)
    F.cross_entropy(output, y).backward()
    exact = gradients(plain)

    head = nn.Sequential(model.bn, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    modules = [model.conv, *model.stage1, *model.stage2, *model.stage3, head]
    net = lp.Network.from_modules(modules, example=x)

    found = {}
    print("solver         output  gradient: error, cosine")
    for name, solver in SOLVERS.items():
        net.solver = solver
        net.zero_grad()
        mine = net(x)
        F.cross_entropy(mine, y).backward()
        difference = float((mine - output).detach().norm() / output.detach().norm())
        error = compare(gradients(model), exact)  # the network's parameters are the model's
        found[name] = difference, error
        print(f"{name:12} {difference:8.1e} {error.relative:16.1e} {error.cosine:8.5f}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
