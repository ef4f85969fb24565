"""The commands there are, and those that are not about one run.

Wrong input ends with one sentence on standard error and exit code 2; a programming error keeps its
traceback.
"""

import importlib.util
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro

import layerparallel

from .. import recipes, report
from ..errors import InputError, UnknownNameError
from .runs import Switch, evaluate, resume, train

USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"layerparallel {layerparallel.__version__}")
        return 0
    try:
        if name not in COMMANDS:
            raise UnknownNameError("command", name, COMMANDS)
        COMMANDS[name](rest)
    except InputError as error:
        print(f"layerparallel: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    return 0


def overview() -> str:
    """The help of the whole command line."""
    rows = [
        f"  layerparallel {name} {arguments}".ljust(44) + summary
        for name, arguments, summary in (
            ("train", "RECIPE [options]", "train a network; the options are those of the recipe"),
            ("resume", "RUN", "go on with a run that was stopped or killed"),
            ("evaluate", "RUN", "accuracy of its network, propagated serially and in parallel"),
            ("predict", "RECIPE [options]", "how it would scale over many ranks of a cluster"),
            ("report", "RUN [RUN ...]", "one HTML page about a run, or several compared"),
            ("list", "", "the recipes there are"),
            ("bench", "NAME [--json]", "measure against ordinary PyTorch on this machine"),
        )
    ]
    return "\n".join(
        [
            "Train deep residual networks layer-parallel.",
            "",
            *rows,
            "",
            "Each takes --help. On P processes that share a network's depth:",
            "  torchrun --nproc-per-node P -m layerparallel train RECIPE --layer-ranks P",
        ]
    )


# ---- report, list, predict, bench -----------------------------------------------------------------


Output = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", help="The page; RUN/report.html, of several runs ./report.html."),
]
Open = Annotated[Switch, tyro.conf.arg(name="open", help="Show the page in a browser.")]


def report_(
    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help="Run folders, ended or not."),
    ] = (),
    output: Output = None,
    open_: Open = False,
) -> None:
    """One HTML page, of one file, about a run or about several compared."""
    if not runs:
        raise InputError("`report` takes run folders: give the one that `layerparallel train` named.")
    alone = runs[0] / report.PAGE if len(runs) == 1 else Path(report.PAGE)
    page = report.write(runs, output or alone)
    print(page)
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        raise InputError(f"No browser was found: open {page} in one yourself.")


def predict(arguments: list[str]) -> None:
    """`predict RECIPE [options]`: see `layerparallel.predict`."""
    from ..predict import command

    command.predict(arguments)


def list_() -> None:
    """The recipes there are."""
    for name in recipes.names():
        print(f"{name:<14} {(recipes.get(name).__doc__ or '').partition(chr(10))[0]}")


def benchmarks() -> dict[str, Path]:
    """Every benchmark's run.py by its name: of the wheel, or of the checkout this package is in."""
    package = Path(layerparallel.__file__).parent
    for parent in (package / "_benchmarks", package.parent / "benchmarks"):
        found = {path.parent.name: path for path in sorted(parent.glob("*/run.py"))}
        if found:
            return found
    return {}


def bench(arguments: list[str]) -> None:
    """`bench NAME [options]`: what follows the name goes to the benchmark."""
    known = benchmarks()
    names = ", ".join(known) or "none"
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: layerparallel bench NAME [--json]\n\nNAME is one of: {names}")
        return
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"`bench` takes the name of a benchmark first: there is {names}.")
    if arguments[0] not in known:
        raise UnknownNameError("benchmark", arguments[0], known)
    _load(known[arguments[0]]).main(arguments[1:])


def _load(path: Path) -> ModuleType:
    """Import a benchmark: its own folder first on the path, then what all benchmarks share."""
    sys.path[:0] = [str(path.parent), str(path.parents[1] / "common")]
    specification = importlib.util.spec_from_file_location(f"benchmark_{path.parent.name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def _typed(name: str, function: Callable[..., None]) -> Callable[[list[str]], None]:
    """A function whose annotations say what its flags are, as a command."""
    return lambda rest: tyro.cli(function, args=rest, prog=f"layerparallel {name}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "resume": _typed("resume", resume),
    "evaluate": _typed("evaluate", evaluate),
    "predict": predict,
    "report": _typed("report", report_),
    "list": _typed("list", list_),
    "bench": bench,
}
