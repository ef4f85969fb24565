"""Process groups of one's own as docs/ranks.md makes them; a rank fails in the first attempt."""

import os
import re
import sys
from pathlib import Path

import torch
from torch import nn

import layerparallel as lp

page = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text()
blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
names: dict = {}
exec(next(block for block in blocks if "PrefixStore" in block), names)

mesh = names["own_mesh"]()
torch.manual_seed(0)
net = lp.Network(nn.Linear(3, 4), lp.chain(lp.Dense(4), 6), nn.Linear(4, 2), lp.MGRIT(coarsening=2))
lp.distribute(net, mesh["layer"])
net(torch.ones(5, 3)).sum().backward()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and mesh.get_rank() == 1:
    sys.exit("failed on purpose")
print(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} of rank {mesh.get_rank()} is done")
names["dist"].destroy_process_group()
