"""Run folders: where a run leaves what it did, readable while it runs and after it was killed.

RUN/record.jsonl    one JSON object a line, appended to; the first line says what was run
RUN/summary.json    the results, written once at the end
RUN/checkpoints/    see checkpoint.py
RUN/plots/          see report/pictures.py
RUN/report.html     see report/page.py
RUN/tensorboard/    see board.py
"""

import dataclasses
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..network.network import Network
from ..parareal import PararealNetwork
from ..solvers import describe
from ..solvers.variants import fitted
from ..version import __version__
from .files import write_atomically

RECORD = "record.jsonl"
SUMMARY = "summary.json"


class RecordError(InputError):
    """A run folder that cannot be used: it exists, or what it holds cannot be read."""


def default_folder(recipe: str) -> Path:
    """`runs/RECIPE-DATE-TIME` below the current folder."""
    return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_new(folder: Path) -> None:
    """Refuse a folder that no new run can have; an empty one that exists will do.

    Raises:
        RecordError: it exists and holds something, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file, not a run folder: name another with --run.")
    if (folder / RECORD).exists():
        raise RecordError(
            f"The run folder {folder} exists already: name another with --run, or go on with it "
            f"with `layerparallel resume {folder}`."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise RecordError(
            f"The folder {folder} exists already: name another with --run, as it holds no run."
        )
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not place.is_dir():
        raise RecordError(
            f"The run folder {folder} cannot be made: {place} is a file; name another with --run."
        )


def new_folder(folder: Path) -> Path:
    """Make a run folder; an empty one that exists will do.

    Raises:
        RecordError: it exists and holds something, is a file, or cannot be made.
    """
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"The run folder {folder} cannot be made: {error.strerror}; name another with --run."
        ) from error
    return folder


def discard_unbegun(folder: Path, lines: int = 1) -> None:
    """Remove a run folder in which nothing was trained: its record has no more than so many lines."""
    record = folder / RECORD
    if not record.exists() or record.read_bytes().count(b"\n") <= lines:
        shutil.rmtree(folder)


def machine() -> dict[str, Any]:
    """What a figure depends on besides the configuration: versions, processor, threads."""
    return {
        "layerparallel": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def changed_options(options: Any) -> list[str]:
    """The fields of a recipe's dataclass that differ from their defaults."""
    found = []
    for each in dataclasses.fields(options):
        make: Any = each.default_factory
        default = each.default if make is dataclasses.MISSING else make()
        if getattr(options, each.name) != default:
            found.append(each.name)
    return found


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Size and place of a network, its chains with their solvers, the parts of a parareal one."""
    parameters = list(network.parameters())
    chains = [
        {"steps": body.depth, "solver": describe(fitted(solver, body.depth, body.allows_picard))}
        for each in network.modules()
        if isinstance(each, Network)
        for body, solver in zip(each.chains, each.solvers, strict=True)
    ]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else None,
        "device": str(parameters[0].device) if parameters else None,
        "chains": chains,
        "parts": [
            dataclasses.asdict(part)
            for each in network.modules()
            if isinstance(each, PararealNetwork)
            for part in each.describe()
        ],
    }


class Record:
    """The append-only record of a run.

    Each line is `{"kind": ..., "time": seconds since 1970, ...}`. Only one process writes to it at
    a time. `listener`, if any, is called with every line that was written.

    Raises:
        RecordError: where another process is writing to the same record.
    """

    def __init__(self, folder: Path, listener: Callable[[dict[str, Any]], object] | None = None) -> None:
        self.path = folder / RECORD
        self._listener = listener
        self._file = open(self.path, "ab+")  # noqa: SIM115  closed by close()
        _lock(self._file, folder)
        self._drop_a_torn_last_line()

    def _drop_a_torn_last_line(self) -> None:
        # A killed run may leave half a line; it was never a record, and the next must not join it.
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, kind: str, **values: Any) -> dict[str, Any]:
        """Write one line through to the disk, and return it."""
        line = _plain({"kind": kind, "time": round(time.time(), 3), **values})
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._listener is not None:
            self._listener(line)
        return line

    def close(self) -> None:
        """Close the file, and with it the lock."""
        self._file.close()

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RecordError(
            f"Another process is working on the run {folder}: wait for it, or stop it."
        ) from error


def _plain(value: Any) -> Any:
    """A value as JSON knows it: NaN and infinity become null, paths and types their names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's record; half a last line, left by a killed run, is passed over.

    Raises:
        RecordError: where there is no record, it is empty, or a line before the last is damaged.
    """
    path = folder / RECORD
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        if folder.is_dir() and all(each.name.startswith(".") for each in folder.iterdir()):
            raise _unbegun(folder) from error
        raise RecordError(
            f"{folder} is not a run folder: it has no readable {RECORD} ({error.strerror}); give "
            "the folder that `layerparallel train` named."
        ) from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        try:
            record = json.loads(line)
            record["kind"]
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"Line {number} of {path} is damaged: remove that line, or start a new run."
            ) from error
        records.append(record)
    if not records:
        raise _unbegun(folder)
    if records[0]["kind"] != "start":
        raise RecordError(f"{path} does not begin with a start line: start a new run.")
    return records


def _unbegun(folder: Path) -> RecordError:
    return RecordError(
        f"The folder {folder} holds no run, or one that was stopped before it began: remove the folder, "
        "and train again."
    )


def history(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The lines of one kind, without those that a resumed run did over again.

    A `resume` line carries `done`, the (phase, epoch) that its checkpoint had finished; lines of
    later epochs that stand before it are superseded.
    """
    lines: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] == "resume":
            done = tuple(record["done"])
            lines = [line for line in lines if _moment(line) <= done]
        elif record["kind"] == kind:
            lines.append(record)
    return lines


def _moment(line: dict[str, Any]) -> tuple[int, int]:
    return line.get("phase", 0), line.get("epoch", 0)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write RUN/summary.json."""
    text = json.dumps(_plain(dict(summary)), indent=2, allow_nan=False)
    write_atomically(folder / SUMMARY, text.encode() + b"\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """RUN/summary.json, or None where the run has not ended."""
    try:
        return dict(json.loads((folder / SUMMARY).read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"{folder / SUMMARY} is damaged: remove it and `layerparallel resume {folder}`."
        ) from error
