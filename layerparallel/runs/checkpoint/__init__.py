"""Checkpoints of a run: whole or absent, never half; saved on any number of ranks, read on any other.

    RUN/checkpoints/PHASE-EPOCH-STEP/__R_0.distcp    the tensors of rank R, written by DCP
    RUN/checkpoints/PHASE-EPOCH-STEP/.metadata       which tensor is where
    RUN/checkpoints/PHASE-EPOCH-STEP/plain.pt        numbers, names, lists: what is no tensor
    RUN/checkpoints/PHASE-EPOCH-STEP/manifest.json   written last: where it stands, with the SHA-256 of
                                                     every other file, the checkpoint is whole

DCP is torch.distributed.checkpoint. A state is a nested mapping with text for keys. What stands under a
key `network` goes by the names of the layers, ``body.17.weight``, and so does whatever else stands under
such a name. Every rank gives what is its own, and gets what is its own back, whatever their number was.
"""

from .entries import Layers
from .folder import FOLDER, MANIFEST, Checkpoint, CheckpointError, Moment, latest, load, save

__all__ = [
    "FOLDER",
    "MANIFEST",
    "Checkpoint",
    "CheckpointError",
    "Layers",
    "Moment",
    "latest",
    "load",
    "save",
]
