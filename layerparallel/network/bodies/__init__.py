"""The kinds of bodies: modules that hold a chain's parameters and bind them into a `Chain`."""

from .base import Body
from .function import FunctionBody
from .stacked import StackedBody
from .tied import TiedBody
from .unlike import UnlikeBody

__all__ = ["Body", "FunctionBody", "StackedBody", "TiedBody", "UnlikeBody"]
