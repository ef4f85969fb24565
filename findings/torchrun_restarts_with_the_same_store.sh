#!/usr/bin/env bash
# torch 2.13.0, CPU, 2 processes.
# torchrun --max-restarts starts the workers again with the store of the attempt before: what that left is still
# there, and the store that init_process_group makes of env:// has no prefix for each attempt (a comment in
# torch/distributed/rendezvous.py says that the store is new for every retry). gloo finds the addresses of processes
# that have ended, and may try them. dist.PrefixStore with TORCHELASTIC_RESTART_COUNT is right.
# Output seen:
#   attempt 0: left behind False, behind a prefix False
#   attempt 1: left behind True, behind a prefix False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cd "$folder"
cat > worker.py <<'PYTHON'
import os
import sys

import torch.distributed as dist

attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
store, rank, _ = next(dist.rendezvous("env://"))
own = dist.PrefixStore(f"attempt/{attempt}", store)
if rank == 0:
    print(f"attempt {attempt}: left behind {store.check(['key'])}, behind a prefix {own.check(['key'])}", flush=True)
    store.set("key", "value")
    own.set("key", "value")
    own.set("done", "")
own.wait(["done"])
sys.exit(attempt == "0")
PYTHON
"$folder/venv/bin/torchrun" --nproc-per-node 2 --max-restarts 1 --monitor-interval 0.1 worker.py 2> log | tee seen
diff seen - <<'SEEN'
attempt 0: left behind False, behind a prefix False
attempt 1: left behind True, behind a prefix False
SEEN
