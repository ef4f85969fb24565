"""Networks cut into stages, each of which can be computed, and trained, by itself.

A stage is some consecutive pieces, which are never cut themselves: modules, and single steps of
chains with their step size and integrator. Interface k, of 1..K-1, is where stage k-1 ends and
stage k begins. It must not know how stages are trained. Open `pieces.py` first, then `network.py`.
"""

from .network import Staged
from .pieces import Piece

__all__ = ["Piece", "Staged"]
