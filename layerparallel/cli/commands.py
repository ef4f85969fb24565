"""The commands there are, and those that are not about one run.

Wrong input ends with one sentence on standard error and exit code 2; a programming error keeps its
traceback.
"""

import ast
import importlib.util
import inspect
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated

import layerparallel

from .. import report
from ..errors import INTERRUPTED, InputError, UnknownNameError, imported
from .doctor import Doctor, doctor
from .named import listed
from .options import Shown
from .parsing import is_option, parse, table
from .predict import predict
from .runs import Evaluate, Resume, evaluate, resume, train
from .suggestions import nearest

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    imported()
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
            raise _unknown(name)
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


def _unknown(name: str) -> InputError:
    """What to say to a command that there is not."""
    meant = nearest(name, COMMANDS)
    if meant is None:
        return UnknownNameError("command", name, COMMANDS)
    return InputError(f"There is no command {name!r}: did you mean {meant!r}?")


def overview() -> str:
    """The help of the whole command line."""
    rows = (
        ("train", "RECIPE [options]", "train a network; the options are those of the recipe"),
        ("resume", "RUN", "go on with a run that was stopped or killed"),
        ("evaluate", "RUN", "accuracy of its network, propagated serially and in parallel"),
        ("predict", "RECIPE [options]", "how it would scale over many ranks of a cluster"),
        ("report", "RUN [RUN ...]", "one HTML page about a run, or several compared"),
        ("list", "", "the recipes there are, and what data each needs"),
        ("doctor", "", "what this machine has, and whether native loops work on it"),
        ("bench", "NAME [options]", "measure against ordinary PyTorch on this machine"),
    )
    return "\n".join(
        [
            "Train deep residual networks layer-parallel.",
            "",
            table((f"  layerparallel {name} {arguments}", told) for name, arguments, told in rows),
            "",
            "Each takes --help. On P processes that share a network's depth:",
            "  torchrun --nproc-per-node P -m layerparallel train RECIPE --layer-ranks P",
        ]
    )


# ---- report, list, bench --------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One HTML page, of one file, about a run or about several compared."""

    runs: Annotated[tuple[Path, ...], Shown("RUN [RUN ...]", positional=True)]
    """Run folders, ended or not."""
    output: Annotated[Path | None, Shown("FILE")] = None
    """The page; RUN/report.html if not given, of several runs ./report.html."""
    open_: bool = False
    """Show the page in a browser."""


def report_(runs: tuple[Path, ...], output: Path | None, open_: bool) -> None:
    """See `Report`."""
    alone = runs[0] / report.PAGE if len(runs) == 1 else Path(report.PAGE)
    page = report.write(runs, output or alone)
    print(page)
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        raise InputError(f"No browser was found: open {page} in one yourself.")


@dataclass(frozen=True)
class List:
    """The recipes there are, what data each needs, and what it trains."""


def list_() -> None:
    """See `List`."""
    print(listed())


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
    if not arguments or arguments[0] in ("list", "-h", "--help"):
        print("usage: layerparallel bench NAME [options]\n")
        print(table((name, first_line(path)) for name, path in known.items()))
        print("\nThe options of one: layerparallel bench NAME --help")
    elif is_option(arguments[0]):
        raise InputError(
            "`bench` takes a benchmark's name first: `layerparallel bench list` lists them."
        )
    elif arguments[0] not in known:
        raise UnknownNameError("benchmark", arguments[0], ["list", *known])
    else:
        _load(known[arguments[0]]).main(arguments[1:])


def first_line(path: Path) -> str:
    """Of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


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


def _typed(name: str, kind: type, function: Callable[..., None]) -> Callable[[list[str]], None]:
    """A function of a dataclass's fields as a command whose options they are."""

    def command(arguments: list[str]) -> None:
        (chosen,) = parse(name, inspect.getdoc(kind) or "", arguments, kind)
        function(**vars(chosen))

    return command


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "resume": _typed("resume", Resume, resume),
    "evaluate": _typed("evaluate", Evaluate, evaluate),
    "predict": predict,
    "report": _typed("report", Report, report_),
    "list": _typed("list", List, list_),
    "doctor": _typed("doctor", Doctor, doctor),
    "bench": bench,
}
