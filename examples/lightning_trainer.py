"""Lightning's Trainer: a layer-parallel network stands in a LightningModule like any other.

Handwritten digits by 32 layers in bfloat16, with accumulated and clipped gradients. Training stops
after half of the epochs and goes on from its checkpoint with a new module and a new trainer. Prints
the validation accuracy, propagated serially, and the residual of the last training solve.
"""

import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import layerparallel as lp
from layerparallel import data


class Classifier(pl.LightningModule):
    def __init__(self, solver: lp.Serial | lp.MGRIT, depth: int = 32, width: int = 32):
        super().__init__()
        self.save_hyperparameters()  # the solver is one of them
        self.net = lp.Network(
            opening=nn.Sequential(nn.Flatten(), nn.Linear(64, width)),
            body=lp.chain(lp.Dense(width), depth, T=4.0),
            closing=nn.Linear(width, 10),
            solver=solver,
        )

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = batch
        loss = F.cross_entropy(self.net(images), classes)
        assert self.net.solution is not None
        self.log("loss", loss)
        self.log("residual", self.net.solution.relative_residual)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, classes = batch
        right = self.net(images).argmax(dim=1) == classes
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net.decay_groups(0.01), lr=5e-3)


SOLVER = lp.MGRIT(coarsening=4)


def main(solver: lp.Serial | lp.MGRIT = SOLVER, epochs: int = 6) -> dict[str, float]:
    torch.manual_seed(0)
    digits = data.load("digits")
    prepare = data.Preparation.of(digits)
    training = TensorDataset(prepare(digits.train_x), digits.train_y)
    validation = TensorDataset(prepare(digits.validation_x), digits.validation_y)
    loaders = DataLoader(training, batch_size=32, shuffle=True), DataLoader(validation, batch_size=360)

    def trainer(epochs: int, folder: str) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            precision="bf16-mixed",
            max_epochs=epochs,
            accumulate_grad_batches=2,
            gradient_clip_val=1.0,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,  # by itself; below it is asked to
            enable_model_summary=False,
            enable_progress_bar=False,
        )

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "half.ckpt"
        first = trainer(epochs // 2, folder)
        first.fit(Classifier(solver), *loaders)
        first.save_checkpoint(checkpoint)

        model = Classifier.load_from_checkpoint(checkpoint)  # made with the solver that was saved
        second = trainer(epochs, folder)
        second.fit(model, *loaders, ckpt_path=checkpoint)  # optimiser and epoch go on, too
    found = {name: float(value) for name, value in second.callback_metrics.items()}
    print(f"accuracy {found['accuracy']:.1%}, residual {found['residual']:.1e}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
