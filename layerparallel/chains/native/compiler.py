"""The system's C compiler, and the folder of what it has made.

Nothing is loaded from a folder that others may write to. Files are put there whole, so that many
processes may compile the same at once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from .code import headers

FLAGS = (
    *("-O2", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-w"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
SECONDS = 120
"""Longest that a compiler may take."""
SHOWN = 2.0
"""Seconds from which a user is told that something is compiled."""


class CompilerError(Exception):
    """There is no compiler, or it has failed; the message says which."""


@cache
def compiler() -> str:
    """The path of the C compiler: $CC, cc, gcc or clang.

    Raises:
        CompilerError: there is none.
    """
    wanted = os.environ.get("CC")
    for name in (wanted,) if wanted else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return found
    if wanted:
        raise CompilerError(f"CC={wanted} is no program; set it to a C compiler, or to none")
    raise CompilerError("no C compiler was found; install gcc or clang, or set CC to one")


def flags() -> list[str]:
    """What the compiler is called with: ours, and those of $CFLAGS behind them."""
    return [*FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]


@cache
def _identity(path: str) -> str:
    """The compiler's version, and the processor."""
    return "\n".join([path, _run([path, "--version"], 20).stdout, _processor()])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor() + platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def folder() -> Path:
    """Where compiled loops are kept, made if need be.

    Raises:
        CompilerError: others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "layerparallel" / "native"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise CompilerError(
            f"{path} cannot be made ({error}); set XDG_CACHE_HOME to a folder of yours"
        ) from error
    if hasattr(os, "getuid") and (
        found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise CompilerError(
            f"others may write to {path}, so nothing is loaded from it; make it yours alone (chmod 700)"
        )
    return path


def compiled(source: str) -> ctypes.CDLL:
    """The library of a C source, from the folder where it was compiled before.

    Raises:
        CompilerError: the compiler fails, takes too long, or writes what cannot be loaded.
    """
    texts = headers()
    parts = [source, *texts.values(), *flags(), _identity(compiler())]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    path = folder() / f"{key}.so"
    if not path.exists():
        _compile(source, texts, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CompilerError(f"{compiler()} wrote a file that cannot be loaded ({error})") from error


def _compile(source: str, texts: dict[str, str], path: Path) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        scratch = Path(name)
        for file, text in {**texts, "loop.c": source}.items():
            (scratch / file).write_text(text)
        done = _run(
            [compiler(), *flags(), "-o", str(scratch / "loop.so"), str(scratch / "loop.c"), "-lm"],
            SECONDS,
        )
        if done.returncode:
            raise CompilerError(
                f"{compiler()} failed with {done.returncode}: {done.stderr.strip()[:300]}"
            )
        if not (scratch / "loop.so").exists():
            raise CompilerError(f"{compiler()} wrote no file")
        os.replace(scratch / "loop.so", path)
    seconds = time.monotonic() - began
    if seconds > SHOWN:
        print(f"compiled a native loop in {seconds:.0f} s; it is kept in {path.parent}", file=sys.stderr)


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"{command[0]} did not end within {seconds:.0f} s") from error
    except OSError as error:
        raise CompilerError(f"{command[0]} cannot be run ({error})") from error
