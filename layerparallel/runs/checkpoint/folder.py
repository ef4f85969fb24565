"""The folder of one checkpoint: written by all ranks, whole once its manifest is in place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ...errors import InputError
from ...group import ALONE, Group
from ...network.stacking import EXTRA
from ..files import sync_folder, write_atomically
from . import entries
from .entries import Array, Layers

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
METADATA = ".metadata"
PLAIN = "plain.pt"
FORMAT = 2

Value = TypeVar("Value")


class CheckpointError(InputError):
    """A checkpoint that is missing, half-written or damaged, or that does not fit."""


@dataclass(frozen=True, order=True)
class Moment:
    """When in a run: `step` mini batches into `epoch` of `phase`, all counted from 0."""

    phase: int
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.phase:02d}-{self.epoch:06d}-{self.step:08d}"


# ---- writing ------------------------------------------------------------------------------------


def save(
    run: Path,
    moment: Moment,
    state: Mapping[str, Any],
    keep: int = 2,
    layers: Layers = {},  # noqa: B006  read only
    group: Group = ALONE,
) -> Path:
    """Write a checkpoint and forget all but the last `keep`; every rank calls it.

    A kill at any point leaves the earlier ones as they were; the new one counts from the moment
    its manifest is in place. Of what several ranks have the first one's is written.

    Args:
        run: the run folder, which all ranks see.
        moment: where training stands.
        state: what is this rank's of it: tensors, and what `torch.load` reads with `weights_only`.
        keep: checkpoints that stay.
        layers: the chains whose layers are alike; see `layerparallel.layerwise.chains`.
        group: of all ranks.

    Raises:
        CheckpointError: it cannot be written, or the layers of a chain differ in dtype or shape; on
            every rank.
    """
    folder = run / FOLDER / str(moment)
    from . import shards  # half a second, for what most commands do without

    tensors, plain = entries.flat(state)
    try:
        _first(group, lambda: _prepare(folder))
        shards.save(folder, entries.chunks(tensors, layers), group)
        mine = {path.name: _sha256(path) for path in sorted(folder.glob(f"__{group.rank}_*"))}
        found = group.gather((mine, plain))
        _first(group, lambda: _complete(folder, moment, found, keep))
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {folder} cannot be written: {error.strerror or error}; see to the disk, "
            "and go on from the checkpoint before."
        ) from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {folder} cannot be written: {_line(error)}.") from error
    return folder


def _line(error: Exception) -> str:
    """What an error says first."""
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _first(group: Group, work: Callable[[], Value]) -> Value | None:
    """What the first rank does while the others wait; its error is raised by all."""
    value, error = None, None
    if group.first:
        try:
            value = work()
        except (OSError, ValueError) as raised:
            error = raised
    error = group.tell(error, 0)
    if error is not None:
        raise error
    return value


def _prepare(folder: Path) -> None:
    if folder.exists():  # a half-written one of a killed run
        _forget(folder)
    folder.mkdir(parents=True)


def _complete(
    folder: Path,
    moment: Moment,
    found: list[tuple[dict[str, str], dict[entries.Path, Any]]],
    keep: int,
) -> None:
    """Writes what is no tensor, and then the manifest; prunes."""
    sums: dict[str, str] = {}
    plain: dict[entries.Path, Any] = {}
    for its_sums, its_plain in reversed(found):  # the first rank's values are those that stay
        sums |= its_sums
        plain |= its_plain
    if any(not (folder / name).exists() for name in sums):
        raise OSError("what other ranks wrote is not there, their nodes seem not to share the folder")
    write_atomically(folder / PLAIN, _packed(plain))
    sums |= {name: _sha256(folder / name) for name in (PLAIN, METADATA)}
    manifest = {
        "format": FORMAT,
        "phase": moment.phase,
        "epoch": moment.epoch,
        "step": moment.step,
        "ranks": len(found),
        "sha256": dict(sorted(sums.items())),
    }
    sync_folder(folder)
    sync_folder(folder.parent)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    run = folder.parent.parent
    whole = [path for path in _folders(run) if (path / MANIFEST).exists()]
    for path in _folders(run):
        if path not in whole[-keep:]:
            _forget(path)


def _packed(plain: dict[entries.Path, Any]) -> bytes:
    """As a file that `torch.load` reads with `weights_only`.

    Raises:
        ValueError: it would not read it.
    """
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    buffer.seek(0)
    if unsafe := get_unsafe_globals_in_checkpoint(buffer):
        raise ValueError(
            f"the state holds an object of {unsafe[0]}, which nothing could read back safely; keep "
            "numbers, texts, lists, dicts and tensors in it (get_extra_state of a module), or allow it "
            "by torch.serialization.add_safe_globals"
        )
    return buffer.getvalue()


def _forget(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that no rest of it looks whole
    shutil.rmtree(folder, ignore_errors=True)


def _folders(run: Path) -> list[Path]:
    """Every checkpoint folder of a run, whole or not, oldest first."""
    parent = run / FOLDER
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint, verified. `ranks` says how many wrote it."""

    path: Path
    moment: Moment
    ranks: int = 1
    group: Group = field(default=ALONE, repr=False, compare=False)

    @cached_property
    def state(self) -> dict[str, Any]:
        """All of it, in one process."""
        return self._read(self._plain(), ())

    def of(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """What is this rank's of it; every rank of the group calls it.

        Args:
            network: this rank's `state_dict`, whose names, shapes and dtypes say what is its own.

        Raises:
            CheckpointError: on every rank, where the checkpoint is of another network or cannot be read.
        """
        plain, saved = self._together(lambda: (self._plain(), self._saved()))
        names = saved.keys() | {name for path in plain if (name := entries.under_network(path))}
        problem = next(
            (text for each in network.items() if (text := _misfit(*each, names, saved))), None
        )
        told = self.group.gather((problem, list(network)))
        problem = next((text for text, _ in told if text), None)
        if problem is None:
            more = names.difference(*(mine for _, mine in told))
            problem = f"it has {min(more)}, which the network has not" if more else None
        if problem is not None:
            raise CheckpointError(
                f"The checkpoint {self.path} does not fit the options of the network: {problem}; "
                "build the network that was saved."
            )
        return self._together(lambda: self._read(plain, names - network.keys()))

    def _together(self, work: Callable[[], Value]) -> Value:
        """What this rank reads; what one of them cannot is told to all."""
        try:
            found, error = work(), None
        except CheckpointError as raised:
            found, error = None, raised
        for each in self.group.gather(error):
            if each is not None:
                raise each
        return cast(Value, found)

    def _saved(self) -> dict[str, Array]:
        """The array of everything in the network's state, by its name."""
        found = {}
        for array in self._arrays:
            if entries.under_network(array.path(0)):
                for row in array.rows:
                    found[entries.under_network(array.path(row))] = array
        return found

    @cached_property
    def _arrays(self) -> list[Array]:
        from . import shards

        with self._reading(METADATA):
            return shards.read_arrays(self.path)

    def _plain(self) -> dict[entries.Path, Any]:
        """What is no tensor."""
        with self._reading(PLAIN):
            return torch.load(self.path / PLAIN, map_location="cpu", weights_only=True)

    def _read(self, plain: Mapping[entries.Path, Any], others: Collection[str]) -> dict[str, Any]:
        """The state without what stands under the names of others' layers."""
        from . import shards

        state: dict[str, Any] = {}
        for path, value in plain.items():
            if entries.opened(state, path, others):
                entries.put(state, path, value)
        wanted = {}
        for array in self._arrays:
            rows = [row for row in array.rows if entries.opened(state, array.path(row), others)]
            wanted[array] = list(entries.runs(rows))
        with self._reading("its tensors"):
            for array, first, value in shards.load(self.path, wanted):
                for path, part in array.parted(first, value):
                    entries.put(state, path, part)
        return state

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """One sentence for whatever goes wrong with a file whose checksum was right."""
        try:
            yield
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"The checkpoint {self.path} holds more than tensors and plain values in {what}: it "
                "was not written by this library."
            ) from error
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {self.path} cannot be read ({what}: {_line(error)}): use an earlier "
                "one."
            ) from error


