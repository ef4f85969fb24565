"""Parameters stacked along depth: first values, and the names of a state_dict layer by layer."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn, norm_except_dim
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from ..steps.comparing import equal
from ..steps.repeatable import batch_norms
from .copying import copyable

if TYPE_CHECKING:
    from .bodies.base import Body

Initial = Literal["smooth", "tied", "independent"]
INITIAL: tuple[Initial, ...] = get_args(Initial)
EXTRA = "_extra_state"
"""Under this name a module's extra state stands in a state_dict."""
_views: ContextVar[bool] = ContextVar("views", default=False)


def initial_stacks(template: nn.Module, depth: int, initial: Initial) -> dict[str, Tensor]:
    """Initial values (N, ...) of every parameter; each layer has the spread of a single one.

    "smooth" blends two draws by cos and sin of pi n / 2N, which keeps the variance.

    Raises:
        ValueError: a parameter of random values that no `reset_parameters` draws anew.
    """
    if initial == "tied" or depth == 1:
        draws = [template]
    elif initial == "smooth":
        draws = [template, _redrawn(template)]
    else:
        draws = [template, *(_redrawn(template) for _ in range(depth - 1))]
    stacks = {}
    for name, first in template.named_parameters():
        values = [dict(draw.named_parameters())[name].detach() for draw in draws]
        if first.is_meta:
            stack = first.expand(depth, *first.shape)
        elif all(torch.equal(first, value) for value in values[1:]):
            random = first.unique().numel() > max(1, first.numel() // 2)  # not zeros, ones, eye
            if len(values) > 1 and random and not _resets(template, name):
                raise ValueError(
                    f"initial={initial!r} cannot draw {name} anew for other layers, since its module "
                    "has no reset_parameters(); add one or use initial='tied'"
                )
            stack = first.detach().expand(depth, *first.shape)  # the same in every draw: 1 or 0
        elif initial == "independent":
            stack = torch.stack(values)
        else:
            angle = torch.linspace(0, math.pi / 2, depth, dtype=first.dtype, device=first.device)
            angle = angle.view(depth, *[1] * first.dim())
            stack = values[0] * angle.cos() + values[1] * angle.sin()
        stacks[name] = stack.clone()
    return stacks


def _redrawn(template: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(template)
    drawn: list[tuple[nn.Module, str, Tensor]] = []
    with parametrize.cached():  # a reset draws the weight that is made of others
        for part in fresh.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
                made = getattr(part, "parametrizations", {})
                drawn += [(part, name, getattr(part, name).detach()) for name in made]
    for part, name, value in drawn:
        with contextlib.suppress(RuntimeError, NotImplementedError):  # no way back to the others
            setattr(part, name, value)
    for part in fresh.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                weight = getattr(part, hook.name)
                getattr(part, f"{hook.name}_v").data.copy_(weight)
                getattr(part, f"{hook.name}_g").data.copy_(norm_except_dim(weight, 2, hook.dim))
    return fresh


def _resets(template: nn.Module, name: str) -> bool:
    """Whether the module of a parameter draws it anew, if initialisation is not skipped just now."""
    owner = template.get_submodule(name.rpartition(".")[0])
    return "parametrizations." in name or callable(getattr(owner, "reset_parameters", None))


def refuse_hooks(modules: Sequence[nn.Module]) -> None:
    """Refuses to stack modules with hooks, which are each module's own.

    Raises:
        ValueError: with the module and what it has.
    """
    for n, module in enumerate(modules):
        for place, part in module.named_modules():
            hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
            found = [f"the hook {_named(hook)}" for each in hooks for hook in each.values()]
            if found:
                raise ValueError(
                    f"module {n} of the chain has {found[0]}{place and f' on {place}'}, which cannot be "
                    "stacked; leave stacked=True out, or give chain one module and a depth"
                )


def _named(hook: object) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)


def replace_parameters(module: nn.Module, value: Callable[[nn.Parameter], Tensor]) -> None:
    """Gives every parameter another value, in all the places of a shared one."""
    made: dict[Tensor, nn.Parameter] = {}
    for part in module.modules():
        for leaf, old in part._parameters.items():
            if old is not None:
                if old not in made:
                    made[old] = nn.Parameter(value(old), requires_grad=old.requires_grad)
                part._parameters[leaf] = made[old]


def stack_statistics(module: nn.Module, depth: int) -> None:
    """Gives the batch norms of a template running statistics for every layer, (N, ...)."""
    for norm in batch_norms(module).values():
        for name, buffer in norm._buffers.items():
            if buffer is not None:
                norm._buffers[name] = buffer.expand(depth, *buffer.shape).clone()


def statistics_of(module: nn.Module) -> set[str]:
    """Names of the buffers that every layer has its own of: running statistics."""
    return {
        f"{name}.{leaf}".lstrip(".")
        for name, norm in batch_norms(module).items()
        for leaf, buffer in norm._buffers.items()
        if buffer is not None
    }


def to_layers(body: Body, state: dict, prefix: str, metadata: dict) -> None:
    """state_dict in plain layer-by-layer names; buffers and extra state, common to a stack, in each."""
    own = {name for name, _ in body.named_parameters(remove_duplicate=False)} | statistics_of(body)
    for key in [key for key in state if key.startswith(prefix)]:
        name, value = key.removeprefix(prefix), state.pop(key)
        pattern, stacked = body.layer_name(name)
        if not stacked:
            state[prefix + pattern] = value
            continue
        for row, n in enumerate(body.block):
            state[prefix + pattern.format(n=n)] = _parted(value[row]) if name in own else value


def _parted(row: Tensor) -> Tensor:
    """A row of a stack, in the stack's memory but with a storage of its own.

    Some writers of checkpoints (Accelerate's) keep one tensor of each storage and drop the others.
    """
    kind = row.device.type
    if _views.get() or type(row) is not Tensor or row.requires_grad or kind not in ("cpu", "cuda"):
        return row
    return torch.from_dlpack(to_dlpack(row))


@contextlib.contextmanager
def layers_as_views() -> Iterator[None]:
    """Within it the layers in a state dict are views of their stacks: they are joined without a copy."""
    before = _views.set(True)
    try:
        yield
    finally:
        _views.reset(before)


def from_layers(
    body: Body, state: dict, prefix: str, metadata: dict, strict: bool, missing: list, *_: object
) -> None:
    """The names that `to_layers` gave, back into those of the stacks, before a state is loaded.

    What all layers share, a buffer or extra state, is taken from those that have it; the others are
    missing.

    Raises:
        ValueError: some layers are missing, or what they share is not the same in all of them.
    """
    parameters = [name for name, _ in body.named_parameters(remove_duplicate=False)]
    buffers = [name for name, _ in body.named_buffers(remove_duplicate=False)]
    own, extra = {*parameters, *statistics_of(body)}, extra_states(body)
    for key in [key for key in state if key.startswith(prefix)]:
        number = key.removeprefix(prefix).partition(".")[0]
        if number.isdigit() and int(number) < body.depth and int(number) not in body.block:
            del state[key]  # another rank's layer, in the state of a whole network
    for name in [*parameters, *buffers, *extra]:
        pattern, stacked = body.layer_name(name)
        if not stacked:
            if prefix + pattern in state:
                state[prefix + name] = state.pop(prefix + pattern)
            continue
        keys = [prefix + pattern.format(n=n) for n in body.block]
        found = [key for key in keys if key in state]
        if not keys:
            state[prefix + name] = extra[name]() if name in extra else own_tensor(body, name)
        elif found and name not in own:
            missing += [key for key in keys if key not in state]
            values = [state.pop(key) for key in found]
            state[prefix + name] = values[0]
            if not all(_same(values[0], value) for value in values):
                what = f"different {'extra state' if name in extra else 'buffers'} {name}"
                raise ValueError(
                    f"the {body.depth} layers have {what}, and a stack has one for all; make it a "
                    "parameter, or the chain one of unlike modules"
                )
        elif len(found) == len(keys):
            state[prefix + name] = torch.stack([state.pop(key) for key in keys])
        elif found:
            gone = next(key for key in keys if key not in state)
            raise ValueError(
                f"the state dict has {len(found)} of the {len(keys)} layers' {name} ({gone} is "
                "not there); load it into a network of its own depth"
            )


def extra_states(module: nn.Module) -> dict[str, Callable[[], Any]]:
    """What modules keep beside their tensors (`get_extra_state`), by its name in a state_dict."""
    return {
        f"{name}.{EXTRA}".lstrip("."): part.get_extra_state
        for name, part in module.named_modules(remove_duplicate=False)
        if type(part).get_extra_state is not nn.Module.get_extra_state
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or bool(a == b)


def own_tensor(body: Body, name: str) -> Tensor:
    """A body's parameter or buffer, by its name in the stack."""
    found = {**dict(body.named_parameters()), **dict(body.named_buffers())}
    return found[name].detach()


def keep_rows(module: nn.Module, block: range) -> None:
    """Of stacked parameters and running statistics keeps the rows of a block, in memory of its own."""
    rows = slice(block.start, block.stop)
    replace_parameters(module, lambda p: p.detach()[rows].clone())
    for norm in batch_norms(module).values():
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer[rows].clone()


def skeleton(module: nn.Module) -> nn.Module:
    """A copy whose parameters have a shape and no values."""
    with copyable(module, to="meta"):
        bare = copy.deepcopy(module)
    replace_parameters(bare, lambda p: p.detach().to("meta"))
    return bare
