#!/usr/bin/env bash
# accelerate 1.15.0, safetensors 0.8.0, torch 2.13.0, CPU.
# Accelerator.save_state drops parameters that share a storage with another one, although they do not overlap.
# Here a and b are the two halves of one flat tensor. The default (safetensors) file holds a alone; the log says
# "Removed shared tensor {'b'} while saving. This should be OK". Loading raises, and b is lost.
# safetensors.torch.save_file writes both from the same state dict, and so does safe_serialization=False.
# Output seen:
#   save_state: ['a']
#   load_state: RuntimeError
#   save_state(safe_serialization=False): ['a', 'b']
#   safetensors.torch.save_file: ['a', 'b']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 safetensors==0.8.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file


class Halves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        flat = torch.arange(8.0)
        self.a, self.b = torch.nn.Parameter(flat[:4]), torch.nn.Parameter(flat[4:])

    def forward(self, x):
        return self.a * x + self.b


accelerator = Accelerator(cpu=True)
model = accelerator.prepare(Halves())
found = {}

accelerator.save_state("safe")
found["save_state"] = sorted(load_file("safe/model.safetensors"))
try:
    accelerator.load_state("safe")
    found["load_state"] = "loaded"
except RuntimeError as error:
    found["load_state"] = type(error).__name__
accelerator.save_state("pickled", safe_serialization=False)
state = torch.load("pickled/pytorch_model.bin", weights_only=True)
found["save_state(safe_serialization=False)"] = sorted(state)
save_file(model.state_dict(), "plain.safetensors")
found["safetensors.torch.save_file"] = sorted(load_file("plain.safetensors"))

for name, value in found.items():
    print(f"{name}: {value}")
sys.exit(list(found.values()) != [["a"], "RuntimeError", ["a", "b"], ["a", "b"]])
PYTHON
