"""Processes of their own, as ranks: by torchrun, or forked with its environment to be quick."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOAD = [
    "torch._dynamo",  # the first optimiser imports it
    "layerparallel.runs.checkpoint.shards",
    "layerparallel.network.distribution",
    "layerparallel.group.start",
    "layerparallel.training.backprop",
]
"""What processes are forked with: whoever starts the first one of a test run, decides for all."""
SECONDS = 60.0
"""That a job may take, unless it says otherwise."""


class StuckError(AssertionError):
    """A job took too long; the text has the stacks of the processes."""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def torchrun(
    processes: int,
    *command: str | Path,
    seconds: float = SECONDS,
    options: tuple[str, ...] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """A real torchrun of a script with arguments; one that takes too long is killed with all it started.

    Returns:
        Its exit status, and all that was printed, in `stdout`.
    """
    call = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    call += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", *options]
    with tempfile.TemporaryFile("w+") as output:
        started = subprocess.Popen(
            [*call, *map(str, command)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        try:
            status = started.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            children = descendants(started.pid) if started.poll() is None else []
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            started.kill()
            started.wait()
        output.seek(0)
        text = output.read()
    if status is None:
        raise StuckError(f"{' '.join(map(str, command))} took more than {seconds:g} s:\n{text}")
    return subprocess.CompletedProcess(call, status, text)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [*descendants(int(child)), int(child)]
    return found


@dataclass
class Rank:
    """A process that `launch` has started."""

    process: Any
    pipe: Connection
    output: Path

    def returned(self, seconds: float = SECONDS) -> Any:
        """What its function returned; it ends with that."""
        assert self.pipe.poll(seconds), f"a rank did not end: {self.said}"
        answer = pickle.loads(self.pipe.recv_bytes())
        self.process.join(seconds)
        assert self.process.exitcode == 0, self.said
        return answer

    def status(self, seconds: float = SECONDS) -> int:
        """With which it ends."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"a rank did not end: {self.said}"
        return self.process.exitcode

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.output.read_text()


def launch(
    ranks: int,
    folder: Path,
    function: Callable[..., Any],
    *arguments: Any,
    port: int | None = None,
    **environment: str,
) -> list[Rank]:
    """``function(*arguments)`` in processes that see what torchrun would tell them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = port or free_port()
    made = []
    for rank in range(ranks):
        here, there = context.Pipe()
        its = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}"}
        its |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", **environment}
        output = folder / f"said-{rank}"
        output.touch()
        process = context.Process(
            target=become, args=(its, str(output), there, function, arguments), daemon=False
        )
        process.start()
        there.close()
        made.append(Rank(process, here, output))
    return made


def alone(folder: Path, function: Callable[..., Any], *arguments: Any) -> Rank:
    """``function(*arguments)`` in a process that torchrun has not started."""
    told = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    (rank,) = launch(1, folder, function, *arguments, **dict.fromkeys(told, ""))
    return rank


def become(
    environment: dict[str, str], output: str, pipe: Connection, function: Callable, arguments: Any
) -> None:
    """A rank; its exceptions end it as they end a process that was started on its own."""
    import torch

    said = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update({key: value for key, value in environment.items() if value})
    torch.set_num_threads(1)
    status = 0
    try:
        pipe.send_bytes(pickle.dumps(function(*arguments)))
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    atexit._run_exitfuncs()  # a forked process leaves them out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0))
