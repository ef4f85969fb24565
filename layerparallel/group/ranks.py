"""The layer group of several processes, on torch.distributed: gloo between CPUs, NCCL between GPUs.

Between CPUs everything is point-to-point messages: gloo runs its collectives on threads of its own,
and one number summed that way takes up to milliseconds where processes share cores.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from . import watch
from .base import Arrived, Group, Link, Pending

HEAD = 1024
"""Bytes of the first message of an object, its length included; most objects need no second."""
UNDER_WAY = 8
"""Exchanges whose sends nobody has waited for; before one more, the oldest is waited for."""
LARGE = 1 << 20
"""Bytes of the larger message by which the link is measured."""


_LEFT: deque[Messages] = deque(maxlen=8 * UNDER_WAY)
"""Sends of groups that are no more: gloo drops a message with the object that stands for it."""


class Messages:
    """Messages under way; keeps the tensors of the sends alive."""

    def __init__(self, works: list[dist.Work], tensors: list[Tensor]) -> None:
        self._works, self._tensors = works, tensors

    def wait(self) -> None:
        """Returns when all that was to be received is there, and what was sent may be overwritten.

        Raises:
            RankFailed: a rank of the group has ended or does not answer.
        """
        try:
            while self._works:
                self._works[-1].wait()
                self._works.pop()
        except RuntimeError as error:
            raise watch.explained(error) from error
        self._tensors.clear()


class Ranks(Group):
    """The layer group of a device mesh; every rank of the mesh makes its own, at the same time.

    It holds the mesh and never a process group, which can be neither copied nor pickled; a deep copy
    is the group itself.

    Args:
        mesh: of one dimension, such as ``mesh["layer"]``.
        link: what a message costs; measured between the first two ranks if not given.

    Raises:
        ValueError: the mesh has several dimensions.
        RankFailed: a rank has ended or does not answer; so does everything that this group does.
    """

    def __init__(self, mesh: DeviceMesh, link: Link | None = None) -> None:
        if mesh.ndim != 1:
            raise ValueError(
                f"A layer group is one dimension of a mesh, and this mesh has {mesh.ndim}; "
                'name the dimension, as in mesh["layer"].'
            )
        self.mesh = mesh
        self.rank, self.size = mesh.get_local_rank(), mesh.size()
        self._under_way: deque[Messages] = deque()
        self._device = torch.device("cpu")
        if mesh.device_type != "cpu":
            self._device = torch.device(
                mesh.device_type, torch.get_device_module(mesh.device_type).current_device()
            )
        with watch.explaining():  # NCCL connects the whole group in a collective only
            dist.all_reduce(torch.zeros(1, device=self._device), group=mesh.get_group())
        # Objects go between CPUs where they can, so that no GPU is waited for.
        by_cpu = "cpu:" in str(dist.get_backend_config(mesh.get_group()))
        self._speaking = torch.device("cpu") if by_cpu else self._device
        self.link = self.tell(self._measured(), 0) if link is None else link

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __del__(self) -> None:
        _LEFT.extend(getattr(self, "_under_way", ()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.mesh, self.link)

    # ---- messages -------------------------------------------------------------------------------

    def exchange(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Pending:
        # Nothing is sent of a tensor without elements; the receiver knows from its own.
        sends = [(peer, a.detach()) for peer, a in sends if a.numel()]
        receives = [(peer, a.detach()) for peer, a in receives if a.numel()]
        if not sends and not receives:
            return Arrived()
        watch.check()
        with watch.explaining():
            works = self._start(sends, receives)
        messages = Messages(works, [a for _, a in sends])
        if sends:
            # The messages themselves are started before older ones are waited for: no deadlock.
            self._under_way.append(messages)
            if len(self._under_way) > UNDER_WAY:
                self._under_way.popleft().wait()
        return messages

    def _start(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> list[dist.Work]:
        group = self.mesh.get_group()
        if (sends or receives)[0][
            1
        ].device.type == "cpu":  # a batch is slower there: about 90 us in place of 65
            works = [dist.irecv(a, group=group, group_src=peer) for peer, a in receives]
            works += [dist.isend(a, group=group, group_dst=peer) for peer, a in sends]
            return [work for work in works if work is not None]
        operations = [dist.P2POp(dist.irecv, a, group=group, group_peer=peer) for peer, a in receives]
        operations += [dist.P2POp(dist.isend, a, group=group, group_peer=peer) for peer, a in sends]
        return dist.batch_isend_irecv(operations)

    # ---- collectives ----------------------------------------------------------------------------

    def total(self, value: Tensor) -> Tensor:
        if self.size == 1 or value.device.type == "cpu":
            return super().total(value)
        value = value.detach().clone(memory_format=torch.contiguous_format)
        watch.check()
        with watch.explaining():
            dist.all_reduce(value, group=self.mesh.get_group())
        return value

    @torch.no_grad()
    def broadcast(self, value: Tensor, source: int) -> None:
        if self.size == 1:
            return
        buffer = value.detach().contiguous()
        if value.device.type != "cpu":
            watch.check()
            with watch.explaining():
                dist.broadcast(buffer, group=self.mesh.get_group(), group_src=source)
        else:
            self._spread(buffer, source)
        if buffer.data_ptr() != value.data_ptr():
            value.copy_(buffer)

    def _spread(self, buffer: Tensor, source: int) -> None:
        """Down a binomial tree, whose nodes are counted from the source."""
        here = (self.rank - source) % self.size
        below = here & -here if here else 1 << self.size.bit_length()
        if here:
            parent = (here - below + source) % self.size
            self.exchange([], [(parent, buffer)]).wait()
        sends = []
        while below > 1:
            below //= 2
            if here + below < self.size:
                sends.append(((here + below + source) % self.size, buffer))
        self.exchange(sends, []).wait()

    def tell(self, value: Any, source: int) -> Any:
        if self.size == 1:
            return value
        here = self.rank == source
        head, rest = self._packed(value) if here else (self._bytes(HEAD), self._bytes(0))
        self.broadcast(head, source)
        if not here:
            rest = self._bytes(self._missing(head))
        if rest.numel():
            self.broadcast(rest, source)
        return value if here else _unpacked(head, rest)

    def gather(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        if self.rank:
            head, rest = self._packed(value)
            self.exchange([(0, head), (0, rest)], []).wait()
            return self.tell(None, 0)
        peers = range(1, self.size)
        heads = [self._bytes(HEAD) for _ in peers]
        self.exchange([], list(zip(peers, heads, strict=True))).wait()
        rests = [self._bytes(self._missing(head)) for head in heads]
        self.exchange([], list(zip(peers, rests, strict=True))).wait()
        found = [_unpacked(head, rest) for head, rest in zip(heads, rests, strict=True)]
        return self.tell([value, *found], 0)

    # ---- objects as messages --------------------------------------------------------------------

    def _bytes(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.uint8, device=self._speaking)

    def _packed(self, value: Any) -> tuple[Tensor, Tensor]:
        """An object as a first message of `HEAD` bytes, which has its length, and the rest."""
        data = pickle.dumps(value)
        data = len(data).to_bytes(8, "little") + data
        whole = torch.frombuffer(bytearray(data.ljust(HEAD, b"\0")), dtype=torch.uint8)
        head, rest = whole.to(self._speaking).split([HEAD, max(0, len(data) - HEAD)])
        return head.clone(), rest.clone()

    @staticmethod
    def _missing(head: Tensor) -> int:
        return max(0, 8 + int.from_bytes(head[:8].cpu().numpy().tobytes(), "little") - HEAD)

    # ---- the link -------------------------------------------------------------------------------

    def _measured(self, repeats: int = 10, large: int = 3) -> Link | None:
        """Latency and throughput between the ranks 0 and 1; None on the others."""
        if self.size == 1:
            return Link(0.0, 0.0)
        if self.rank > 1:
            return None
        empty = torch.zeros(LARGE, dtype=torch.uint8, device=self._device)
        small = self._one_way(empty[:1], repeats)
        long = self._one_way(empty, large)
        return Link(small, max(0.0, long - small) / LARGE)

    def _one_way(self, message: Tensor, repeats: int) -> float:
        """Seconds of one message, the fastest of several there and back."""
        peer, times = 1 - self.rank, []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            if self.rank == 0:
                self.exchange([(peer, message)], []).wait()
            self.exchange([], [(peer, message)]).wait()
            if self.rank == 1:
                self.exchange([(peer, message)], []).wait()
            if self._device.type != "cpu":
                torch.get_device_module(self.mesh.device_type).synchronize()
            times.append((time.perf_counter() - start) / 2)
        return min(times[1:])  # the first one connects


def _unpacked(head: Tensor, rest: Tensor) -> Any:
    data = torch.cat([head, rest]).cpu().numpy().tobytes()
    return pickle.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
