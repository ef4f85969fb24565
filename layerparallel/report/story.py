"""What the record of a run tells, whether the run has ended, was killed, or is still going."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import solvers
from ..errors import alternatives
from ..runs.record import RecordError, history, read, read_summary
from ..solvers import MGRIT, Serial, Split
from ..solvers.remedies import remedies
from .words import NONE, duration, epochs, points

Line = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"
OURS_ALONE = ("training.png", "residuals.png", "violations.png", "corrections.png")
"""What `plots` draws; a recipe draws what it alone knows under other names."""

GAP = 0.002
"""Difference of two accuracies from which it is worth a word: 0.2 points."""
GROWTH = 3.0
"""Factor by which the solves' errors may grow in a training before it is worth a word."""
SMALL = 1e-4
"""Relative error below which growth does not matter."""
FAR = 0.3
"""Relative gradient error from which it is worth a word."""


@dataclass(frozen=True)
class Story:
    """A run as its record tells it; whatever the record lacks is empty or None."""

    folder: Path
    name: str
    start: Line
    networks: list[Line]
    epochs: list[Line]
    serial: list[Line]
    cycles: Line
    decisions: list[Line]
    checkpoints: list[Line]
    summary: dict[str, Any] | None
    pictures: list[Path]

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.start.get("recipe", "a run"))

    @property
    def ended(self) -> bool:
        """Whether the run came to its end."""
        return self.summary is not None

    @property
    def parallel(self) -> bool:
        """Whether anything was iterated, rather than propagated serially throughout."""
        return self.last("forward_error") is not None or self.last("adjoint_error") is not None

    @property
    def staged(self) -> bool:
        """Whether its stages were trained at once, from auxiliary variables."""
        return any("mode" in line for line in self.epochs)

    @property
    def options(self) -> Line:
        """Those of its recipe."""
        return self.start.get("options", {})

    @property
    def stages(self) -> int:
        """Stages that its network was cut into; 1 of other runs."""
        cut = self.options.get("cut")
        return len(cut) + 1 if cut else int(self.options.get("stages") or 1)

    @property
    def classifies(self) -> bool:
        """Whether there are accuracies to tell of; other runs have a validation loss alone."""
        loss = self.last("validation_loss")
        return loss is None or self.last("validation_accuracy") is not None

    @property
    def machine(self) -> Line:
        """Where it ran; a resumed run, where it ended."""
        return (self.summary or {}).get("machine") or self.start.get("machine", {})

    @property
    def depths(self) -> list[str]:
        """Layers of the network of every phase, chain by chain; empty where it has no chains."""
        networks = {line.get("phase", 0): line for line in self.networks}.values()
        chains = [[chain.get("steps", 0) for chain in each.get("chains", [])] for each in networks]
        return [" + ".join(f"{steps:,}" for steps in each) for each in chains if each]

    @property
    def layers(self) -> str:
        """Those of all phases: 8, then 32; of other networks the depth that was asked for."""
        return ", then ".join(self.depths) or str(self.options.get("depth", NONE))

    @property
    def lengths(self) -> str:
        """Epochs of all phases: 4 + 12; of a run that has not ended how many it has so far."""
        if len(self.epochs) != self.planned:
            return f"{len(self.epochs)} of {self.planned or 'its'}"
        return self._phases

    @property
    def schedule(self) -> str:
        """What the learning rate was to fall over: 4 + 12 epochs."""
        if not self.planned:
            return NONE
        return f"{self._phases} epoch{'' if self.planned == 1 else 's'}"

    @property
    def _phases(self) -> str:
        return " + ".join(str(phase["epochs"]) for phase in self.start["phases"])

    @property
    def processes(self) -> str:
        """Data-parallel ranks by layer ranks."""
        ranks = self.start.get("ranks", {})
        data, layer = ranks.get("data", 1), ranks.get("layer", 1)
        return f"{data} × {layer}" if data > 1 else str(layer)

    @property
    def layer_ranks(self) -> int:
        """Processes that shared the network."""
        return self.start.get("ranks", {}).get("layer", 1)

    @property
    def parallel_accuracy(self) -> float | None:
        """Of the network propagated by its own solver; None where that is the serial one."""
        return self.result("validation_accuracy_parallel") if self.parallel else None

    @property
    def planned(self) -> int:
        """Epochs that were to be trained."""
        return sum(phase.get("epochs", 0) for phase in self.start.get("phases", []))

    @property
    def validation_samples(self) -> int | None:
        """Samples that accuracies are measured on."""
        return self.start.get("data", {}).get("validation")

    def last(self, key: str) -> Any:
        """The latest value of an epoch's figure that is there; None if there is none."""
        return next((line[key] for line in reversed(self.epochs) if line.get(key) is not None), None)

    @property
    def probed(self) -> Line:
        """The latest epoch whose gradient was compared with the exact one; empty if there is none."""
        return next((line for line in reversed(self.epochs) if "gradient_cosine" in line), {})

    def result(self, key: str) -> Any:
        """A figure of the summary, or the latest of an epoch where the summary has none."""
        found = (self.summary or {}).get(key)
        return self.last(key) if found is None else found

    def fallbacks(self) -> int:
        """Solves that were done serially instead."""
        return sum(line.get("fallbacks") or 0 for line in self.epochs)

    def gap(self) -> float | None:
        """Accuracy propagated in parallel less accuracy propagated serially."""
        serially, parallel = self.result("validation_accuracy"), self.parallel_accuracy
        return None if serially is None or parallel is None else parallel - serially

    def chains(self) -> list[tuple[int, Serial | MGRIT | Split]]:
        """Depth and solver of every chain of the last network, each kind once."""
        found = []
        for chain in self.networks[-1].get("chains", []) if self.networks else []:
            try:
                pair = chain["steps"], solvers.rebuild(chain["solver"])
            except (KeyError, TypeError, ValueError):  # of a version with other solvers
                continue
            if pair not in found:
                found.append(pair)
        return found


