"""Checkpoints of a run: whole or absent, never half.

    RUN/checkpoints/PHASE-EPOCH-STEP/NAME.pt ...   the payloads
    RUN/checkpoints/PHASE-EPOCH-STEP/manifest.json written last: where it stands, with the SHA-256
                                                   of every payload, the checkpoint is whole

A state is a mapping from payload names to what `torch.save` takes and `torch.load` reads back with
`weights_only=True`. What is in the payloads is the business of whoever saves.
"""

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layerparallel.errors import InputError
from layerparallel.record import sync_folder, write_atomically

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 1


class CheckpointError(InputError):
    """A checkpoint that is missing, half-written or damaged."""


@dataclass(frozen=True, order=True)
class Moment:
    """When in a run: `step` mini batches into `epoch` of `phase`, all counted from 0."""

    phase: int
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.phase:02d}-{self.epoch:06d}-{self.step:08d}"


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint, read."""

    path: Path
    moment: Moment
    state: dict[str, Any]


def save(run: Path, moment: Moment, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write a checkpoint and forget all but the last `keep`.

    A kill at any point leaves the earlier ones as they were; the new one counts from the moment
    its manifest is in place.
    """
    folder = run / FOLDER / str(moment)
    if folder.exists():  # a half-written one of a killed run
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    sums = {}
    for name, content in state.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        sums[f"{name}.pt"] = hashlib.sha256(buffer.getbuffer()).hexdigest()
        write_atomically(folder / f"{name}.pt", buffer.getvalue())
    manifest = {
        "format": FORMAT,
        "phase": moment.phase,
        "epoch": moment.epoch,
        "step": moment.step,
        "sha256": sums,
    }
    sync_folder(folder.parent)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    whole = [path for path in _folders(run) if (path / MANIFEST).exists()]
    for path in _folders(run):
        if path not in whole[-keep:]:
            _forget(path)
    return folder


def _forget(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that no rest of it looks whole
    shutil.rmtree(folder, ignore_errors=True)


def _folders(run: Path) -> list[Path]:
    """Every checkpoint folder of a run, whole or not, oldest first."""
    parent = run / FOLDER
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint; its checksums are verified before anything is unpickled.

    Raises:
        CheckpointError: where it is missing, half-written, damaged, or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        moment = Moment(manifest["phase"], manifest["epoch"], manifest["step"])
        sums, version = manifest["sha256"], manifest["format"]
    except OSError as error:
        what = "is half-written (it has no manifest)" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"The checkpoint {folder} {what}: use an earlier one.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The manifest of the checkpoint {folder} is damaged: use an earlier one."
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"The checkpoint {folder} has format {version}, this version reads {FORMAT}: use the "
            "version that wrote it."
        )
    state = {name.removesuffix(".pt"): _payload(folder / name, sums[name]) for name in sums}
    return Checkpoint(folder, moment, state)


def _payload(path: Path, expected: str) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path.parent} lacks {path.name}: use an earlier one."
        ) from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(
            f"The checkpoint {path.parent} is damaged ({path.name} does not match its checksum): "
            "use an earlier one."
        )
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"The checkpoint {path.parent} holds more than tensors and plain values in "
            f"{path.name}: it was not written by this library."
        ) from error


def latest(run: Path) -> Checkpoint | None:
    """The last whole checkpoint of a run, half-written and damaged ones passed over; or None."""
    for folder in reversed(_folders(run)):
        try:
            return load(folder)
        except CheckpointError:
            continue
    return None
