"""Processes that wait for jobs without using a core, and time them in turn.

Ranks 0 and 1 are connected by gloo and have one thread each; one more process is alone and has two
threads. A job is prepared once, by a function of the top level of a module, and then called many times.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

Key = TypeVar("Key")
BOTH, FIRST, THREADED = (0, 1), (0,), (2,)
"""Which processes do a job: both ranks, the first rank alone, or the process of two threads."""


@dataclass(frozen=True)
class Job:
    """What is timed: ``make(rank, *arguments)`` returns a function that the processes in `who` call."""

    name: str
    make: Callable[..., Callable[[], object]]
    arguments: tuple[Any, ...] = ()
    who: tuple[int, ...] = FIRST


@dataclass
class Crew:
    """The three processes; a context manager that ends them.

    Raises:
        RuntimeError: a job raises in a process, or a process ends; the text has its traceback.
    """

    pipes: list[Connection] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)

    def __enter__(self) -> Crew:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory(prefix="layerparallel-bench-")
        barrier = context.Barrier(2)
        for rank in range(3):
            here, there = context.Pipe()
            given = (rank, there, barrier, f"{self.folder.name}/store")
            process = context.Process(target=serve, args=given, daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        self._answers((0, 1, 2))
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(5)
        self._stop()
        self.folder.cleanup()

    def _stop(self) -> None:
        """After a failure the other rank may wait for ever."""
        for process in self.processes:
            process.kill()
            process.join()

    def call(self, who: Sequence[int], function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(worker, *arguments)`` in some of the processes at the same time."""
        for rank in who:
            self.pipes[rank].send((function, arguments))
        return self._answers(who)

    def _answers(self, who: Sequence[int]) -> list[Any]:
        found: dict[int, Any] = {}
        while len(found) < len(who):
            waiting = [rank for rank in who if rank not in found]
            ready = wait([self.pipes[rank] for rank in waiting])
            for rank in (each for each in waiting if self.pipes[each] in ready):
                try:
                    failed, found[rank] = self.pipes[rank].recv()
                except EOFError:
                    self.processes[rank].join(5)
                    status = self.processes[rank].exitcode
                    failed, found[rank] = True, f"it has ended with status {status}"
                if failed:
                    self._stop()
                    raise RuntimeError(f"process {rank} of the benchmark failed: {found[rank]}")
        return [found[rank] for rank in who]

    # ---- jobs -----------------------------------------------------------------------------------

    def prepare(self, *jobs: Job) -> None:
        """Makes jobs ready in their processes."""
        for job in jobs:
            self.call(job.who, prepare, job)

    def once(self, job: Job) -> float:
        """Milliseconds of one call, from the first process's start to the last one's end."""
        spans = self.call(job.who, turn, job.name, len(job.who))
        return 1e3 * (max(end for _, end in spans) - min(begin for begin, _ in spans))

    def ask(self, job: Job, method: str, *arguments: Any) -> list[Any]:
        """What a method of the prepared job returns, in its processes."""
        return self.call(job.who, ask, job.name, method, *arguments)

    def forget(self) -> None:
        """Drops all jobs and their memory."""
        self.call((0, 1, 2), forget)

    def medians(self, jobs: Mapping[Key, Job], rounds: int) -> dict[Key, float]:
        """Milliseconds of every job, taken in turn A B A B, after one round to warm up.

        A turn is a call that is not timed, which brings the job's data into the caches, and one that is.
        """
        found: dict[Key, list[float]] = {label: [] for label in jobs}
        for n in range(rounds + 1):
            for label, job in jobs.items():
                spent = self.once(job)
                if n:
                    found[label].append(spent)
        return {label: statistics.median(each) for label, each in found.items()}


# ---- in a process -------------------------------------------------------------------------------


@dataclass
class Worker:
    rank: int
    barrier: Any
    jobs: dict[str, Any] = field(default_factory=dict)


def serve(rank: int, pipe: Connection, barrier: Any, store: str) -> None:
    """Does what comes through the pipe until it ends."""
    import torch.distributed as dist

    torch.set_num_threads(2 if rank == 2 else 1)
    warnings.simplefilter("ignore")  # a solve that falls back is counted in its row
    if rank < 2:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    worker = Worker(rank, barrier)
    pipe.send((False, "ready"))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = False, function(worker, *arguments)
        except Exception:
            answer = True, traceback.format_exc()
        pipe.send(answer)


def prepare(worker: Worker, job: Job) -> None:
    worker.jobs[job.name] = job.make(worker.rank, *job.arguments)


def turn(worker: Worker, name: str, together: int) -> tuple[float, float]:
    """When a call began and ended, by a clock that all processes of the machine share."""
    job = worker.jobs[name]
    job()
    if together > 1:
        worker.barrier.wait()
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    job()
    return begin, time.clock_gettime(time.CLOCK_MONOTONIC)


def ask(worker: Worker, name: str, method: str, *arguments: Any) -> Any:
    return getattr(worker.jobs[name], method)(*arguments)


def forget(worker: Worker) -> None:
    import gc

    worker.jobs.clear()
    gc.collect()
