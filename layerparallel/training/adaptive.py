"""Cycles as many as the gradient needs: every so often it is compared with the exact one."""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from ..network.network import Network
from ..solvers.variants import (
    Solvers,
    all_cycles,
    cycles_of,
    is_serial,
    multigrid_parts,
    serially,
    with_cycles,
)
from .base import Lap, Method, StepRecord, unwatched
from .comparison import error_of
from .objective import Objective

Action = Literal["keep", "raise", "lower", "serial", "return"]


@dataclass(frozen=True)
class Decision:
    """One comparison with the exact gradient, and what followed.

    step: steps taken before it. relative_error: ``|g - g*| / |g*|`` over all parameters; infinite
    where g is not finite or a solve had to fall back to the serial one. cosine: of the angle
    between g and g*; 0 in that case. action: "keep", "raise" or "lower" the cycles, go "serial", or
    "return" from there. forward_cycles, adjoint_cycles: those of the steps that follow; None where
    they are serial.
    """

    step: int
    relative_error: float
    cosine: float
    action: Action
    forward_cycles: int | None
    adjoint_cycles: int | None


class Adaptive:
    """Another method of training, with the number of cycles adapted to the measured error.

    Every `every` steps, the first included, the gradient of the current batch is taken with the
    present solver and serially; both are apart from training, which sees no difference. An error
    above `target` raises the forward and the adjoint cycles by one, one below ``target *
    lower_factor`` lowers both by one. Where `maximum` does not suffice the network is propagated
    serially, and the solver returns when a later comparison finds its error below `target`.

    Doubling the cycles and comparing the two results, as is sometimes done, misleads just when the
    iteration diverges; the exact gradient costs one serial step in `every`.

    Args:
        method: the method of training; its network's solver is MGRIT or Split.
        objective: what the method minimises: an `Objective`, or a criterion from output and target.
        every: steps from one comparison to the next.
        target: relative error that is wanted.
        lower_factor: between 0 and 1; cycles are lowered below this part of the target.
        minimum: fewest cycles, forward and adjoint.
        maximum: most cycles.
        on_decision: called with every `Decision`.

    Attributes:
        decisions: all of them, oldest first.
        serial_switches: how often the network went serial.

    Raises:
        ValueError: a setting is out of range, or the network is propagated serially already.
    """

    def __init__(
        self,
        method: Method,
        objective: Objective | Callable[[Tensor, Tensor], Tensor],
        every: int = 100,
        target: float = 0.1,
        lower_factor: float = 0.1,
        minimum: int = 1,
        maximum: int = 8,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        for name, value, good, bound in (
            ("every", every, every >= 1, "1 or more"),
            ("target", target, target > 0, "a positive number"),
            ("lower_factor", lower_factor, 0 <= lower_factor < 1, "a number from 0 to below 1"),
            ("minimum", minimum, minimum >= 1, "1 or more"),
            ("maximum", maximum, maximum >= minimum, f"at least minimum = {minimum}"),
        ):
            if not good:
                raise ValueError(f"{name} = {value} is out of range; use {bound}.")
        if not isinstance(method.network, Network) or is_serial(method.network.solver):
            raise ValueError(
                "Only a network that is solved by MGRIT has cycles to adapt; give it such a solver."
            )
        self.method = method
        self.network: Network = method.network
        self.objective = objective if isinstance(objective, Objective) else Objective(objective)
        self.every, self.target, self.lower_factor = every, target, lower_factor
        self.minimum, self.maximum = minimum, maximum
        self.on_decision = on_decision
        self.decisions: list[Decision] = []
        self.serial_switches = 0
        self.lap: Lap = unwatched
        self._parallel: Solvers = self.network.solver
        self._steps = 0

    def step(self, x: Tensor, y: Tensor, **key: Hashable) -> StepRecord:
        """Compare if it is time to, then train on one mini batch with `method`.

        ``key=...`` names the batch for warm starts, where `method.step` takes it.
        """
        if self._steps % self.every == 0:
            self.compare(x, y, **key)
            self.lap("comparison")
        record = self.method.step(x, y, **key)
        self._steps += 1
        return record

    def compare(self, x: Tensor, y: Tensor, **key: Hashable) -> Decision:
        """Measure the gradient's error on a batch now, and choose the solver by it."""
        network = self.network
        error, cosine = error_of(
            network, self._parallel, lambda: self.objective(network, network(x, **key), y)
        )
        serial = is_serial(self.network.solver)
        cycles = all_cycles(self._parallel)
        action: Action = "keep"
        if serial:
            action = "return" if error <= self.target else "keep"
        elif error > self.target:
            action = "raise" if min(cycles) < self.maximum else "serial"
        elif error < self.target * self.lower_factor and max(cycles) > self.minimum:
            action = "lower"
        if action == "raise":
            self._parallel = with_cycles(self._parallel, lambda c: max(c, min(c + 1, self.maximum)))
        elif action == "lower":
            self._parallel = with_cycles(self._parallel, lambda c: min(c, max(c - 1, self.minimum)))
        self.serial_switches += action == "serial"
        self._propagate(serial=action == "serial" or (serial and action == "keep"))
        decision = Decision(self._steps, error, cosine, action, *cycles_of(self.network.solver))
        self.decisions.append(decision)
        if self.on_decision is not None:
            self.on_decision(decision)
        return decision

    def state_dict(self) -> dict[str, Any]:
        """State of the method, and what the comparisons have led to."""
        return {
            "method": self.method.state_dict(),
            "steps": self._steps,
            "decisions": [asdict(decision) for decision in self.decisions],
            "serial_switches": self.serial_switches,
            "serial": is_serial(self.network.solver),
            "cycles": [(m.forward_cycles, m.adjoint_cycles) for m in multigrid_parts(self._parallel)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.method.load_state_dict(state["method"])
        self._steps, self.serial_switches = state["steps"], state["serial_switches"]
        self.decisions = [Decision(**decision) for decision in state["decisions"]]
        saved = iter([count for pair in state["cycles"] for count in pair])
        self._parallel = with_cycles(self._parallel, lambda _: next(saved))
        self._propagate(serial=state["serial"])

    def _propagate(self, serial: bool) -> None:
        self.network.solver = serially(self._parallel) if serial else self._parallel
