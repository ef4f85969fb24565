"""What a step's Python code reads besides its arguments, so that a change of it is noticed.

A trace is of the values that these had. They are looked at before every walk: numbers, flags and strings
of modules, of globals and closures that the code names, and of the objects found there.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = str(Path(__file__).parents[2]) + os.sep
_SIMPLE = (int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device, torch.Size)
_CODE = (type, FunctionType, MethodType, ModuleType)
_MUTABLE = (list, tuple, dict)
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SIZED = (*HOOKS, "_parameters", "_buffers", "_modules")
_MISSING, _ABSENT = object(), object()
DEPTH = 2
"""How many objects deep attributes are looked at."""
MOST = 64
"""Elements of a container that are looked at."""


class Reads:
    """Places that a step reads, and what stood there.

    Args:
        modules: whose attributes a step may read.
        functions: where its code begins: forwards, or a step function.
        call: evaluates the step once.

    Attributes:
        refusal: what `call` has raised.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        functions: Iterable[object],
        call: Callable[[], object],
    ):
        self._slots: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._sizes: list[tuple[Any, int]] = []
        self._seen: set[int] = set()
        for module in modules:
            self._module(module)
        for function in functions:
            self._function(function)
        scopes, self.refusal = _frames(call)
        for scope, names in scopes:
            for name in names:
                if name in scope:
                    self._slot(scope, name, DEPTH)
                    if isinstance(scope[name], ModuleType) and not _outside(scope[name]):
                        inside = vars(scope[name])
                        for each in names:
                            if each in inside:
                                self._slot(inside, each, 0)

    def _module(self, module: nn.Module) -> None:
        found = module.__dict__
        self._seen.add(id(module))
        for name in found:
            if name not in _INTERNAL:
                self._slot(found, name, DEPTH)
        for name in found["_modules"]:
            self._slot(found["_modules"], name, 0)
        for name in _SIZED:
            self._sizes.append((found.get(name), len(found.get(name) or ())))

    def _function(self, function: object) -> None:
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or id(function) in self._seen:
            return
        self._seen.add(id(function))
        for cell in function.__closure__ or ():
            self._cells.append((cell, _snapshot(_inside(cell))))
            self._function(_inside(cell))

    def _slot(self, place: dict[str, Any], name: str, depth: int) -> None:
        value = place[name]
        self._slots.append(
            (place, name, _MISSING if isinstance(value, _MUTABLE) else value, _snapshot(value))
        )
        inner = getattr(value, "__dict__", None)
        known = isinstance(value, (*_SIMPLE, *_CODE, Tensor, nn.Module))
        if depth and isinstance(inner, dict) and not known and id(value) not in self._seen:
            self._seen.add(id(value))
            for each in inner:
                self._slot(inner, each, depth - 1)

    @property
    def same(self) -> bool:
        """Whether everything is as it was."""
        for place, name, value, before in self._slots:
            now = place.get(name, _ABSENT)
            if now is not value and _snapshot(now) != before:
                return False
        if any(_snapshot(_inside(cell)) != before for cell, before in self._cells):
            return False
        return all(len(sized or ()) == size for sized, size in self._sizes)


def _snapshot(value: Any) -> Any:
    """What of a value is compared: simple ones by value, others by identity."""
    if isinstance(value, _SIMPLE):
        return type(value), value
    if isinstance(value, list | tuple) and len(value) <= MOST:
        return type(value), tuple(map(_snapshot, value))
    if isinstance(value, dict) and len(value) <= MOST:
        return dict, tuple((k, _snapshot(v)) for k, v in value.items())
    return id(value)


def _inside(cell: CellType) -> Any:
    """What a closure's variable holds, or that it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def _outside(module: ModuleType) -> bool:
    """Whether it is PyTorch's or ours, whose values nobody changes."""
    return (getattr(module, "__file__", None) or "").startswith((_TORCH, _OURS))


def _frames(
    call: Callable[[], object],
) -> tuple[list[tuple[dict[str, Any], tuple[str, ...]]], Exception | None]:
    """Of every function of the user's that `call` enters: its globals, and the names in its code."""
    refusal = None
    found: dict[CodeType, tuple[dict[str, Any], tuple[str, ...]]] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and not code.co_filename.startswith((_TORCH, _OURS)):
            found[code] = frame.f_globals, code.co_names

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    except Exception as error:
        refusal = error
    finally:
        sys.setprofile(before)
    return list(found.values()), refusal
