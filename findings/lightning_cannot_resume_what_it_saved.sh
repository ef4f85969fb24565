#!/usr/bin/env bash
# pytorch-lightning 2.6.6, torch 2.13.0, CPU.
# A checkpoint that Lightning writes with its defaults cannot be read with its defaults, if a hyperparameter is an
# object of any class of one's own, here a frozen dataclass: save_hyperparameters() keeps it, save_checkpoint pickles
# it without a word, and fit(ckpt_path=...) and load_from_checkpoint raise UnpicklingError (weights_only=True).
# torch.serialization.add_safe_globals([Settings]) mends it.
# Output seen:
#   saved
#   load_from_checkpoint: UnpicklingError
#   fit: UnpicklingError
#   fit, Settings allowed: resumed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 pytorch-lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log >&2; exit 1; }
import pickle
import sys
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Settings:
    width: int = 1


class Model(pl.LightningModule):
    def __init__(self, settings):
        super().__init__()
        self.save_hyperparameters()
        self.linear = torch.nn.Linear(1, settings.width)

    def training_step(self, batch):
        return self.linear(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


loader = DataLoader(TensorDataset(torch.ones(2, 1)))


def trainer(epochs):
    return pl.Trainer(accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False)


def fit():
    trainer(2).fit(Model(Settings()), loader, ckpt_path="one.ckpt")
    return "resumed"


def outcome(work):
    try:
        return work()
    except pickle.UnpicklingError as error:
        return type(error).__name__


first = trainer(1)
first.fit(Model(Settings()), loader)
first.save_checkpoint("one.ckpt")
print("saved")
found = {"load_from_checkpoint": outcome(lambda: Model.load_from_checkpoint("one.ckpt"))}
found["fit"] = outcome(fit)
torch.serialization.add_safe_globals([Settings])
found["fit, Settings allowed"] = outcome(fit)
for name, value in found.items():
    print(f"{name}: {value}")
sys.exit(list(found.values()) != ["UnpicklingError", "UnpicklingError", "resumed"])
PYTHON
