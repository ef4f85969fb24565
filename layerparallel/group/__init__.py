"""Layer groups: the processes that share one network's depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from .base import ALONE, Alone, Group, Link, Pending

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["ALONE", "Alone", "Group", "Link", "Pending", "layer_group"]


def layer_group(over: DeviceMesh | Group) -> Group:
    """The layer group of one dimension of a device mesh; a group is itself.

    Raises:
        InputError: it is neither.
    """
    if isinstance(over, Group):
        return over
    from torch.distributed.device_mesh import DeviceMesh

    from .ranks import Ranks

    if not isinstance(over, DeviceMesh):
        raise InputError(
            f"A network cannot be distributed over a {type(over).__name__}: give one dimension of a "
            'device mesh, mesh["layer"].'
        )
    return Ranks(over)
