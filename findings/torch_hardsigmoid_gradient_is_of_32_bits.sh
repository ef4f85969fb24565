#!/usr/bin/env bash
# torch 2.13.0, CPU.
# The gradient of hardsigmoid, min(max(x + 3, 0), 6) / 6, is 1/6 inside. In float64 it is 1/6 rounded to 32 bits, off by
# 3e-8 of it. Its value, and the gradient of hardswish, which has the same division, are right to float64's rounding.
# Output seen:
#   value off by: 0.0
#   gradient: 0.1666666716337204, which is 1/6 in float32: True
#   gradient of hardswish off by: 1.1102230246251565e-16
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.nn import functional

x = torch.ones(1, dtype=torch.float64, requires_grad=True)
value = functional.hardsigmoid(x)
(gradient,) = torch.autograd.grad(value.sum(), x)
(swish,) = torch.autograd.grad(functional.hardswish(x).sum(), x)

value_off = abs(value.item() - 4 / 6)
single = gradient.item() == torch.tensor(1 / 6, dtype=torch.float32).item()
swish_off = abs(swish.item() - 5 / 6)
print(f"value off by: {value_off}")
print(f"gradient: {gradient.item()}, which is 1/6 in float32: {single}")
print(f"gradient of hardswish off by: {swish_off}")
sys.exit(not (value_off < 1e-15 and single and gradient.item() != 1 / 6 and swish_off < 1e-15))
PYTHON
