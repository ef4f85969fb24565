"""When a module is no more than its modules in order, so that it can be taken apart."""

from __future__ import annotations

from torch import nn

from .serial_twins import SerialChains, SerialNetwork


def in_order(module: nn.Module) -> bool:
    """Whether a module's forward does no more than apply its modules in order."""
    if "forward" in module.__dict__:  # of this object alone
        return False
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, SerialNetwork | SerialChains) or type(module) is nn.ModuleList


def hooked(module: nn.Module) -> bool:
    """Whether something is called before or after it, forward or back."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any((*hooks, module._backward_hooks, module._backward_pre_hooks))


def refuse_whole(module: nn.Module) -> None:
    """Refuses a whole network that cannot be taken apart.

    Raises:
        TypeError: it has a forward of its own, or hooks, which would not be called.
    """
    name = type(module).__name__
    if not in_order(module):
        raise TypeError(
            f"{name} has a forward of its own, which cannot be taken apart; give its modules in the "
            "order of their application, [model.stem, *model.blocks, model.head]"
        )
    if hooked(module):
        raise TypeError(
            f"{name} has hooks, which would not be called once it is taken apart; put them on modules "
            "inside it"
        )


def refuse_uncalled(*modules: nn.Module) -> None:
    """Refuses hooks of modules that a solver never calls.

    Raises:
        TypeError: one of them has hooks.
    """
    for module in modules:
        if hooked(module):
            raise TypeError(
                f"{type(module).__name__} has hooks, which are never called, as a solver calls the "
                "steps in it; put them on the steps, the opening, the closing or the network"
            )
