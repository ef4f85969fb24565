"""Layer groups: the processes that share one network's depth, and the messages between them.

It knows processes, blocks of steps and tensors that are sent; it must not know what a step, a chain or a
network is. Open `base.py` first: the four things that solvers ask of a group.
"""

from .base import ALONE, Alone, Group, Link, Pending
from .mesh import layer_group
from .team import Team

__all__ = ["ALONE", "Alone", "Group", "Link", "Pending", "Team", "layer_group"]
