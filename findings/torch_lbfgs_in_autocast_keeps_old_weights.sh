#!/usr/bin/env bash
# torch 2.13.0, CPU.
# torch.optim.LBFGS evaluates its closure several times in a step, with other weights each time. Inside one autocast
# region every evaluation uses the casts of the weights that the first one made, since autocast keeps them until the
# region ends. The second loss is that of the first evaluation, so the method stops there, and nothing is said.
# With torch.clear_autocast_cache() in the closure, or a region inside the closure alone, each evaluation uses the
# weights that it is given.
# Output seen:
#   in one region: 2 evaluations, 1 different losses
#   cache cleared: 5 evaluations, 5 different losses
#   region in closure: 5 evaluations, 5 different losses
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import sys

import torch


def losses(around: bool, clear: bool) -> list[float]:
    torch.manual_seed(0)
    net, x = torch.nn.Linear(3, 1), torch.linspace(-1, 1, 24).view(8, 3)
    optimizer, found = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=5), []

    def autocast(on: bool):
        return torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext()

    def closure():
        if clear:
            torch.clear_autocast_cache()
        optimizer.zero_grad()
        with autocast(not around):
            loss = (net(x).float() - 1).square().mean()
        loss.backward()
        found.append(loss.item())
        return loss

    with autocast(around):
        optimizer.step(closure)
    return found


cases = {"in one region": (True, False), "cache cleared": (True, True), "region in closure": (False, False)}
counts = {}
for name, case in cases.items():
    found = losses(*case)
    counts[name] = len(set(found)), len(found)
    print(f"{name}: {len(found)} evaluations, {len(set(found))} different losses")
sys.exit(list(counts.values()) != [(1, 2), (5, 5), (5, 5)])
PYTHON
