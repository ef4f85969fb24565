"""train, resume, evaluate: in one process, or in all that torchrun has started."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from .. import recipes, report, runs
from ..errors import InputError
from ..group.team import Team
from ..runs import Run, board, checkpoint, progress, record
from ..runs.board import Board
from ..runs.checkpoint import CheckpointError
from ..runs.evaluate import figures, told, validation
from ..runs.files import write_atomically
from ..runs.interruption import SAVED
from ..runs.progress import Display, Silent
from .named import named_recipe
from .options import Shown
from .parsing import parse

LAUNCH = ".launch"
"""In a run folder: which torchrun has begun the run."""

Folder = Annotated[Path, Shown("RUN", positional=True)]
LayerRanks = Annotated[int | None, Shown("P")]


# ---- the processes ------------------------------------------------------------------------------


@contextmanager
def ranks(layer_ranks: int | None, device: str) -> Iterator[Team]:
    """All processes that torchrun has started as one team, and their end; or this one alone.

    Raises:
        InputError: on every rank, where they do not fit together.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 and layer_ranks in (None, 1):
        yield Team()
        return
    from ..group import start, watch

    mesh = start.start(layer_ranks, device)
    if not is_first():  # of fallbacks, which the first one tells
        warnings.filterwarnings("ignore", "layer-parallel", RuntimeWarning)
    try:
        yield Team.of(mesh)
    except SAVED:
        start.stop()
        raise
    except (InputError, KeyboardInterrupt, SystemExit) as error:
        watch.report(error)  # the others end, too, where they have not met it themselves
        start.stop()
        raise
    start.stop()  # after any other error the watch has to see how this process ends


def built(options: Any, team: Team) -> Run:
    """The run with these options, the same on all ranks; one rank of a node reads the data first.

    Raises:
        InputError: on every rank: an option out of its bounds, data that cannot be had, ranks that mean
            different runs.
    """

    def build() -> Run:
        try:
            return options.build(team)
        except ValueError as error:  # what the library says about an option
            raise InputError(str(error)) from error

    if team.alone:
        return build()
    from ..group.start import agree

    chosen = {f"option {name}": value for name, value in dataclasses.asdict(options).items()}
    agree(team.everyone, {"recipe": options.name, **chosen})
    run = team.in_turn(os.environ.get("LOCAL_RANK", "0") == "0", build)
    agree(team.everyone, {"data": [run.data.train_x, run.data.train_y, run.data.validation_x]})
    return run


def is_first() -> bool:
    """Whether this process writes and speaks, also while there is no team."""
    return os.environ.get("RANK", "0") == "0"


def display() -> Display:
    """The first process's."""
    return progress.display() if is_first() else Silent()


# ---- train --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Train:
    """What `train` takes beside the recipe's options."""

    sections: ClassVar[dict[str, str]] = {"run": "Run"}

    run: Annotated[Path | None, Shown("DIR", alias="--run-folder")] = None
    """Run folder; runs/RECIPE-DATE if not given. torchrun takes --run for its own: --run-folder."""
    tensorboard: bool = False
    """Write TensorBoard logs to RUN/tensorboard, too."""
    layer_ranks: LayerRanks = None
    """Under torchrun: processes that share the network's depth; all of them if not given. More
    processes are data-parallel to these."""


def chosen_by(arguments: list[str]) -> tuple[Train, Any]:
    """What is typed behind `train`: the recipe with its options, and what there is beside them.

    Raises:
        InputError: something typed is no option, or no value of its option.
    """
    recipe, about, flags = named_recipe("train", arguments)
    chosen, options = parse(f"train {recipe.name}", about, flags, Train, recipe)
    return chosen, options


def train(arguments: list[str]) -> None:
    """`train RECIPE [--run DIR] [--layer-ranks P] [options]`: every option of the recipe is a flag."""
    chosen, options = chosen_by(arguments)
    with ranks(chosen.layer_ranks, options.device) as team:
        if chosen.run and not _restarted():  # this, too, before data are read
            record.check_new(chosen.run)
        if chosen.tensorboard:
            board.summary_writer()
        run = built(options, team)
        folder, resumes = team.once(lambda: _folder(options.name, chosen))
        shown = display()
        try:
            shown.say(f"run folder {folder}")
            if resumes:
                shown.say("torchrun has started it again: it goes on from its last checkpoint")
            network = _done(run, folder, shown, resumes, chosen.tensorboard)
        except (InputError, KeyboardInterrupt, SystemExit) as error:
            if is_first():  # what the method's own checks refuse has one line, but cannot go on
                record.discard_unbegun(folder, lines=isinstance(error, InputError))
            raise
    _finish(options, run, folder, shown, network)


