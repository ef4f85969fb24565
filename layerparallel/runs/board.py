"""TensorBoard logs of a run: RUN/tensorboard, made of the lines of its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .record import read

FOLDER = "tensorboard"
SCALARS = {
    "train_loss": "loss/training",
    "train_accuracy": "accuracy/training",
    "validation_loss": "loss/validation",
    "validation_accuracy": "accuracy/validation",
    "forward_error": "error/forward",
    "adjoint_error": "error/adjoint",
    "forward_factor": "convergence factor/forward",
    "adjoint_factor": "convergence factor/adjoint",
    "gradient_error": "gradient/relative error",
    "gradient_cosine": "gradient/cosine",
    "epoch_seconds": "seconds/epoch",
    "samples_per_second": "seconds/samples per second",
    "fallbacks": "fallbacks",
}
"""Figures of an epoch by the names that TensorBoard groups them by."""
METRICS = ("train_loss", "validation_loss", "validation_accuracy", "validation_accuracy_parallel")
METRICS += ("seconds",)
"""What of the summary stands beside the options."""


def summary_writer() -> Any:
    """PyTorch's writer of TensorBoard logs.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard logs need the package tensorboard, which is not installed: "
            "pip install 'layerparallel[tensorboard]'."
        ) from error
    return SummaryWriter


class Board:
    """Writes the lines of a record to TensorBoard as they come: give it to `runs.train`.

    Steps are epochs, counted through all phases. A resumed run takes back the epochs that it does
    over again.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._make = summary_writer()
        self._writer: Any = None
        self._start: Mapping[str, Any] = {}

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take one line of the record."""
        kind = line["kind"]
        if kind == "start":
            self._open(line)
        elif kind == "resume":
            start = read(self.folder)[0]
            phase, epoch = line["done"]
            self._open(start, self._epoch({**line, "phase": phase, "epoch": epoch}, start) + 1)
        elif kind in ("epoch", "serial"):
            self._scalars(line)
        elif kind == "decision":
            for direction in ("forward", "adjoint"):
                cycles = line[f"{direction}_cycles"] or 0
                self._writer.add_scalar(f"cycles/{direction}", cycles, self._epoch(line))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Set the options beside the results, and close."""
        options = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in self._start["options"].items()
        }
        results = {f"result/{name}": summary[name] for name in METRICS if summary.get(name) is not None}
        self._writer.add_hparams(options, results, run_name=".")
        self._writer.close()

    def _open(self, start: Mapping[str, Any], purge: int | None = None) -> None:
        self._start = start
        self._writer = self._make(str(self.folder / FOLDER), purge_step=purge)

    def _epoch(self, line: Mapping[str, Any], start: Mapping[str, Any] | None = None) -> int:
        """Number of an epoch through all phases."""
        phases = (start or self._start)["phases"]
        return sum(phase["epochs"] for phase in phases[: line["phase"]]) + line["epoch"]

    def _scalars(self, line: Mapping[str, Any]) -> None:
        serial = line["kind"] == "serial"
        step = line["epoch"] if serial else self._epoch(line)
        for name, tag in SCALARS.items():
            if line.get(name) is not None:
                self._writer.add_scalar(f"serial {tag}" if serial else tag, line[name], step)
        for part, seconds in line["split"].items():
            if seconds and not serial:
                self._writer.add_scalar(f"seconds/{part}", seconds, step)
        self._writer.flush()
