"""A pool of real processes, connected by gloo, for all tests of a run.

    pool.run(3, function, *arguments)         function(group, *arguments) on ranks 0, 1, 2
    pool.run_mesh((2, 2), function, ...)      function(mesh, *arguments), mesh["data"], mesh["layer"]

The function is one of the top level of a module of tests; what it returns on every rank comes back
in a list. What it raises on a rank is raised here, with that rank's traceback. A job that takes too
long ends the pool and fails with the stacks of all processes; the next job starts another pool.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from launching import PRELOAD, SECONDS, StuckError, free_port, torchrun

__all__ = ["Pool", "StuckError", "free_port", "torchrun"]

PROCESSES = 5
Shape = tuple[int, ...]


class Pool:
    """`PROCESSES` processes, started when first needed."""

    def __init__(self) -> None:
        self._workers: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder = tempfile.TemporaryDirectory(prefix="layerparallel-ranks-")

    def run(
        self, ranks: int, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS
    ) -> list[Any]:
        """``function(group, *arguments)`` on the ranks 0..ranks-1 of a group of that size."""
        return self._run((ranks,), function, arguments, seconds)

    def run_mesh(
        self, shape: Shape, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS
    ) -> list[Any]:
        """``function(mesh, *arguments)`` on all ranks of a mesh (data, layer)."""
        return self._run(shape, function, arguments, seconds)

    def stop(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        for pipe in self._pipes:
            pipe.close()
        self._workers, self._pipes = [], []

    # ---- jobs -----------------------------------------------------------------------------------

    def _run(self, shape: Shape, function: Callable, arguments: tuple, seconds: float) -> list[Any]:
        if not self._workers:
            self._start()
        count, deadline = math.prod(shape), time.monotonic() + seconds
        job = pickle.dumps((shape, function, arguments))
        for pipe in self._pipes:
            pipe.send_bytes(job)
        answers = self._answers(range(PROCESSES), deadline)
        failed = [answer for answer in answers.values() if isinstance(answer, Failure)]
        if failed:
            self._give_up_on(set(range(PROCESSES)) - set(answers))
            raise first(failed).exception()
        if len(answers) < PROCESSES:
            stacks = self._stacks(sorted(set(range(PROCESSES)) - set(answers)))
            self.stop()
            name = f"{function.__module__}.{function.__qualname__}"
            raise StuckError(f"{name} on {shape} ranks took more than {seconds:g} s\n{stacks}")
        return [answers[rank] for rank in range(count)]

    def _answers(self, ranks: Any, deadline: float) -> dict[int, Any]:
        """Those that come in time; soon after a failure no more is waited for."""
        answers: dict[int, Any] = {}
        waiting = {self._pipes[rank]: rank for rank in ranks}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in wait(list(waiting), left):
                rank = waiting.pop(pipe)
                try:
                    answers[rank] = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
                except (EOFError, OSError):
                    answers[rank] = Failure(rank, None, f"The process of rank {rank} has ended.")
                if isinstance(answers[rank], Failure):
                    deadline = min(deadline, time.monotonic() + 5)
        return answers

    def _give_up_on(self, silent: set[int]) -> None:
        """After a failure: all workers have made new groups, or the pool ends."""
        if silent or not all(worker.is_alive() for worker in self._workers):
            self.stop()
            return
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps(None))
        if len(self._answers(range(PROCESSES), time.monotonic() + 10)) < PROCESSES:
            self.stop()

    # ---- processes ------------------------------------------------------------------------------

    def _start(self) -> None:
        # Forked from a process that has torch and no threads: 5 times as fast as importing it in each.
        context, port = multiprocessing.get_context("forkserver"), free_port()
        context.set_forkserver_preload(PRELOAD)
        for rank in range(PROCESSES):
            here, there = context.Pipe()
            worker = context.Process(
                target=work, args=(rank, port, there, str(self._file(rank))), daemon=True
            )
            worker.start()
            there.close()
            self._workers.append(worker)
            self._pipes.append(here)
        if len(self._answers(range(PROCESSES), time.monotonic() + SECONDS)) < PROCESSES:
            stacks = self._stacks(range(PROCESSES))
            self.stop()
            raise StuckError(f"the pool did not start within {SECONDS:g} s\n{stacks}")

    def _file(self, rank: int) -> Path:
        return Path(self._folder.name) / f"stacks-{rank}"

    def _stacks(self, ranks: Any) -> str:
        for rank in ranks:
            os.kill(self._workers[rank].pid, signal.SIGUSR1)
        time.sleep(1)
        return "\n".join(f"--- rank {rank}\n{self._file(rank).read_text()}" for rank in ranks)


class Failure:
    """An exception on a rank."""

    def __init__(self, rank: int, error: BaseException | None, text: str) -> None:
        self.rank, self.error, self.text = rank, error, text

    def exception(self) -> BaseException:
        error = self.error or AssertionError(self.text)
        error.add_note(f"\nOn rank {self.rank}:\n{self.text}")
        return error


def first(failures: list[Failure]) -> Failure:
    """The cause: a rank that only lost another one comes last."""
    return min(failures, key=lambda f: (type(f.error).__name__ == "RankFailed", f.rank))


# ---- in a worker --------------------------------------------------------------------------------


def work(rank: int, port: int, pipe: Connection, stacks: str) -> None:
    """Takes jobs until the pipe ends."""
    import torch
    import torch.distributed as dist
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    torch.set_num_threads(1)
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        store = TCPStore("127.0.0.1", port, PROCESSES, rank == 0, timedelta(seconds=SECONDS))
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=10)
        )
        meshes: dict[Shape, Any] = {}
        pipe.send_bytes(pickle.dumps("ready"))
        while True:
            try:
                message = pickle.loads(pipe.recv_bytes())
            except EOFError:
                return
            if message is None:
                meshes.clear()
                answer: Any = "renewed"
            else:
                answer = do(rank, meshes, *message)
            gc.collect() if isinstance(answer, Failure) else None
            pipe.send_bytes(packed(rank, answer))


def packed(rank: int, answer: Any) -> bytes:
    """An answer that cannot be pickled is a failure."""
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # some exceptions can be pickled and not be read
        return data
    except Exception as error:
        text = answer.text if isinstance(answer, Failure) else f"{error!r} for {answer!r}"
        return pickle.dumps(Failure(rank, None, text))


def do(rank: int, meshes: dict[Shape, Any], shape: Shape, function: Callable, arguments: Any) -> Any:
    """What the function returns, or its failure, after which the group of this rank is closed."""
    from layerparallel.group.ranks import Ranks

    if shape not in meshes:
        meshes[shape] = make_mesh(rank, shape)
    mesh = meshes[shape]
    if mesh is None:
        return None
    try:
        if len(shape) > 1:
            return function(mesh, *arguments)
        if not isinstance(mesh, Ranks):
            mesh = meshes[shape] = Ranks(mesh)
        return function(mesh, *arguments)
    except BaseException as error:
        failure = Failure(rank, error, traceback.format_exc())
        # The others may wait for this rank: they are told by its end of the connection.
        traceback.clear_frames(error.__traceback__)
        failure.error = error.with_traceback(None)
        error.__cause__ = error.__context__ = None
        close(meshes.pop(shape))
        return failure


def make_mesh(rank: int, shape: Shape) -> Any:
    """A mesh of the first processes, with groups of its own; every process of the pool takes part."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    ranks = torch.arange(math.prod(shape)).view(shape)
    mine: list[Any] = []
    for dimension in range(len(shape)):
        rows = ranks.movedim(dimension, -1).reshape(-1, shape[dimension]).tolist()
        for row in rows:
            group = dist.new_group(row, timeout=timedelta(minutes=10))
            if rank in row:
                mine.append(group)
    if not mine:
        return None
    if len(shape) == 1:
        return DeviceMesh.from_group(mine[0], "cpu", mesh_dim_names=("layer",))
    return DeviceMesh.from_group(mine, "cpu", mesh=ranks, mesh_dim_names=("data", "layer"))


def close(mesh: Any) -> None:
    """Forgets the groups of a mesh, which closes their connections."""
    import torch.distributed as dist

    mesh = getattr(mesh, "mesh", mesh) if not hasattr(mesh, "get_all_groups") else mesh
    for group in mesh.get_all_groups():
        dist.destroy_process_group(group)
    getattr(mesh, "_pg_registry", {}).clear()