def tell(folder: Path) -> Story:
    """Read a run folder.

    Raises:
        RecordError: it is none, its record or summary is damaged, or no epoch has ended yet.
    """
    records = read(folder)
    epochs = history(records, "epoch")
    if not epochs:
        raise RecordError(
            f"The run {folder} has not ended its first epoch, so there is nothing to report: wait for "
            f"it, or go on with `layerparallel resume {folder}`."
        )
    return Story(
        folder=folder,
        name=folder.resolve().name,
        start=records[0],
        networks=history(records, "network"),
        epochs=epochs,
        serial=_last_attempt(history(records, "serial")),
        cycles=(history(records, "cycles") or [{}])[-1],
        decisions=history(records, "decision"),
        checkpoints=history(records, "checkpoint"),
        summary=read_summary(folder),
        pictures=_pictures(folder),
    )


def _last_attempt(lines: list[Line]) -> list[Line]:
    """The serial slice is not saved: a resumed run does it over again."""
    first = max((k for k, line in enumerate(lines) if line.get("epoch") == 1), default=0)
    return lines[first:]


def _pictures(folder: Path) -> list[Path]:
    """What the recipe drew: every whole PNG but those that every run has."""
    found = sorted((folder / "plots").glob("*.png"))
    return [path for path in found if path.name not in OURS_ALONE and _is_png(path)]


def _is_png(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(PNG)) == PNG


def headline(story: Story) -> str:
    """What the run came to, in a line."""
    parts = []
    accuracy, samples = story.result("validation_accuracy"), story.validation_samples
    if accuracy is not None:
        of = f" of {samples:,} validation samples" if samples else " validation accuracy"
        parts.append(f"{100 * accuracy:.2f} %{of}")
    elif (loss := story.result("validation_loss")) is not None:
        parts.append(f"validation loss {loss:.4g}")
    parts.append(f"{epochs(len(story.epochs))} in {duration(story.result('seconds'))}")
    ratio = story.result("serial_ratio")
    if ratio is not None:
        parts.append(f"{ratio:.1f} times as fast as serial PyTorch")
    return " · ".join(parts)


# ---- what to read from it ----------------------------------------------------------------------


def notes(story: Story) -> list[str]:
    """One sentence for each thing that a reader should know before the figures."""
    found = [
        _unfinished(story),
        _fell_back(story),
        _alone(story),
        _gap(story),
        _twin(story),
        _inexact(story),
        _growing(story),
        *[_diverging(story, direction) for direction in ("forward", "adjoint")],
        _went_serial(story),
        _slow(story),
    ]
    return [note for note in found if note]


def _unfinished(story: Story) -> str | None:
    if story.ended:
        return None
    if len(story.epochs) >= story.planned > 0:
        return "The run has trained to its end but has not summed up: this is what it has so far."
    return (
        f"The run has not ended: this is how it stands after {len(story.epochs)} of "
        f"{story.planned or 'its'} epochs."
    )


