"""What a trained network is worth: figures serially and in parallel, residuals cycle by cycle."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..network.network import Network
from ..parareal import PararealNetwork
from ..solvers import Serial
from ..solvers.variants import is_serial, with_cycles
from ..training.comparison import error_of

Found = TypeVar("Found")

VALUES = 1 << 18
"""Most input values of a batch in evaluation, so that states of a few channels fit the cache."""
PROBE_CYCLES = 3
"""Cycles over which `probe` measures the convergence factor."""


# ---- what a network is for ----------------------------------------------------------------------


def classes_of(x: Tensor, y: Tensor) -> Tensor:
    """The target of classification: the classes y `(b,)` of inputs x `(b, ...)`."""
    return y


def rightly(output: Tensor, target: Tensor) -> Tensor:
    """Whether the largest output `(b, classes)` is the class `(b,)` of a sample, `(b,)`."""
    return output.argmax(dim=-1) == target


@dataclass(frozen=True)
class Task:
    """What a network is for: classification if nothing else is said.

    Args:
        loss: from outputs and targets to the mean loss over their samples, 0-d.
        target: from inputs `(b, ...)` and classes `(b,)` to what outputs are compared with.
        scores: by name, what else is told of a network: from outputs and targets to a number, or a
            bool, for every sample, `(b,)`. The one called accuracy is followed in training, too.
    """

    loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy
    target: Callable[[Tensor, Tensor], Tensor] = classes_of
    scores: Mapping[str, Callable[[Any, Tensor], Tensor]] = field(
        default_factory=lambda: {"accuracy": rightly}
    )

    @property
    def classifies(self) -> bool:
        """Whether outputs are right or wrong."""
        return "accuracy" in self.scores


CLASSIFICATION = Task()


# ---- figures ------------------------------------------------------------------------------------


def figures(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task = CLASSIFICATION,
    parallel: bool = False,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Means over the samples `(n, ...)`, with classes `(n,)`: the task's loss, and its scores by name.

    In evaluation mode; `parallel` and `prepare` as for `logits`.
    """
    names = ("loss", *task.scores)

    def sums(inputs: Tensor, output: Any, at: slice) -> Tensor:
        target = task.target(inputs, y[at])
        loss = task.loss(output, target).double() * len(inputs)
        return torch.stack([loss, *(f(output, target).double().sum() for f in task.scores.values())])

    total = torch.stack(_batches(network, x, sums, parallel, None, prepare)).sum(0)
    return {name: value / len(x) for name, value in zip(names, total.tolist(), strict=True)}


def validation(found: Mapping[str, float], parallel: bool = False) -> dict[str, float]:
    """Figures of validation samples by the names of records; `parallel` as in `figures`."""
    way = "_parallel" if parallel else ""
    return {f"validation_{name}{way}": value for name, value in found.items()}


def told(found: Mapping[str, float]) -> str:
    """Figures for people, the loss last: accuracy 91.20%, loss 0.31."""
    ordered = sorted(found, key=lambda name: name == "loss")
    return ", ".join(
        f"{name.replace('_', ' ')} {found[name]:{'.2%' if name == 'accuracy' else '.4g'}}"
        for name in ordered
    )


def logits(
    network: nn.Module,
    x: Tensor,
    parallel: bool = False,
    batch: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Outputs `(n, ...)` for inputs `(n, ...)` in evaluation mode, without a graph.

    Args:
        parallel: propagate with the network's own solver instead of serially.
        batch: samples at a time; None for 4096, or fewer where samples are large.
        prepare: makes inputs of stored samples, a batch at a time (`layerparallel.data.Preparation`);
            None where x are inputs already.
    """
    return torch.cat(_batches(network, x, lambda inputs, output, at: output, parallel, batch, prepare))


def accuracy(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    parallel: bool = False,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Share of samples `(n, ...)` whose largest output is their class `(n,)`; see `logits`."""
    found = logits(network, x, parallel, prepare=prepare)
    return rightly(found, y).double().mean().item()


def _batches(
    network: nn.Module,
    x: Tensor,
    each: Callable[[Tensor, Any, slice], Found],
    parallel: bool,
    batch: int | None,
    prepare: Callable[[Tensor], Tensor] | None,
) -> list[Found]:
    """What `each` makes of every batch: of its inputs, the outputs, and its place in x."""
    if batch is None:
        batch = min(4096, max(1, VALUES // x[0].numel()))
    solved: AbstractContextManager[Any] = nullcontext()
    if isinstance(network, Network):
        solved = network.solved_by(network.solver if parallel else Serial())
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), solved:
            found = []
            for start in range(0, len(x), batch):
                at = slice(start, start + batch)
                inputs = prepare(x[at]) if prepare else x[at]
                found.append(each(inputs, network(inputs), at))
            return found
    finally:
        network.train(was_training)


# ---- how well the solver does -------------------------------------------------------------------


def residuals_per_cycle(
    network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], cycles: int
) -> tuple[list[float], list[float]]:
    """Residual norms of the forward and the adjoint solve over more cycles than training spends.

    Two empty lists for a network that is not solved by multigrid. The network is left as it was.
    """
    if not isinstance(network, Network) or is_serial(network.solver):
        return [], []
    solver = with_cycles(network.solver, lambda _: cycles)
    with _apart(network), network.solved_by(solver):
        torch.autograd.grad(loss(network(x)), list(network.parameters()), allow_unused=True)
        forward, adjoint = network.solution, network.adjoint_solution
    return forward.residuals if forward else [], adjoint.residuals if adjoint else []


def probe(network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """How well a network's solver does on a batch; nothing for one that is propagated serially.

    Of a parareal network `jumps` and `corrections`, those of `PararealNetwork.corrections`, one for
    every interface.

    `gradient_error` and `gradient_cosine` compare its gradient with the exact one; `forward_factor`
    and `adjoint_factor` are the residual's mean reduction per cycle over `PROBE_CYCLES`, None where
    there is no residual. The network is left as it was.
    """
    if isinstance(network, PararealNetwork) and network.count > 1:
        seen = network.corrections(x)
        return {"jumps": [each.jump for each in seen], "corrections": [each.size for each in seen]}
    if not isinstance(network, Network) or is_serial(network.solver):
        return {}
    with _apart(network):
        error, cosine = error_of(network, network.solver, lambda: loss(network(x)))
    found: dict[str, Any] = {"gradient_error": error, "gradient_cosine": cosine}
    residuals = residuals_per_cycle(network, x, loss, PROBE_CYCLES)
    for direction, r in zip(("forward", "adjoint"), residuals, strict=True):
        measurable = len(r) > 1 and r[0] > 0
        found[f"{direction}_factor"] = (r[-1] / r[0]) ** (1 / (len(r) - 1)) if measurable else None
    return found


@contextmanager
def _apart(network: Network) -> Iterator[None]:
    """In training mode, but apart from training, which sees and hears nothing of it."""
    was_training = network.training
    network.train()
    try:
        with network.undisturbed(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of fallbacks, which are no training's
            yield
    finally:
        network.train(was_training)
