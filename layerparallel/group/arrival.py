"""How processes find each other: by torchrun's environment, in the store that it names."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import PrefixStore, Store

from ..errors import InputError
from .agreement import difference, named
from .processes import Process

ARRIVAL = 120.0
"""Seconds within which all ranks arrive; on several machines they are started one by one."""
LINGER = 5.0
"""Seconds that rank 0 keeps the store at most for others to read why they cannot start."""


@dataclass(frozen=True)
class Launch:
    """This process among all, as torchrun's environment says."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    attempt: int
    """How often torchrun has started all ranks again."""
    keeper: int | None
    """The rank that keeps the store; None if torchrun does."""

    @classmethod
    def from_environment(cls) -> Launch | None:
        """None if this process was not started by torchrun, or as it would have done."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if any(name not in os.environ for name in names):
            return None
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(
            rank,
            size,
            int(os.environ.get("LOCAL_RANK", rank)),
            int(os.environ.get("LOCAL_WORLD_SIZE", size)),
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
            None if shared else 0,
        )

    def connect(self, prefix: str, seconds: float, keep: bool = False) -> Store:
        """A connection to the store of all ranks, with keys of this attempt.

        The names of groups and ranks are the same in every attempt, and what the last one left in the
        store would send gloo to processes that have ended.
        """
        store = TCPStore(
            self.host,
            self.port,
            is_master=keep,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
        )
        return PrefixStore(f"layerparallel/{self.attempt}/{prefix}", store)


def problem_of(device: str, local_rank: int, local_size: int) -> str:
    """Why this process cannot use its device; empty if it can."""
    if device not in ("cpu", "cuda"):
        return f"there is no device {device!r}, choose cpu or cuda"
    if device == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not dist.is_nccl_available():
            return "this build of torch has no NCCL, by which ranks on GPUs talk; choose the device cpu"
        if count <= local_rank:
            return (
                f"NCCL needs a GPU for each of the {local_size} processes of a machine, and "
                f"{Process.own().host} has {count}; start fewer, or choose the device cpu"
            )
    return ""


def arrive(world: Launch, device: str, seconds: float) -> Store:
    """The store, when every rank is there and has its device; rank 0 decides, for all."""
    store = _connected(world, seconds)
    problem = problem_of(device, world.local_rank, world.local_size)
    mine = {"problem": problem, "size": world.size, "device": device}
    store.set(f"rank/{world.rank}", json.dumps(mine))
    try:
        if world.rank == 0:
            store.set("verdict", json.dumps(_verdict(world, store, seconds)))
        store.wait(["verdict"], timedelta(seconds=2 * seconds))
        text = json.loads(store.get("verdict"))
    except dist.DistError as error:
        raise _nobody(world, seconds) from error
    if text:
        store.add("told", 1)
        if world.keeper == world.rank:
            _linger(store, world.size)
        raise InputError(text)
    return store


def _connected(world: Launch, seconds: float) -> Store:
    """A connection to the store, which rank 0 opens if torchrun has not."""
    found: list[Store | BaseException] = []
    keep = world.keeper == world.rank

    def connect() -> None:
        try:
            found.append(world.connect("start", seconds, keep))
        except RuntimeError as error:
            found.append(error)

    # Another program at that port may take the connection and never say a word.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if found and isinstance(found[0], Store):
        return found[0]
    if keep:
        raise InputError(
            f"Rank 0 cannot open port {world.port} on {world.host}, perhaps it is in use: set "
            "MASTER_PORT to a free one on all ranks."
        )
    raise _nobody(world, seconds)


def _nobody(world: Launch, seconds: float) -> InputError:
    return InputError(
        f"Rank {world.rank} did not find rank 0 at {world.host}:{world.port} within {seconds:g} s: "
        "start it, and set MASTER_PORT to a port that no other program uses."
    )


def _verdict(world: Launch, store: Store, seconds: float) -> str:
    """What all ranks are told if they cannot start; else empty."""
    keys = [f"rank/{rank}" for rank in range(world.size)]
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except dist.DistStoreError:
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        return (
            f"{named(missing)} did not arrive at {world.host}:{world.port} within {seconds:g} s: start "
            f"all {world.size} processes."
        )
    found = [json.loads(value) for value in store.multi_get(keys)]
    for rank, each in enumerate(found):
        if each["problem"]:
            return f"Rank {rank} cannot start: {each['problem']}."
    return difference({key: [each[key] for each in found] for key in ("size", "device")})


def _linger(store: Store, size: int) -> None:
    """Until all ranks that are there have read what they are told, or for a while."""
    there = sum(store.check([f"rank/{rank}"]) for rank in range(size))
    deadline = time.monotonic() + LINGER
    while store.add("told", 0) < there and time.monotonic() < deadline:
        time.sleep(0.02)
