"""Parareal neural networks: parallel subnetworks of one network, joined by a coarse network.

Numbers j are those of the paper (Lee, Lee, Park 2022): preprocessing C^1..C^N, fine parts g^1..g^N,
coarse parts F^1..F^{N-1}, postprocessing h; on a layer group rank j - 1 has C^j and g^j. It must
not know how they are trained. Open `equations.py` first.
"""

from .build import parareal_network
from .describe import Part
from .equations import Correction
from .network import PararealNetwork
from .warp import WarpNetwork, warp

__all__ = ["Correction", "PararealNetwork", "Part", "WarpNetwork", "parareal_network", "warp"]
