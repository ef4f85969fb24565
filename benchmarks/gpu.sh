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
  "$python" -m layerparallel bench "$@" 2>&1 | tee "$out/$name.txt" || status=1
}
run gradient gradient --device cuda --seeds 1 --repeats 7
run map map --device cuda --repeats 3 --plot "$out/map.png"

echo "== sun_tables"
"$python" -m layerparallel bench sun_tables --time --device cuda > "$out/sun_times.json" || status=1
# The small plan trains in minutes; needs CIFAR-10 and MNIST (LAYERPARALLEL_DATA, or a network).
"$python" -m layerparallel bench sun_tables --plan small --commands --seeds 1 --device cuda --runs "$out/sun" \
  | sed "s#^layerparallel#\"$python\" -m layerparallel#" > "$out/sun_rows.sh"
bash -e "$out/sun_rows.sh" > "$out/sun_rows.txt" 2>&1 || status=1
run sun_tables sun_tables --plan small --runs "$out/sun"

echo "== parareal_tables"
# The small plan trains in minutes; `--plan paper --commands` prints the networks of the paper.
"$python" -m layerparallel bench parareal_tables --plan small --commands --seeds 1 --device cuda \
  --runs "$out/parareal" | sed "s#^layerparallel#\"$python\" -m layerparallel#" > "$out/parareal_rows.sh"
bash -e "$out/parareal_rows.sh" > "$out/parareal_rows.txt" 2>&1 || status=1
run parareal_tables parareal_tables --plan small --runs "$out/parareal"
"$python" -m layerparallel bench parareal_tables --plan small --runs "$out/parareal" --plot "$out" || status=1
run sun_paper sun_tables --runs "$out/sun_paper" --times "$out/sun_times.json"
exit "$status"
