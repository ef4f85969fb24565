"""What a person sees of a run: a live line on a terminal, plain lines anywhere else."""

import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

PLAIN_INTERVAL = 5.0  # seconds between lines where there is no terminal
LIVE_INTERVAL = 0.2


@dataclass(frozen=True)
class Standing:
    """Where a training stands; rates in samples per second, times in seconds."""

    epoch: int
    epochs: int
    samples: int
    total: int
    rate: float
    loss: float
    accuracy: float | None
    forward_error: float | None = None
    adjoint_error: float | None = None

    @property
    def left(self) -> float:
        """Seconds until the end at the present rate."""
        return (self.total - self.samples) / self.rate if self.rate > 0 else float("inf")

    def pace(self) -> str:
        """How far it is and how fast it goes."""
        return (
            f"epoch {self.epoch}/{self.epochs} · {self.rate:,.0f} samples/s · {duration(self.left)} left"
        )

    def figures(self) -> str:
        """How well it goes."""
        parts = [f"loss {self.loss:.4f}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.1%}")
        if self.forward_error is not None:
            parts.append(f"error {self.forward_error:.1e}")
        if self.adjoint_error is not None:
            parts.append(f"adjoint {self.adjoint_error:.1e}")
        return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 9s, 1:05 or 2:00:01."""
    if seconds == float("inf"):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Display(Protocol):
    """Where the trainer says how it goes."""

    def begin(self, name: str, total: int) -> None:
        """A training of `total` samples begins."""
        ...

    def due(self) -> bool:
        """Whether it is time for another `show`."""
        ...

    def show(self, standing: Standing) -> None:
        """Show where it stands."""
        ...

    def end(self) -> None:
        """The training that began has ended."""
        ...

    def say(self, text: str) -> None:
        """One line that stays."""
        ...


class Silent:
    """Shows nothing: for tests and for use from Python."""

    def begin(self, name: str, total: int) -> None:
        """Nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def show(self, standing: Standing) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Plain:
    """Plain lines, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, interval: float = PLAIN_INTERVAL) -> None:
        self._stream = stream or sys.stdout
        self._interval = interval
        self._last = 0.0
        self._name = ""

    def begin(self, name: str, total: int) -> None:
        """Remember the name that stands before every line."""
        self._name = name
        self._last = time.monotonic()

    def due(self) -> bool:
        """Every few seconds."""
        return time.monotonic() - self._last >= self._interval

    def show(self, standing: Standing) -> None:
        """Print one line."""
        self._last = time.monotonic()
        self.say(f"{self._name}: {standing.pace()} · {standing.figures()}")

    def end(self) -> None:
        """Nothing is open that would have to be closed."""

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream, flush=True)


class Live:
    """A bar and a line of figures, redrawn in place; 80 columns are enough."""

    def __init__(self, console: Any = None, interval: float = LIVE_INTERVAL) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False)
        self._interval = interval
        self._bar: Any = None
        self._live: Any = None
        self._last = 0.0

    def begin(self, name: str, total: int) -> None:
        """Open a bar."""
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._bar.add_task(name, total=total, pace="")
        # No refresh by a thread: it would take turns with the training.
        self._live = Live(self._bar, console=self._console, auto_refresh=False)
        self._live.start()

    def due(self) -> bool:
        """A few times a second."""
        return time.monotonic() - self._last >= self._interval

    def show(self, standing: Standing) -> None:
        """Redraw."""
        from rich.console import Group
        from rich.text import Text

        self._last = time.monotonic()
        self._bar.update(self._bar.task_ids[0], completed=standing.samples, pace=standing.pace())
        self._live.update(Group(self._bar, Text("  " + standing.figures())), refresh=True)

    def end(self) -> None:
        """Leave the bar as it stands."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, soft_wrap=True)


def display() -> Display:
    """A live display on a terminal, else plain lines."""
    from rich.console import Console

    return Live() if Console().is_terminal else Plain()
