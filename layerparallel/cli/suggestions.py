"""What was meant by a name that there is not: a misspelling, a beginning, or what others call it."""

import difflib
from collections.abc import Iterable

MEANT = {
    "activation": "act nonlinearity",
    "adaptive-target": "tolerance tol",
    "adjoint-cycles": "backward-cycles backward-iterations",
    "batch": "batch-size batchsize bs b mini-batch minibatch train-batch-size per-device-batch-size",
    "channels": "hidden hidden-dim hidden-size features filters",
    "checkpoint-every": "save-every save-interval save-freq checkpoint-interval",
    "coarse": "coarse-operator operator",
    "coarsening": "coarsening-factor cfactor cf",
    "data": "data-dir data-path data-root dataset dataset-path root input",
    "decay": "weight-decay wd l2",
    "depth": "layers n-layers num-layers nlayers number-of-layers blocks n-blocks num-blocks n",
    "device": "gpu gpus cuda use-cuda no-cuda cpu accelerator",
    "dtype": "precision double float64 fp32 fp16 bf16",
    "epochs": "n-epochs num-epochs max-epochs nepochs e iterations iters n-iters num-iterations steps "
    "max-steps num-steps",
    "evaluate-every": "eval-every eval-interval eval-freq test-every validate-every "
    "log-interval log-every",
    "family": "model arch architecture net network",
    "forward-cycles": "cycles n-cycles num-cycles mg-cycles fwd-iterations sweeps",
    "images": "data data-dir data-path data-root dataset dataset-path root input",
    "json": "as-json format",
    "layer-ranks": "ranks np nproc nproc-per-node processes world-size n-ranks num-ranks",
    "learning-rate": "lr base-lr max-lr initial-lr init-lr step-size eta",
    "levels": "max-levels num-levels n-levels",
    "open": "show browser view",
    "output": "out o output-dir out-dir outdir file save save-dir",
    "pretrained": "weights load init-from checkpoint ckpt",
    "rate": "scheduler lr-scheduler lr-schedule schedule lr-policy",
    "run": "run-dir output out o output-dir out-dir outdir log-dir logdir save-dir save exp-name name "
    "experiment work-dir checkpoint-dir results-dir",
    "seed": "random-seed manual-seed rng-seed",
    "solver": "method mgrit serial parallel",
    "T": "final-time end-time tf t-final",
    "tensorboard": "tb tensor-board",
    "threads": "n-threads num-threads nthreads workers num-workers n-workers j cpus",
    "training": "train-size n-train num-train train-samples samples-train limit-train",
    "validation": "val-size valid-size test-size n-val num-val n-test val-samples limit-val",
    "width": "hidden hidden-dim hidden-size features units nodes neurons dim d-model",
    # commands
    "bench": "benchmark benchmarks",
    "evaluate": "eval test validate score",
    "list": "ls recipes models",
    "report": "plot show html",
    "resume": "continue restart",
    "train": "fit run learn",
}
"""What other programs call an option, or a command."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant, of those there are; None where nothing is near."""
    known = list(known)
    plain = _plain(name)
    for each in known:
        if plain == _plain(each):
            return each
    for each in known:
        if name.lower().replace("_", "-") in MEANT.get(each, "").split():
            return each
    begun = [each for each in known if len(plain) > 2 and _plain(each).startswith(plain)]
    if begun:
        return min(begun, key=len)
    found = difflib.get_close_matches(plain, [_plain(each) for each in known], n=1, cutoff=0.6)
    return next((each for each in known if found and _plain(each) == found[0]), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
