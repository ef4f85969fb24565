#!/usr/bin/env bash
# Every benchmark that runs on a GPU, in one call: benchmarks/gpu.sh [FOLDER FOR THE RESULTS]
# Needs the package importable (PYTHONPATH or an installation) and a CUDA build of PyTorch.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu-$(date +%Y%m%d-%H%M%S)}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"

"$python" - <<'CHECK' | tee "$out/machine.txt" || exit 1
import platform, sys
import torch
if not torch.cuda.is_available():
    sys.exit("no CUDA device: these benchmarks need one")
print(platform.platform(), "Python", platform.python_version(), "torch", torch.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
CHECK

status=0
run() { # run NAME ARGUMENTS...: the table to the screen and to NAME.txt
  local name=$1
  shift
  echo "== $name"
  "$python" "benchmarks/$1/run.py" "${@:2}" 2>&1 | tee "$out/$name.txt" || status=1
}
run gradient gradient --device cuda --seeds 1 --repeats 7
run map map --device cuda --repeats 3 --plot "$out/map.png"
exit "$status"
