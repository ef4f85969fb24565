"""The layer group of a device mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from .base import Group

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


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
