"""The command line: train, resume, evaluate, report, list, bench.

Wrong input ends with one sentence on standard error and exit code 2; a programming error keeps its
traceback.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import tyro

import layerparallel
from layerparallel import board, checkpoint, progress, recipes, record, report, trainer
from layerparallel.board import Board
from layerparallel.checkpoint import CheckpointError
from layerparallel.errors import InputError, UnknownNameError
from layerparallel.evaluate import accuracy
from layerparallel.trainer import Outcome, Run

USAGE_ERROR = 2
INTERRUPTED = 130

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Run folder.")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


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
            ("report", "RUN [RUN ...]", "one HTML page about a run, or several compared"),
            ("list", "", "the recipes there are"),
            ("bench", "NAME [--json]", "measure against ordinary PyTorch on this machine"),
        )
    ]
    return "\n".join(
        ["Train deep residual networks layer-parallel.", "", *rows, "", "Each takes --help."]
    )


# ---- train and resume ---------------------------------------------------------------------------


def train(arguments: list[str]) -> None:
    """`train RECIPE [--run DIR] [options]`: every option of the recipe is a flag."""
    names = ", ".join(recipes.names())
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: layerparallel train RECIPE [options]\n\nRECIPE is one of: {names}")
        return
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"`train` takes the name of a recipe first: there is {names}.")
    name, flags = arguments[0], arguments[1:]
    recipe = recipes.get(name)
    known = [each.name.replace("_", "-") for each in dataclasses.fields(recipe)]
    known += ["run", "tensorboard"]
    for flag in flags:
        option = flag.partition("=")[0].removeprefix("--").replace("_", "-")
        if flag.startswith("--") and not {option, option.removeprefix("no-")} & {*known, "help"}:
            raise UnknownNameError(f"option of {name}", option, known)
    chosen = _parse_recipe(name, recipe, flags)
    run = _build(chosen.recipe)
    if chosen.tensorboard:
        board.summary_writer()  # before there is a folder
    folder = record.new_folder(chosen.run or record.default_folder(name))
    display = progress.display()
    display.say(f"run folder {folder}")
    _finish(run, folder, display, trainer.train, Board(folder) if chosen.tensorboard else None)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What the flags of `train` say."""

    recipe: Any
    run: Path | None
    tensorboard: bool


def _parse_recipe(name: str, recipe: Any, flags: list[str]) -> Chosen:
    help_ = f"Run folder; runs/{name}-DATE if not given."
    logs = "Write TensorBoard logs to RUN/tensorboard, too."
    group = name.replace("-", "_")
    kind = dataclasses.make_dataclass(
        "Train",
        [
            (group, tyro.conf.OmitArgPrefixes[recipe]),
            ("run", Annotated[Path | None, tyro.conf.arg(metavar="DIR", help=help_)], None),
            ("tensorboard", Annotated[Switch, tyro.conf.arg(help=logs)], False),
        ],
    )
    program, about = f"layerparallel train {name}", (recipe.__doc__ or "").partition("\n")[0]
    chosen: Any = tyro.cli(kind, args=flags, prog=program, description=about)
    return Chosen(getattr(chosen, group), chosen.run, chosen.tensorboard)


def resume(run: Folder) -> None:
    """Go on with a run from its last whole checkpoint."""
    plan = _recorded(run)
    display = progress.display()
    if record.read_summary(run) is None:
        logs = Board(run) if (run / board.FOLDER).is_dir() else None
        _finish(plan, run, display, trainer.resume, logs)
    else:
        _draw(plan, run, _trained(plan, run))
        display.say(f"{run} has ended already; its plots and its report were drawn again")


def _recorded(folder: Path) -> Run:
    """The run that a folder's record tells of."""
    start = record.read(folder)[0]
    return _build(recipes.rebuild(start["recipe"], start["options"]))


def _build(options: Any) -> Run:
    try:
        return options.build()
    except ValueError as error:  # what the library says about an option
        raise InputError(str(error)) from error


def _finish(
    run: Run, folder: Path, display: Any, work: Callable[..., Outcome], logs: Board | None
) -> None:
    try:
        outcome = work(run, folder, display, logs)
    except KeyboardInterrupt:
        display.say(f"stopped; go on with: layerparallel resume {folder}")
        raise
    if logs is not None:
        logs.finish(outcome.summary)
    _draw(run, folder, outcome.network)
    display.say(
        f"results in {folder / record.SUMMARY}, plots in {report.folder_of(folder)}, "
        f"all of it in {folder / report.PAGE}"
    )


def _draw(run: Run, folder: Path, network: Any) -> None:
    report.plots(folder)
    if run.picture is not None:
        run.picture(network, report.folder_of(folder))
    report.write([folder], folder / report.PAGE)


def _trained(run: Run, folder: Path) -> Any:
    found = checkpoint.latest(folder)
    if found is None:
        raise CheckpointError(
            f"The run {folder} has no whole checkpoint yet: `layerparallel resume {folder}` first."
        )
    return trainer.restore(run, found).network


# ---- evaluate, report, list, bench --------------------------------------------------------------


def evaluate(run: Folder, json_: Annotated[Switch, tyro.conf.arg(name="json")] = False) -> None:
    """Validation accuracy of the last checkpoint's network, propagated serially and in parallel."""
    plan = _recorded(run)
    torch.set_num_threads(plan.threads)
    network, data = _trained(plan, run), plan.data
    x, y = data.validation_x, data.validation_y
    found = {
        "recipe": plan.recipe,
        "validation_accuracy": accuracy(network, x, y, prepare=plan.prepare),
        "validation_accuracy_parallel": accuracy(network, x, y, parallel=True, prepare=plan.prepare),
    }
    if json_:
        print(json.dumps(found))
        return
    print(f"validation accuracy, serially     {found['validation_accuracy']:.2%}")
    print(f"validation accuracy, in parallel  {found['validation_accuracy_parallel']:.2%}")


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
    """Import a script as Python runs it: its own folder first on the path."""
    sys.path.insert(0, str(path.parent))
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
    "report": _typed("report", report_),
    "list": _typed("list", list_),
    "bench": bench,
}