def _misfit(name: str, value: object, names: Collection[str], saved: Mapping[str, Array]) -> str | None:
    if name not in names:
        return f"it has no {name}"
    if not isinstance(value, Tensor) or name.endswith(EXTRA):  # extra state is whatever it likes to be
        return None
    there, here = saved[name], f"{tuple(value.shape)} of {value.dtype}"
    if (there.single, there.dtype) != (value.shape, value.dtype):
        return f"{name} is {tuple(there.single)} of {there.dtype} there and {here} in the network"
    return None


def load(folder: Path, group: Group = ALONE) -> Checkpoint:
    """One checkpoint; the checksums of all its files are verified before anything is unpickled.

    Every rank of the group calls it, and each verifies some of the files.

    Raises:
        CheckpointError: on every rank, where it is missing, half-written, damaged, of another format,
            or not the same on all ranks.
    """
    manifest, problem = _manifest(folder)
    names = sorted(manifest["sha256"])
    for name in names[group.rank :: group.size]:
        problem = problem or _damage(folder / name, manifest["sha256"][name])
    told = group.gather((problem, manifest))
    problem = next((text for text, _ in told if text), None)
    if problem is None and any(other != told[0][1] for _, other in told):
        problem = "is not the same for all ranks: keep the run folder where every node sees it"
    if problem is not None:
        raise CheckpointError(f"The checkpoint {folder} {problem}.")
    moment = Moment(manifest["phase"], manifest["epoch"], manifest["step"])
    return Checkpoint(folder, moment, manifest["ranks"], group)


def _manifest(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What the manifest says, and what is wrong with it."""
    nothing: dict[str, Any] = {"sha256": {}}
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            return nothing, (
                f"has format {manifest['format']}, this version reads {FORMAT}: use the version that "
                "wrote it"
            )
        numbers = [int(manifest[key]) for key in ("phase", "epoch", "step", "ranks")]
        if not isinstance(manifest["sha256"], dict) or min(numbers) < 0:
            raise ValueError
    except OSError:
        what = "is half-written (it has no manifest)" if folder.is_dir() else "does not exist"
        return nothing, f"{what}: use an earlier one"
    except (ValueError, KeyError, TypeError):
        return nothing, "has a damaged manifest: use an earlier one"
    return manifest, None


def _damage(path: Path, expected: str) -> str | None:
    try:
        found = _sha256(path)
    except OSError:
        return f"lacks {path.name}: use an earlier one"
    if found != expected:
        return f"is damaged ({path.name} does not match its checksum): use an earlier one"
    return None


def latest(
    run: Path, group: Group = ALONE, passed: Callable[[CheckpointError], object] | None = None
) -> Checkpoint | None:
    """The last whole checkpoint of a run, half-written and damaged ones passed over; or None.

    Every rank of the group calls it, and all get the same. What is passed over is told to `passed`.
    """
    names: Iterable[str] = group.tell([path.name for path in reversed(_folders(run))], 0)
    for name in names:
        try:
            return load(run / FOLDER / name, group)
        except CheckpointError as error:
            if passed is not None:
                passed(error)
    return None
