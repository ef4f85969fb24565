"""Arrays in a folder by torch.distributed.checkpoint: every rank writes and reads its own rows."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import pathlib
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import planner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from ...group import Group
from .entries import Array, Chunk, unlike

METADATA = ".metadata"


def save(folder: Path, chunks: Iterable[Chunk], group: Group) -> None:
    """Writes the chunks of all ranks; what several have is written once, by the first of them.

    Raises:
        OSError, RuntimeError: on every rank, where one of them could not write.
        ValueError: on every rank, where an array has several dtypes or shapes.
    """
    writer = FileSystemWriter(folder, overwrite=True)
    with _quietly():
        dcp_save({}, storage_writer=writer, planner=_SavePlanner(chunks), **_where(group))


def read_arrays(folder: Path) -> list[Array]:
    """What the folder holds.

    Raises:
        pickle.UnpicklingError: it was not written by torch.distributed.checkpoint.
    """
    found = _Reader(folder).read_metadata().state_dict_metadata
    return [
        Array(name, each.size, each.properties.dtype)
        for name, each in found.items()
        if isinstance(each, TensorStorageMetadata)
    ]


def load(folder: Path, wanted: Mapping[Array, Sequence[range]]) -> Iterator[tuple[Array, int, Tensor]]:
    """Rows of arrays: the array, the number of the first row, and the rows.

    Every rank reads on its own, a rank that wants nothing as well.
    """
    reader, targets = _Reader(folder), {}
    for array, parts in wanted.items():
        for rows in parts:
            whole = array.single == array.shape
            shape = array.shape if whole else (len(rows), *array.single)
            value = torch.empty(shape, dtype=array.dtype)
            targets[array, rows.start] = Chunk(array.name, array.shape, rows.start, value)
    with _quietly():
        dcp_load({}, storage_reader=reader, planner=_LoadPlanner(list(targets.values())), no_dist=True)
    for (array, first), chunk in targets.items():
        yield array, first, chunk.value


def _where(group: Group) -> dict[str, Any]:
    mesh = getattr(group, "mesh", None)
    return {"no_dist": True} if mesh is None else {"process_group": mesh.get_group()}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that there is one process only, and with the error that was met.

    DCP's own error is no Exception, so that nobody would catch it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process.*")
            yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


class _SavePlanner(DefaultSavePlanner):
    """Plans chunks in place of whole tensors; the default does the rest: duplicates, overlaps, gaps."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        super().__init__(
            flatten_state_dict=False, flatten_sharded_tensors=False, dedup_save_to_lowest_rank=True
        )
        self._given, self._chunks = chunks, dict[MetadataIndex, Chunk]()

    def create_local_plan(self) -> planner.SavePlan:
        """What goes wrong here is told to all ranks."""
        self._chunks = {MetadataIndex(chunk.name, chunk.offsets): chunk for chunk in self._given}
        self.plan = planner.SavePlan([_write_item(*each) for each in self._chunks.items()])
        return self.plan

    def create_global_plan(
        self, all_plans: list[planner.SavePlan]
    ) -> tuple[list[planner.SavePlan], Metadata]:
        """DCP takes the dtype of the first rank for all, and then converts what it reads."""
        kinds: dict[str, set[str]] = {}
        for item in (item for plan in all_plans for item in plan.items):
            told = item.tensor_data
            assert told is not None
            kind = f"{tuple(told.size[1:])} of {told.properties.dtype}"
            kinds.setdefault(item.index.fqn, set()).add(kind)
        for name, found in kinds.items():
            if len(found) > 1:
                raise ValueError(unlike(name, found))
        return super().create_global_plan(all_plans)

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self._chunks[index].value


def _write_item(index: MetadataIndex, chunk: Chunk) -> planner.WriteItem:
    data = planner.TensorWriteData(
        chunk=ChunkStorageMetadata(chunk.offsets, chunk.value.shape),
        properties=TensorProperties.create_from_tensor(chunk.value),
        size=chunk.size,
    )
    return planner.WriteItem(index, planner.WriteItemType.SHARD, tensor_data=data)


class _LoadPlanner(planner.LoadPlanner):
    """Plans to fill chunks from whatever pieces their arrays were saved in."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = {MetadataIndex(chunk.name, chunk.offsets): chunk for chunk in chunks}
        self._metadata = Metadata({})

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        assert metadata is not None
        self._metadata = metadata

    def create_local_plan(self) -> planner.LoadPlan:
        items = []
        for index, chunk in self._chunks.items():
            kept = self._metadata.state_dict_metadata[chunk.name]
            assert isinstance(kept, TensorStorageMetadata)
            place = ChunkStorageMetadata(chunk.offsets, chunk.value.shape)
            for item in create_read_items_for_chunk_list(chunk.name, kept, [place]):
                items.append(dataclasses.replace(item, dest_index=index))
        return planner.LoadPlan(items)

    def create_global_plan(self, global_plan: list[planner.LoadPlan]) -> list[planner.LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: planner.LoadPlan) -> planner.LoadPlan:
        return central_plan

    def load_bytes(self, read_item: planner.ReadItem, value: Any) -> None:
        raise AssertionError("a checkpoint has no values but tensors")

    def resolve_tensor(self, read_item: planner.ReadItem) -> Tensor:
        target = self._chunks[read_item.dest_index].value
        for dim, (start, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            target = target.narrow(dim, start, length)
        return target

    def commit_tensor(self, read_item: planner.ReadItem, tensor: Tensor) -> None:
        """The tensor is the chunk's own."""


class _Reader(FileSystemReader):
    """A reader whose metadata can name nothing that runs code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(pathlib.Path(self.path) / METADATA, "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("no metadata of torch.distributed.checkpoint")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    """Knows the records of torch.distributed.checkpoint, sizes, types and paths."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in (("torch", "Size"), ("torch.serialization", "_get_layout")):
            return super().find_class(module_name, global_name)
        if module_name in ("torch", "pathlib", "pathlib._local") or module_name.startswith(
            "torch.distributed.checkpoint."
        ):
            found = super().find_class(module_name, global_name)
            if isinstance(found, torch.dtype) or _is_record(found):
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} in the metadata of a checkpoint")


def _is_record(found: Any) -> bool:
    if not isinstance(found, type):
        return False
    return dataclasses.is_dataclass(found) or issubclass(found, enum.Enum | pathlib.PurePath)