def _folder(name: str, chosen: Train) -> tuple[Path, bool]:
    """The run folder, new; or that of the same run before torchrun started its processes again.

    Returns:
        And whether there is something to go on with.
    """
    launch = _launch()
    if _restarted():
        for folder in (
            [chosen.run] if chosen.run else sorted(Path("runs").glob(f"{name}-*"), reverse=True)
        ):
            if (folder / LAUNCH).exists() and (folder / LAUNCH).read_text() == launch:
                return folder, _has_begun(folder)
    folder = record.new_folder(chosen.run or record.default_folder(name))
    if launch:
        write_atomically(folder / LAUNCH, launch.encode())
    return folder, False


def _restarted() -> bool:
    """Whether torchrun has started this process again."""
    return bool(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))


def _launch() -> str:
    """Names the torchrun that has started this process, in all its attempts; empty without one."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"{socket.gethostname()} {os.getppid()}" if job == "none" else job


def _has_begun(folder: Path) -> bool:
    try:
        record.read(folder)
    except record.RecordError:  # killed before its first line
        return False
    return True


def _done(run: Run, folder: Path, shown: Display, resumes: bool, logs: bool) -> Any:
    """Trains to the end; this rank's network."""
    if resumes and run.team.once(lambda: record.read_summary(folder) is not None):
        return None
    listener = Board(folder) if logs and run.team.first else None
    work = runs.resume if resumes else runs.train
    outcome = work(run, folder, shown, listener)
    if listener is not None:
        listener.finish(outcome.summary)
    return outcome.network


def _finish(options: Any, run: Run, folder: Path, shown: Display, network: Any) -> None:
    """Draws what there is to draw: the first process, alone, when the others need not wait for it."""
    if not is_first():
        return
    if not run.team.alone or network is None:
        run = built(options, Team())
        network = trained(run, folder)
    _draw(run, folder, network)
    shown.say(
        f"results in {folder / record.SUMMARY}, plots in {report.folder_of(folder)}, "
        f"all of it in {folder / report.PAGE}"
    )


def _draw(run: Run, folder: Path, network: Any) -> None:
    report.plots(folder)
    if run.picture is not None:
        run.picture(network, report.folder_of(folder))
    report.write([folder], folder / report.PAGE)


# ---- resume and evaluate ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with a run from its last whole checkpoint, on any number of ranks."""

    run: Folder
    """Run folder."""
    layer_ranks: LayerRanks = None
    """Under torchrun: processes that share the network's depth; all of them if not given."""


def resume(run: Path, layer_ranks: int | None) -> None:
    """See `Resume`."""
    options, shown = _recorded(run), display()
    if record.read_summary(run) is not None:
        if is_first():
            plan = built(options, Team())
            _draw(plan, run, trained(plan, run))
        shown.say(f"{run} has ended already; its plots and its report were drawn again")
        return
    with ranks(layer_ranks, options.device) as team:
        plan = built(options, team)
        network = _done(plan, run, shown, True, (run / board.FOLDER).is_dir())
    _finish(options, plan, run, shown, network)


def _recorded(folder: Path) -> Any:
    """The recipe with its options that a folder's record tells of."""
    start = record.read(folder)[0]
    return recipes.rebuild(start["recipe"], start["options"])


def trained(run: Run, folder: Path) -> Any:
    """The network of a run's last checkpoint; on a team this rank's part of it."""
    found = checkpoint.latest(folder, run.team.everyone)
    if found is None:
        raise CheckpointError(
            f"The run {folder} has no whole checkpoint yet: `layerparallel resume {folder}` first."
        )
    return runs.restore(run, found).network


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Loss and accuracy of the last checkpoint's network, propagated serially and in parallel."""

    run: Folder
    """Run folder."""
    json_: bool = False
    """Print one JSON object."""
    layer_ranks: LayerRanks = None
    """Under torchrun: processes that share the network's depth; all of them if not given."""


def evaluate(run: Path, json_: bool, layer_ranks: int | None) -> None:
    """See `Evaluate`."""
    options = _recorded(run)
    with ranks(layer_ranks, options.device) as team:
        plan = built(options, team)
        torch.set_num_threads(plan.threads)
        network, data = trained(plan, run), plan.data

        def measured(parallel: bool) -> dict[str, float]:
            x, y = data.validation_x, data.validation_y
            return figures(network, x, y, plan.task, parallel, plan.prepare)

        serially, in_parallel = measured(parallel=False), measured(parallel=True)
    if not is_first():
        return
    if json_:
        found = validation(serially) | validation(in_parallel, parallel=True)
        print(json.dumps({"recipe": plan.recipe, **found}))
        return
    print(f"validation, serially     {told(serially)}")
    print(f"validation, in parallel  {told(in_parallel)}")
