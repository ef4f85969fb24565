"""Auxiliary variables and multipliers of all training samples, kept outside the training device."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .filters import Filter, Form, Shape, parse

Rows = tuple[Tensor, ...]
"""What is kept of some samples: the tensors of Λ, and behind them those of κ if there is one."""
SMALLER = ("bf16", "pool:2", "pool:2+bf16", "pool:2+int8", "pool:4+bf16", "pool:4+int8", "int8")
"""Filters that are suggested where there is too little memory."""
GB = 1e9


@dataclass(frozen=True)
class Coming:
    """Rows on their way from a GPU to the arrays that keep them.

    Args:
        arrays: of an interface.
        index: int64 `(b,)`, places of the samples in them, on the CPU.
        rows: where they arrive, in page-locked memory.
        arrived: tells when.
    """

    arrays: Rows
    index: Tensor
    rows: Rows
    arrived: torch.cuda.Event


class Store:
    """Λ_k and κ_k of every training sample, for some interfaces k; all zero at first.

    Args:
        count: training samples n.
        shapes: of one sample's state, by interface.
        filters: of the same interfaces; as `parse` gives them, or fitted.
        budget: bytes of memory that may be taken. What needs more is mapped from files in `folder`.
        folder: made where it is needed, and only then.
        pin: rows go to a GPU and come back by page-locked memory, so that nobody waits for them.
        multipliers: keep κ, too.
        dtype: of the states.
        place: the device that keeps it all; on a GPU there is neither a budget nor a folder.

    Raises:
        InputError: a filter does not fit its states; the budget is exceeded and there is no folder, or
            none that can be used; the place has less memory.
    """

    def __init__(
        self,
        count: int,
        shapes: Mapping[int, Shape],
        filters: Mapping[int, Filter],
        budget: int,
        folder: Path | None = None,
        pin: bool = False,
        multipliers: bool = False,
        dtype: torch.dtype = torch.float32,
        place: torch.device | str = "cpu",
    ) -> None:
        self.count, self.multipliers, self.dtype = count, multipliers, dtype
        self.place = torch.empty(0, device=place).device
        self.pin = pin and self.place.type == "cpu"
        self.filters = {k: filters[k].fitted(tuple(shape)) for k, shape in shapes.items()}
        forms = {k: self.filters[k].forms(tuple(s), dtype) * self._kinds for k, s in shapes.items()}
        self.nbytes = sum(_bytes(form) * count for each in forms.values() for form in each)
        """Bytes of everything, in memory or in files."""
        mapped = self.place.type == "cpu" and self.nbytes > budget
        if mapped and folder is None:
            raise InputError(_too_large(self.nbytes, budget, self._smaller(shapes, budget)))
        self.folder = folder if mapped else None
        self._coming: list[Coming] = []
        self._kept: dict[int, Rows] = {}
        try:
            if self.folder is not None:
                names = [_file(k, j) for k, each in forms.items() for j in range(len(each))]
                _make_room(self.folder, names, self.nbytes)
            for k, each in forms.items():
                self._kept[k] = tuple(self._array(_file(k, j), form) for j, form in enumerate(each))
        except (OSError, RuntimeError) as error:
            where = f"the memory of {self.place}" if self.folder is None else f"the folder {self.folder}"
            raise InputError(
                f"The {self.nbytes / GB:.3g} GB of auxiliary variables cannot be kept in {where} "
                f"({str(error).partition(chr(10))[0]}): give "
                f"{'a folder and a smaller budget' if self.folder is None else 'another folder'}, or "
                "another filter."
            ) from error

    @property
    def _kinds(self) -> int:
        return 2 if self.multipliers else 1

    def _array(self, name: str, form: Form) -> Tensor:
        shape, dtype = (self.count, *form[0]), form[1]
        if self.folder is None:
            return torch.zeros(shape, dtype=dtype, device=self.place)
        path = str(self.folder / name)
        size = math.prod(shape)
        return torch.from_file(path, shared=True, size=size, dtype=dtype).view(shape)

    def _smaller(self, shapes: Mapping[int, Shape], budget: int) -> tuple[str, int] | None:
        """The first filter that fits into the budget, and the bytes that it needs."""
        for text in SMALLER:
            try:
                each = sum(parse(text).bytes(tuple(s), self.dtype) for s in shapes.values())
            except InputError:  # states that cannot be pooled
                continue
            if (size := each * self.count * self._kinds) <= budget:
                return text, size
        return None

    # ---- rows -----------------------------------------------------------------------------------

    def take(self, k: int, index: Tensor, device: Any = None) -> tuple[Tensor, Tensor | None]:
        """Λ and κ of interface k for the samples `index` `(b,)`; κ is None if none is kept.

        Args:
            device: where they are wanted; that of `index` if None.
        """
        return self.opened(self.filters[k], self.rows(k, index, device))

    def rows(self, k: int, index: Tensor, device: Any = None) -> Rows:
        """The same as they are kept, copied: what is sent to another rank."""
        self._settle()
        device = index.device if device is None else torch.device(device)
        index = index.to(self.place)
        return tuple(self._read(array, index, device) for array in self._kept[k])

    def opened(self, filter: Filter, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Λ and κ from rows of an interface with this filter, one of this store's or another rank's."""
        half = len(rows) // self._kinds
        state = filter.load(rows[:half], self.dtype)
        return state, filter.load(rows[half:], self.dtype) if self.multipliers else None

    def put(self, k: int, index: Tensor, state: Tensor, multiplier: Tensor | None = None) -> None:
        """Keep Λ, and κ if given, of interface k for the samples `index` `(b,)`."""
        rows = self.filters[k].store(state)
        if multiplier is not None:
            rows = (*rows, *self.filters[k].store(multiplier))
        arrays, index = self._kept[k][: len(rows)], index.to(self.place)  # without κ, its tensors stay
        if self.pin and rows[0].is_cuda:
            page_locked = tuple(
                torch.empty(row.shape, dtype=row.dtype, pin_memory=True).copy_(row, non_blocking=True)
                for row in rows
            )
            arrived = torch.cuda.Event()
            arrived.record()
            self._coming.append(Coming(arrays, index, page_locked, arrived))
            return
        for array, row in zip(arrays, rows, strict=True):
            array.index_copy_(0, index, row.to(self.place))

    def _settle(self) -> None:
        """What is on its way arrives; called before anything is read."""
        for each in self._coming:
            each.arrived.synchronize()
            for array, row in zip(each.arrays, each.rows, strict=True):
                array.index_copy_(0, each.index, row)
        self._coming.clear()

    def _read(self, array: Tensor, index: Tensor, device: torch.device) -> Tensor:
        if not self.pin or device.type == "cpu":
            return array.index_select(0, index).to(device)
        page_locked = torch.empty((len(index), *array.shape[1:]), dtype=array.dtype, pin_memory=True)
        return torch.index_select(array, 0, index, out=page_locked).to(device, non_blocking=True)

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept, by interface; the tensors are the store's own."""
        self._settle()
        kept = {
            str(k): {str(j): array for j, array in enumerate(arrays)} for k, arrays in self._kept.items()
        }
        return {"samples": self.count, "kept": kept} if kept else {"samples": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; of a store of more interfaces, one's own are taken.

        Raises:
            InputError: it is of another number of samples, of other interfaces or other filters.
        """
        if state["samples"] != self.count:
            raise InputError(
                f"The saved auxiliary variables are of {state['samples']} training samples and there "
                f"are {self.count}: give the same training set."
            )
        self._settle()
        for k, arrays in self._kept.items():
            saved = state.get("kept", {}).get(str(k), {})
            for j, array in enumerate(arrays):
                one = saved.get(str(j))
                if len(saved) != len(arrays) or one is None or _form(one) != _form(array):
                    raise InputError(
                        f"The saved auxiliary variables have none of interface {k} like those wanted, "
                        f"{tuple(array.shape)} in {array.dtype}: give the same stages, method and "
                        "filter."
                    )
                array.copy_(one)


def _form(array: Tensor) -> tuple[torch.Size, torch.dtype]:
    return array.shape, array.dtype


def _bytes(form: Form) -> int:
    return math.prod(form[0]) * form[1].itemsize


def _file(k: int, j: int) -> str:
    """Name of the file of a tensor of an interface."""
    return f"interface-{k}-{j}.bin"


def _make_room(folder: Path, names: list[str], size: int) -> None:
    """A folder with room for files of these names, which read as zeros.

    Raises:
        OSError: it cannot be made, or its disk has fewer bytes than `size`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:  # a write to a mapped file would end the process
        raise OSError(f"{free / GB:.3g} GB are free there")


def _too_large(size: int, budget: int, smaller: tuple[str, int] | None) -> str:
    remedy = "or a larger budget"
    if smaller is not None:
        remedy = f"or the filter {smaller[0]}, with which they need {smaller[1] / GB:.3g} GB"
    return (
        f"The auxiliary variables need {size / GB:.3g} GB of memory and the budget is {budget / GB:.3g} "
        f"GB: give a folder to keep them in, {remedy}."
    )
