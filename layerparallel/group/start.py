"""Processes become ranks: by torchrun's environment, with a watch over all of them.

mesh = start(layer_ranks=4)          # torchrun --nproc-per-node 8 ...: 2 x 4, "data" and "layer"
...
stop()
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore

from ..errors import InputError
from . import watch
from .agreement import agree
from .arrival import ARRIVAL, Launch, arrive, problem_of
from .lookout import Patience

__all__ = ["agree", "start", "stop"]


def start(
    layer_ranks: int | None = None,
    device: str | None = None,
    *,
    patience: Patience | None = None,
    arrival: float = ARRIVAL,
    timeout: timedelta = timedelta(minutes=30),
) -> DeviceMesh:
    """Makes this process a rank; every process that torchrun has started calls it, once.

    The default process group is initialised (gloo between CPUs, NCCL between GPUs), the watch over
    all ranks begins (see `layerparallel.group.watch`), and torch gets one thread unless OMP_NUM_THREADS
    says otherwise. A process that torchrun has not started becomes a world of one.

    Args:
        layer_ranks: ranks that share one network's depth; all of them if not given. The others are
            data-parallel to them.
        device: "cpu" or "cuda"; "cuda" if not given and there are GPUs.
        patience: after what time a rank without a sign of life counts as failed.
        arrival: seconds within which all ranks have to arrive.
        timeout: of a single message.

    Returns:
        The mesh of the dimensions ("data", "layer").

    Raises:
        InputError: on every rank: sizes that do not match, no GPU for every rank, a port in use,
            ranks that do not arrive.
    """
    if dist.is_initialized():
        raise InputError(
            "torch.distributed is initialised already, and start() does that; leave one of them out."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world = Launch.from_environment()
    size = world.size if world else 1
    layer_ranks = size if layer_ranks is None else layer_ranks
    _check_sizes(world, layer_ranks)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    if world is None:
        if problem := problem_of(device, 0, 1):
            raise InputError(f"This cannot start: {problem}.")
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    else:
        store = arrive(world, device, arrival)
        dist.init_process_group(
            backend,
            store=PrefixStore("groups", store),
            rank=world.rank,
            world_size=size,
            timeout=timeout,
            device_id=None if device == "cpu" else torch.device(device, world.local_rank),
        )
        watch.begin(
            lambda: world.connect("watch", arrival),
            world.rank,
            size,
            world.keeper,
            patience or Patience(),
        )
    if device != "cpu":
        torch.cuda.set_device(world.local_rank if world else 0)
    return init_device_mesh(device, (size // layer_ranks, layer_ranks), mesh_dim_names=("data", "layer"))


def stop() -> None:
    """This rank is done. Without `start`, nothing happens."""
    watch.end()
    if dist.is_initialized():
        dist.destroy_process_group()


# ---- wrong input -------------------------------------------------------------------------------


def _check_sizes(world: Launch | None, layer_ranks: int) -> None:
    if layer_ranks < 1:
        raise InputError(f"{layer_ranks} layer ranks are too few; there has to be at least 1.")
    if world is None and layer_ranks > 1:
        raise InputError(
            f"{layer_ranks} layer ranks need as many processes, and this is one alone; start it by "
            f"torchrun --nproc-per-node {layer_ranks}."
        )
    if world is not None and world.size % layer_ranks:
        raise InputError(
            f"{world.size} processes cannot be split into layer groups of {layer_ranks}; start a "
            f"multiple of {layer_ranks}, or choose a divisor of {world.size}."
        )
