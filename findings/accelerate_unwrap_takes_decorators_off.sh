#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0, CPU.
# With mixed precision, unwrap_model(model, keep_fp32_wrapper=False) takes off Accelerate's own wrapper and every
# decorator that the model's author put on forward: whatever leaves __wrapped__, as torch.no_grad() does.
# The unwrapped model then computes something else than before prepare.
# Output seen (whether the output requires a gradient):
#   before prepare: False
#   prepared: False
#   unwrapped: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from accelerate import Accelerator


class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    @torch.no_grad()
    def forward(self, x):
        return self.linear(x)


accelerator = Accelerator(cpu=True, mixed_precision="bf16")
model, x = Frozen(), torch.ones(1, 2)
found = {"before prepare": model(x).requires_grad}
model = accelerator.prepare(model)
found["prepared"] = model(x).requires_grad
model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
found["unwrapped"] = model(x).requires_grad

for name, value in found.items():
    print(f"{name}: {value}")
sys.exit(list(found.values()) != [False, False, True])
PYTHON
