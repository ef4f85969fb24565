"""Random models against plain PyTorch: the same numbers or one sentence.

    layerparallel bench fuzz [--models 5000] [--first 0] [--json]

Every model has up to four of some sixty features (hooks, parametrisations, sharing, dtypes, operations
in place, checkpointing, masks, norms, dropout, buffers, random numbers), is changed between two steps,
and is trained for three steps in float64. An outcome is `same`, `refused` (one sentence), `plain fails`,
`wrong` or `raw` (an error that is not one sentence). Printed are the last two kinds, and counts.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import harness
import torch
from fuzz_blocks import FEATURES
from fuzz_models import BATCH, CHANGES, Model, Ours, Plain

BODIES = ("unlike", "stacked", "tied", "from modules")
SOLVERS = ("serial", "recomputed", "mgrit", "mgrit recomputed")
UNKNOWN = frozenset(["noise", "drop path", "skipped at random"])
"""Features that have to be refused."""
STEPS, CLOSE = 3, 1e-7


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a model."""

    model: Model
    kind: str
    said: str = ""


def models(first: int, count: int) -> Iterator[Model]:
    """Those of a range of seeds."""
    for seed in range(first, first + count):
        draw = random.Random(seed)
        features = draw.sample(FEATURES, draw.choice((0, 1, 1, 1, 2, 2, 3, 4)))
        if "a pair" in features and "a mask in the state" in features:
            features.remove("a pair")
        body = draw.choice(BODIES)
        if body in ("tied", "stacked") and "argument t" in features:
            body = "from modules"  # chain gives it the time, which is no error
        change = draw.choice(("nothing", "evaluation") if body == "stacked" else (*CHANGES, "nothing"))
        yield Model(tuple(features), body, draw.choice(SOLVERS), change, draw.choice((2, 3, 4, 5)), seed)


def trained(net: Any, model: Model) -> tuple[list[torch.Tensor], list[set[int]]]:
    """Outputs of every step and of the end, and which parameters had no gradient."""
    torch.manual_seed(model.seed + 2)
    random.seed(model.seed)
    x = torch.randn(BATCH, 3, dtype=torch.double)
    outputs, unused = [], []
    for step in range(STEPS):
        if step == 1:
            ours = isinstance(net, Ours)
            CHANGES[model.change](net.net if ours and model.body == "stacked" else net.whole)
            if ours and model.change == "evaluation":
                net.net.eval()
        trainable = {id(p): p for p in net.parameters() if p.requires_grad}
        optimizer = torch.optim.SGD(trainable.values(), lr=0.05)
        optimizer.zero_grad()
        torch.manual_seed(model.seed + 3 + step)
        output = net(x)
        (output.square().sum() + output.sum()).backward()
        optimizer.step()
        outputs.append(output.detach())
        named = enumerate(net.whole.parameters())
        unused.append({k for k, p in named if p.requires_grad and p.grad is None})
    torch.manual_seed(model.seed + 9)
    outputs.append(net(x).detach())
    return outputs, unused


def tried(model: Model) -> Outcome:
    """A model against plain PyTorch; where masks are drawn against another solver."""
    try:
        expected, unused = trained(Plain(model, model.whole()), model)
    except Exception as error:  # of the model itself
        return Outcome(model, "plain fails", str(error).partition("\n")[0])
    try:
        if model.drops:
            other = "recomputed" if model.solver == "serial" else "serial"
            reference = dataclasses.replace(model, solver=other)
            expected, unused = trained(Ours(reference, model.whole()), reference)
        whole = model.whole()
        found, missing = trained(Ours(model, whole), model)
    except (ValueError, TypeError) as error:
        kind = "raw" if "\n" in str(error) else "refused"
        return Outcome(model, kind, f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome(model, "raw", f"{type(error).__name__}: {error}")
    if UNKNOWN & set(model.features) and whole.training:
        return Outcome(model, "wrong", "random numbers were accepted")
    for step, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=CLOSE, atol=CLOSE, equal_nan=True):
            off = float((a - b).norm() / b.norm()) if a.shape == b.shape else float("nan")
            return Outcome(model, "wrong", f"output {step} off by {off:.1e}")
    if model.body != "stacked" and missing != unused:
        return Outcome(model, "wrong", f"gradients are None at {missing}, not at {unused}")
    return Outcome(model, "same")


def main(argv: list[str]) -> None:
    """Models with seeds from --first on."""
    made = harness.parser(__file__, __doc__, "outcomes that are wrong or raw, and counts")
    made.add_argument("--models", type=int, default=5000)
    made.add_argument("--first", type=int, default=0)
    args = made.parse_args(argv)
    harness.at_least_one(made, args, "models")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    faults = []
    for number, model in enumerate(models(args.first, args.models), 1):
        outcome = tried(model)
        counts[outcome.kind] += 1
        if outcome.kind in ("wrong", "raw"):
            faults.append(dataclasses.asdict(outcome))
            if not args.json:
                print(f"{outcome.kind}: {model}\n  {outcome.said}", flush=True)
        if number % 500 == 0:
            print(f"{number} models: {dict(counts)}", file=sys.stderr, flush=True)
    if args.json:
        harness.print_json({"counts": dict(counts), "faults": faults})
    else:
        print(dict(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
