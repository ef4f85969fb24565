#!/usr/bin/env bash
# torch 2.13.0, CPU.
# torch.distributed.checkpoint.load copies what was saved into tensors of any other dtype and says nothing: 0.5 becomes
# 0 in integers and True in bool. Shapes are compared, and the error of another shape, CheckpointException, is a
# BaseException and no Exception, so that `except Exception` passes it by.
# Output seen:
#   into torch.int64: [0, 0]
#   into torch.bool: [True, True]
#   into another shape: CheckpointException, an Exception: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import torch.distributed.checkpoint as dcp

dcp.save({"a": torch.full((2,), 0.5)}, checkpoint_id="saved", no_dist=True)
found = []
for dtype in (torch.int64, torch.bool):
    state = {"a": torch.zeros(2, dtype=dtype)}
    dcp.load(state, checkpoint_id="saved", no_dist=True)
    found.append(state["a"].tolist())
    print(f"into {dtype}: {found[-1]}")
try:
    dcp.load({"a": torch.zeros(3)}, checkpoint_id="saved", no_dist=True)
except BaseException as error:
    found.append([type(error).__name__, isinstance(error, Exception)])
    print(f"into another shape: {found[-1][0]}, an Exception: {found[-1][1]}")
sys.exit(found != [[0, 0], [True, True], ["CheckpointException", False]])
PYTHON
