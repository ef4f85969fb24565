"""Layer groups: the processes that share one network's depth."""

from .base import ALONE, Alone, Group, Link, Pending

__all__ = ["ALONE", "Alone", "Group", "Link", "Pending"]
