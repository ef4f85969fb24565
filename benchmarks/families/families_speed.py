"""Rows of the comparison: time, memory and bytes on two processes, and predictions for more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from case import hierarchies, multigrid
from comparing import Row, judged, row, turns
from families_recipe import Families
from families_steps import Piped, Weighed, foreseen, images, on_processes
from workers import BOTH, Crew, Job

from layerparallel.group import Link
from layerparallel.network.tuning import describe
from layerparallel.predict.baselines import OneRank, data_parallel, pipeline
from layerparallel.predict.links import PRESETS
from layerparallel.predict.task import Task
from layerparallel.recipes.base import channels_last

LINK = PRESETS["loopback"]
FORMS: tuple[Literal["Serial()", "eager"], ...] = ("Serial()", "eager")
LONG = 10_000
"""Epochs for which learning rates are planned while steps are timed: more than are ever done."""


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Args:
        label: for people.
        method: of the recipe; those whose gradient is that of serial training are "serial".
        kind: what the processes are.
        gradient: what is to be said of it.
    """

    label: str
    method: str
    kind: str
    gradient: str


WAYS = {
    "serial": Way("serial, one process", "serial", "alone", "exact"),
    "data": Way("data parallel (DDP)", "serial", "data", "exact"),
    "pipeline": Way("pipeline", "serial", "layer", "exact"),
    "mgrit": Way("MGRIT, one cycle each way", "mgrit", "layer", "inexact"),
    "penalty": Way("DS-SPH, penalty", "penalty", "layer", "of each stage's own loss"),
    "augmented": Way("DS-SPH, augmented Lagrangian", "augmented", "layer", "of each stage's own loss"),
    "parareal": Way("parareal network", "parareal", "layer", "exact, of another network"),
}


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how often.

    Args:
        recipe: the network and the mini batch.
        batches: of random images, on which a step is timed.
        epochs: over which a hybrid's start is shared out.
        rounds, attempts: turns that are timed, and how often in search of a quiet machine.
        ranks: for which rows are predicted.
        compiled: whether blocks compiled as one function are among the serial baselines.
        weighed: methods whose memory is measured.
    """

    recipe: Families
    batches: int = 4
    epochs: int = 10
    rounds: int = 7
    attempts: int = 3
    ranks: tuple[int, ...] = (2, 4, 16, 64)
    compiled: bool = True
    weighed: tuple[str, ...] = tuple(WAYS)

    def of(self, method: str, ranks: int = 2) -> Families:
        """The recipe of a row, on as few images as are timed."""
        count = self.batches * self.recipe.batch
        interval, _ = hierarchies(self.recipe.depth, ranks, self.recipe.T)[0]
        return replace(
            self.recipe,
            method=method,
            ranks=ranks,
            training=count,
            epochs=LONG,
            interval=interval,
        )

    def hybrid(self, parallel: float, relayed: float, fill: float) -> float:
        """Milliseconds of a mean step: of parallel epochs, of serial ones, and of what comes before."""
        share = replace(self.recipe, epochs=self.epochs).parallel_epochs / self.epochs
        return share * parallel + (1 - share) * relayed + fill / self.batches / self.epochs


# ---- two processes ------------------------------------------------------------------------------


def measured(crew: Crew, sizes: Sizes, pipelines: Sequence[Job]) -> tuple[list[Row], Job]:
    """Time of a training step, all methods in turn; and the quickest of the pipelines given."""
    one = sizes.of("serial")
    serial = {form: Job(form, on_processes, (replace(one, form=form), "alone")) for form in FORMS}
    if sizes.compiled:
        serial["compiled"] = Job("compiled", on_processes, (one, "alone", "compiled"))
    jobs = {job.name: job for job in pipelines}
    for form in FORMS:
        jobs[f"data, {form}"] = Job(
            f"data, {form}", on_processes, (replace(one, form=form), "data"), BOTH
        )
    for name in ("mgrit", "penalty", "augmented", "parareal"):
        jobs[name] = Job(name, on_processes, (sizes.of(name), "layer"), BOTH)
    for what in ("relayed", "fill"):
        jobs[what] = Job(what, on_processes, (sizes.of("augmented"), "layer", what), BOTH)
    found = judged(sizes.attempts, lambda: turns(crew, sizes.rounds, serial, jobs))
    times = found.pop("times")
    crew.forget()
    parallel = {name: times[name] for name in ("penalty", "augmented")}
    for name, spent in parallel.items():
        times[name] = sizes.hybrid(spent, times["relayed"], times["fill"])
    times["serial"] = found["baseline_ms"]
    form = min(FORMS, key=lambda each: times[f"data, {each}"])
    times["data"] = times[f"data, {form}"]
    piped = min(pipelines, key=lambda job: times[job.name])
    times["pipeline"] = times[piped.name]
    _, schedule, count, closed = piped.arguments
    stages = "closed form" if closed else "eager"
    settings = {"pipeline": f"{schedule}, {count} microbatches, {stages} stages"}
    settings["data"] = form
    settings["mgrit"] = described(sizes.of("mgrit"))
    rows = []
    for name, way in WAYS.items():
        more: Row = {"mark": "measured", "ranks": 1 if name == "serial" else 2, "method": name}
        more["setting"] = settings.get(name, "")
        if name in parallel:
            more |= {"parallel_ms": parallel[name], "relayed_ms": times["relayed"]}
            more["fill_ms"] = times["fill"] / sizes.batches
        rows.append(row(way.label, **found, ours_ms=times[name], **more))
    return rows, piped


def best_pipelines(crew: Crew, sizes: Sizes) -> list[Job]:
    """The three quickest of all schedules, numbers of microbatches and kinds of stages."""
    recipe, found = sizes.of("serial"), {}
    for schedule in ("GPipe", "1F1B"):
        for microbatches in (2, 4, 8, 16):
            if recipe.batch % microbatches:
                continue
            for closed in (True, False):
                name = f"{schedule} {microbatches} {closed}"
                job = Job(name, Piped, (recipe, schedule, microbatches, closed), BOTH)
                crew.prepare(job)
                found[job] = min(crew.once(job) for _ in range(3))
                crew.forget()
    return sorted(found, key=lambda job: found[job])[:3]


def described(recipe: Families) -> str:
    """Its multigrid solver."""
    solver = multigrid(recipe.depth, recipe.interval, recipe.levels)
    return f"forward {describe(solver.forward)}, adjoint {describe(solver.adjoint)}"


def weighed(sizes: Sizes, piped: Job) -> dict[str, float]:
    """MiB at the peak of a step, on the process that needs most; fresh processes for each method."""
    found = {}
    for name in sizes.weighed:
        way = WAYS[name]
        recipe = sizes.of(way.method)
        small = replace(recipe, depth=8, interval=4, batch=4, training=8)
        make: Any = on_processes
        arguments: tuple[tuple[Any, ...], ...] = tuple((each, way.kind) for each in (small, recipe))
        if name == "pipeline":
            make, how = Piped, piped.arguments[1:]
            arguments = (small, how[0], 2, how[2]), (recipe, *how)
        who = (0,) if way.kind == "alone" else BOTH
        job = Job(name, Weighed, (make, *arguments), who)
        with Crew() as crew:
            crew.prepare(job)
            crew.once(job)
            crew.once(job)
            found[name] = max(crew.ask(job, "peak"))
    return found


def kept(sizes: Sizes, method: str) -> int:
    """Bytes of auxiliary variables and multipliers of the whole training set; counted."""
    if method not in ("penalty", "augmented"):
        return 0
    store: Any = sizes.of(method).trained(images(sizes.of(method)))
    assert sizes.recipe.training is not None
    return store.store.nbytes * sizes.recipe.training // (sizes.batches * sizes.recipe.batch)


# ---- more processes than there are --------------------------------------------------------------


def predicted(sizes: Sizes) -> Iterator[Row]:
    """All methods on all numbers of ranks, against serial training by the same clock."""
    link, rounds = LINK.link, max(2, sizes.rounds // 2)
    one = {form: foreseen(replace(sizes.of("serial", 1), form=form), link, rounds) for form in FORMS}
    form = min(FORMS, key=lambda each: one[each].milliseconds)
    step = one[form].milliseconds
    base: Row = {"mark": "predicted", "link": str(LINK), "baseline": form, "baseline_ms": step}
    x, y = sizes.recipe.case.data()
    task = Task("chain", lambda _: sizes.recipe.case.network(), sizes.recipe.depth, x, y)
    task.__dict__["plain"] = channels_last(task.network.to_serial())  # quicker so
    gradient = OneRank(task)
    for ranks in sizes.ranks:
        for name, way in WAYS.items():
            if name == "serial":
                continue
            if name in ("data", "pipeline"):
                ours = exactly(name, gradient, step, ranks, link)
            else:
                ours = by_ranks(sizes, name, ranks, link, rounds)
            more = {"method": name, "ranks": ranks, "threads": f"{ranks} processes of 1"}
            yield row(way.label, **base, **more, **ours)


def exactly(name: str, one: OneRank, step: float, ranks: int, link: Link) -> Row:
    """Data parallelism and pipelines: a formula over measured parts, in their favour."""
    alone = one(one.task.batch, one.exact(one.task.batch)).total
    rest = max(0.0, step - 1e3 * alone)  # batch and update
    if name == "data":
        spent = data_parallel(one, ranks, link).seconds
        sent = 2 * (ranks - 1) / ranks * one.task.parameter_bytes
        return {"ours_ms": 1e3 * spent + rest, "bytes_sent": round(sent), "setting": ""}
    ways = {schedule: pipeline(one, ranks, link, schedule) for schedule in ("gpipe", "1f1b")}
    schedule = min(ways, key=lambda each: ways[each].seconds)
    sent = one.task.state_bytes * (1 if ranks == 2 else 2)
    setting = f"{schedule}, {ways[schedule].split.microbatches} microbatches"
    return {
        "ours_ms": 1e3 * ways[schedule].seconds + rest / ranks,
        "bytes_sent": sent,
        "setting": setting,
    }


def by_ranks(sizes: Sizes, name: str, ranks: int, link: Link, rounds: int) -> Row:
    """Our methods: the program itself, in virtual time; of several settings the quickest."""
    recipe = sizes.of(name, ranks)
    settings = {f"K = {ranks}": recipe}
    if name == "parareal":
        kinds: tuple[Literal["every", "last"], ...] = ("every", "last")
        settings = {f"coarse network on {h}": replace(recipe, holders=h) for h in kinds}
    elif name == "mgrit":
        tried = [
            replace(recipe, interval=m, levels=n) for m, n in hierarchies(recipe.depth, ranks, recipe.T)
        ]
        settings = {described(each): each for each in tried}
    found = {setting: foreseen(each, link, rounds) for setting, each in settings.items()}
    setting = min(found, key=lambda each: found[each].milliseconds)
    spent = found[setting].milliseconds
    if name in ("penalty", "augmented"):
        relayed = foreseen(recipe, link, rounds, "relayed").milliseconds
        fill = foreseen(recipe, link, rounds, "fill").milliseconds
        spent = sizes.hybrid(spent, relayed, fill)
    return {"ours_ms": spent, "bytes_sent": found[setting].bytes, "setting": setting}
