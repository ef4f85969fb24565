"""Accelerate: the bare loop, with a layer-parallel network among what `prepare` is given.

Handwritten digits by 32 layers in bfloat16, with accumulated and clipped gradients. After half of the
epochs all state is saved; then it is loaded into a new network and optimiser, which go on. Prints the
validation accuracy, propagated serially, and the residual of the last training solve.
"""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import layerparallel as lp
from layerparallel import data


def network(solver: lp.Serial | lp.MGRIT, depth: int = 32, width: int = 32) -> lp.Network:
    return lp.Network(
        opening=nn.Sequential(nn.Flatten(), nn.Linear(64, width)),
        body=lp.chain(lp.Dense(width), depth, T=4.0),
        closing=nn.Linear(width, 10),
        solver=solver,
    )


SOLVER = lp.MGRIT(coarsening=4)


def main(solver: lp.Serial | lp.MGRIT = SOLVER, epochs: int = 6) -> dict[str, float]:
    torch.manual_seed(0)
    digits = data.load("digits")
    prepare = data.Preparation.of(digits)
    training = TensorDataset(prepare(digits.train_x), digits.train_y)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)

    def prepared() -> tuple[lp.Network, torch.optim.Optimizer, DataLoader]:
        net = network(solver)
        optimizer = torch.optim.AdamW(net.decay_groups(0.01), lr=5e-3)
        return accelerator.prepare(net, optimizer, DataLoader(training, batch_size=32, shuffle=True))

    def train(net: lp.Network, optimizer: torch.optim.Optimizer, loader: DataLoader) -> float:
        for _ in range(epochs // 2):
            for images, classes in loader:
                with accelerator.accumulate(net):
                    loss = F.cross_entropy(net(images), classes)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
        assert net.solution is not None
        return net.solution.relative_residual

    with tempfile.TemporaryDirectory() as folder:
        train(*prepared())
        accelerator.save_state(folder)

        accelerator.free_memory()  # forgets what it had prepared
        net, optimizer, loader = prepared()
        accelerator.load_state(folder)
    residual = train(net, optimizer, loader)

    plain = accelerator.unwrap_model(net, keep_fp32_wrapper=False).eval()
    with torch.no_grad():
        right = plain(prepare(digits.validation_x)).argmax(dim=1) == digits.validation_y
    found = {"accuracy": right.double().mean().item(), "residual": residual}
    print(f"accuracy {found['accuracy']:.1%}, residual {residual:.1e}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
