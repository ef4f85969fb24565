#!/usr/bin/env bash
# pytorch-lightning 2.6.6, torch 2.13.0, CPU.
# Six samples in order, batches of one, no shuffling; max_steps=4 stops the trainer within the first epoch of two.
# fit(ckpt_path=...) of what trainer.save_checkpoint then writes goes on with the second epoch: the two steps that
# were left of the first are skipped, and nothing warns. The same four steps in a checkpoint that
# ModelCheckpoint(every_n_train_steps=4) wrote while training went on: the two steps are done, with the loader's
# first two samples in place of samples 4 and 5, and a warning says that the loader is not resumable.
# Output seen (epoch, batch number, sample; and the warnings about resuming):
#   max_steps: [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4), (1, 5, 5)] 0
#   ModelCheckpoint: [(0, 4, 0), (0, 5, 1), (1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4), (1, 5, 5)] 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 pytorch-lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log >&2; exit 1; }
import sys
import warnings

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, number):
        self.seen.append((self.current_epoch, number, int(batch[0])))
        return self.linear(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(checkpoint=None, **options):
    plain = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    model, trainer = Model(), pl.Trainer(max_epochs=2, **plain, **options)
    trainer.fit(model, DataLoader(TensorDataset(torch.arange(6.0)[:, None])), ckpt_path=checkpoint)
    return model, trainer


every = pl.callbacks.ModelCheckpoint("written", every_n_train_steps=4, save_top_k=-1)
fit(callbacks=[every])
_, stopped = fit(max_steps=4)
stopped.save_checkpoint("stopped.ckpt")


def resumed(checkpoint):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model, _ = fit(checkpoint)
    return model.seen, sum("resuming" in str(each.message) for each in said)


found = {
    "max_steps": resumed("stopped.ckpt"),
    "ModelCheckpoint": resumed("written/epoch=0-step=4.ckpt"),
}
for name, (seen, told) in found.items():
    print(f"{name}: {seen} {told}")
second = [(1, k, k) for k in range(6)]
sys.exit(list(found.values()) != [(second, 0), ([(0, 4, 0), (0, 5, 1), *second], 1)])
PYTHON