def _fell_back(story: Story) -> str | None:
    count = story.fallbacks()
    if not count:
        return None
    hit = sum(1 for line in story.epochs if line.get("fallbacks"))
    solves = "1 solve" if count == 1 else f"{count:,} solves"
    return (
        f"{solves} misbehaved and {'was' if count == 1 else 'were'} done serially instead, in {hit} of "
        f"{len(story.epochs)} epochs: {_remedies(story)}."
    )


def _remedies(story: Story) -> str:
    """What may help against solves that misbehave: nothing that is set already."""
    found: list[str] = []
    for steps, solver in story.chains():
        forward, adjoint = solver.forward, solver.adjoint
        if isinstance(forward, MGRIT):  # which operators its steps allow is not on record
            found += remedies(forward, "forward", steps, picard=False)
        if isinstance(adjoint, MGRIT):
            found += remedies(adjoint, "adjoint", steps, picard=False)
    return f"{alternatives(list(dict.fromkeys(found)))} may help" if found else "propagate serially"


def _alone(story: Story) -> str | None:
    for steps, solver in story.chains():
        parts = [each for each in (solver.forward, solver.adjoint) if isinstance(each, MGRIT)]
        m = max((m for part in parts for m in part.factors(steps)[:1]), default=1)
        if steps // m == 1:
            return (
                f"A coarsening of {m} makes one interval of {steps} layers, so that nothing is "
                "parallel: take a smaller one."
            )
    return None


def _gap(story: Story) -> str | None:
    gap, samples = story.gap(), story.validation_samples
    if gap is None or abs(gap) <= GAP + 1e-12:
        return None
    grain = ""
    if samples and 1 / samples > GAP:
        grain = f" (one of the {samples} validation samples is {points(1 / samples)})"
    return (
        f"Propagated in parallel the network is {points(abs(gap))} {'worse' if gap < 0 else 'better'} "
        f"than serially{grain}: where that matters, train with more cycles."
    )


def _twin(story: Story) -> str | None:
    count = len(story.epochs)
    if len(story.serial) < count or not story.ended:
        return None
    theirs = story.serial[count - 1].get("validation_accuracy")
    mine = story.result("validation_accuracy")
    if theirs is None or mine is None or theirs - mine <= GAP + 1e-12:
        return None
    return f"The serially trained twin is {points(theirs - mine)} more accurate after as many epochs."


def _inexact(story: Story) -> str | None:
    if not story.probed:
        return None
    error, cosine = story.probed.get("gradient_error"), story.probed["gradient_cosine"]
    if error is None:
        return "At the last evaluation no layer-parallel gradient could be had: the solve fell back."
    if error <= FAR:
        return None
    return (
        f"At the last evaluation the gradient was {error:.0%} off the exact one (cosine {cosine:.2f}): "
        "more cycles or the coarse operator picard make it more exact."
    )


def _growing(story: Story) -> str | None:
    grown = [
        f"the {direction} one from {span[0]:.1e} to {span[1]:.1e}"
        for direction in ("forward", "adjoint")
        if (span := _growth(story, direction)) is not None
    ]
    if not grown:
        return None
    return (
        f"Errors of the solves grew in training, {' and '.join(grown)}: cycles that sufficed at first "
        "may not at the end; the adaptive mode adds them when they are needed."
    )


def _growth(story: Story, direction: str) -> tuple[float, float] | None:
    """Estimated error in the first and the last quarter of the epochs; None where it hardly grew."""
    values = [line.get(f"{direction}_error") for line in story.epochs]
    there = [value for value in values if value is not None]
    if len(there) < 4:
        return None
    quarter = len(there) // 4
    before, after = (statistics.median(part) for part in (there[:quarter], there[-quarter:]))
    return (before, after) if after >= max(GROWTH * before, SMALL) else None


def _diverging(story: Story, direction: str) -> str | None:
    factor = story.last(f"{direction}_factor")
    if factor is None or factor < 1:
        return None
    return (
        f"The {direction} iteration diverges on the trained network (factor {factor:.2f} per cycle): "
        "a smaller coarsening or another coarse operator may mend it."
    )


def _went_serial(story: Story) -> str | None:
    times = sum(1 for decision in story.decisions if decision.get("action") == "serial")
    if not times:
        return None
    return (
        f"The adaptive mode gave up multigrid {'once' if times == 1 else f'{times} times'} and "
        "propagated serially, because its most cycles did not suffice."
    )


def _slow(story: Story) -> str | None:
    ratio = story.result("serial_ratio")
    if ratio is None or ratio >= 1 or not story.parallel:
        return None
    return (
        f"An epoch took {1 / ratio:.1f} times as long as with serial PyTorch: here layer-parallel "
        "training does not pay on this machine."
    )
