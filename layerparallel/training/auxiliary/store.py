"""Auxiliary variables and multipliers of all training samples, kept outside the training device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerparallel.errors import InputError
from layerparallel.training.auxiliary.filters import Filter, Form, Shape, parse

Rows = tuple[Tensor, ...]
"""What is kept of some samples: the tensors of Λ, and behind them those of κ if there is one."""
SMALLER = ("bf16", "pool:2", "pool:2+bf16", "pool:2+int8", "pool:4+bf16", "pool:4+int8", "int8")
"""Filters that are suggested where there is too little memory."""
GB = 1e9


class Store:
    """Λ_k and κ_k of every training sample, for some interfaces k; all zero at first.

    Args:
        count: training samples n.
        shapes: of one sample's state, by interface.
        filters: of the same interfaces; as `parse` gives them, or fitted.
        budget: bytes of memory that may be taken. What needs more is mapped from files in `folder`.
        folder: made where it is needed, and only then.
        pin: hand rows over from page-locked memory, which a GPU copies without waiting.
        multipliers: keep κ, too.
        dtype: of the states.
        place: the device that keeps it all; on a GPU there is neither a budget nor a folder.

    Raises:
        InputError: a filter does not fit its states, or the budget is exceeded and there is no folder.
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
        self.count, self.pin, self.multipliers, self.dtype = count, pin, multipliers, dtype
        self.place = torch.device(place)
        self.filters = {k: filters[k].fitted(tuple(shape)) for k, shape in shapes.items()}
        forms = {k: self.filters[k].forms(tuple(s), dtype) * self._kinds for k, s in shapes.items()}
        self.nbytes = sum(_bytes(form) * count for each in forms.values() for form in each)
        """Bytes of everything, in memory or in files."""
        mapped = self.place.type == "cpu" and self.nbytes > budget
        if mapped and folder is None:
            raise InputError(_too_large(self.nbytes, budget, self._smaller(shapes, budget)))
        self.folder = folder if mapped else None
        self._kept: dict[int, Rows] = {
            k: tuple(self._array(f"{k}-{j}", form) for j, form in enumerate(each))
            for k, each in forms.items()
        }

    @property
    def _kinds(self) -> int:
        return 2 if self.multipliers else 1

    def _array(self, name: str, form: Form) -> Tensor:
        shape, dtype = (self.count, *form[0]), form[1]
        if self.folder is None:
            return torch.zeros(shape, dtype=dtype, device=self.place)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"interface-{name}.bin"
        path.unlink(missing_ok=True)  # a new file reads as zeros
        size = math.prod(shape)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)

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
        index = index.to(self.place)
        for array, row in zip(self._kept[k], rows, strict=False):  # without κ, its tensors stay
            array.index_copy_(0, index, row.to(self.place))

    def _read(self, array: Tensor, index: Tensor, device: torch.device) -> Tensor:
        if not self.pin or device == self.place:
            return array.index_select(0, index).to(device)
        page_locked = torch.empty((len(index), *array.shape[1:]), dtype=array.dtype, pin_memory=True)
        return torch.index_select(array, 0, index, out=page_locked).to(device, non_blocking=True)

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept, by interface; the tensors are the store's own."""
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


def _too_large(size: int, budget: int, smaller: tuple[str, int] | None) -> str:
    remedy = "or a larger budget"
    if smaller is not None:
        remedy = f"or the filter {smaller[0]}, with which they need {smaller[1] / GB:.3g} GB"
    return (
        f"The auxiliary variables need {size / GB:.3g} GB of memory and the budget is {budget / GB:.3g} "
        f"GB: give a folder to keep them in, {remedy}."
    )
