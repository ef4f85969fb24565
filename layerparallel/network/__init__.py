"""A network as PyTorch users see it: opening, chains with transitions, closing, under autograd.

It binds parameters into chains and lets a solver propagate them; it must not know how networks are
trained or recorded. Open `network.py` first, then `chain.py` and `propagate.py`.
"""

from .bodies import Body
from .chain import chain
from .driven import Driven
from .network import Network
from .serial_twins import SerialNetwork

__all__ = ["Body", "Driven", "Network", "SerialNetwork", "chain"]
