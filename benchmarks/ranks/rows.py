"""The rows of the table: what is compared with what, in turn, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from cases import Case, exact_gradient, on_one_process
from comparing import Row, judged, merged, row, turns
from layered import Distributed
from mnist_training import Course, Plan, Training
from pipelines import DataParallel, Pipeline
from workers import BOTH, THREADED, Crew, Job

import layerparallel as lp
from layerparallel.network.tuning import describe
from layerparallel.solvers.measure import compare
from layerparallel.solvers.settings import Coarse


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how often."""

    case: Case = field(default_factory=Case)
    plan: Plan = field(default_factory=Plan)
    batches: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    rounds: int = 7
    attempts: int = 3
    compiled: bool = True
    serial: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = ("Serial()", "eager", "compiled")
        object.__setattr__(self, "serial", names if self.compiled else names[:2])


def halves(depth: int, coarse: Coarse, samples: int | None = None) -> lp.MGRIT:
    """One interval, and one sweep each way, on either rank."""
    return lp.MGRIT(
        levels=2,
        coarsening=depth // 2,
        forward_cycles=1,
        adjoint_cycles=1,
        coarse=coarse,
        samples=samples,
    )


def gradient_solver(case: Case) -> lp.MGRIT:
    """One coarse step of mean parameters gives the state in the middle, another its adjoint."""
    return halves(case.depth, "mean_parameters")


def training_solver(plan: Plan) -> lp.Split:
    """Trained weights change with depth: forward a better coarse step, of two Picard iterates."""
    forward = halves(plan.depth, "picard", 2)
    return lp.Split(forward=forward, adjoint=halves(plan.depth, "mean_parameters"))


def settings(solver: lp.MGRIT | lp.Split) -> str:
    if isinstance(solver, lp.MGRIT):
        return describe(solver)
    return f"forward {describe(solver.forward)}, adjoint {describe(solver.adjoint)}"


# ---- the rows -----------------------------------------------------------------------------------


def gradient(crew: Crew, sizes: Sizes) -> Iterator[Row]:
    """One gradient of the compute-bound chain."""
    case, solver = sizes.case, gradient_solver(sizes.case)
    serial = {how: Job(how, on_one_process, (case, how)) for how in sizes.serial}
    ours = Job("layer-parallel", Distributed, (case, solver), BOTH)
    threaded = {
        f"{how}, 2 threads": Job(how, on_one_process, (case, how), THREADED) for how in sizes.serial
    }
    exact = Job("exact", exact_gradient, (case,))
    crew.prepare(exact)
    crew.once(exact)
    reference = crew.ask(exact, "found")[0]
    crew.forget()

    def measure() -> Row:
        found = turns(crew, sizes.rounds, serial, {"ours": ours, **threaded})
        times = found.pop("times")
        error = compare(merged(crew.ask(ours, "found")), reference)
        two = {label: times[label] for label in threaded}
        fastest = min(two, key=lambda label: two[label])
        return row(
            "gradient",
            **found,
            ours_ms=times["ours"],
            two_threads=fastest,
            two_threads_ms=two[fastest],
            ratio_to_two_threads=two[fastest] / times["ours"],
            setting=settings(solver),
            relative_error=error.relative,
            cosine=error.cosine,
            fallbacks=max(crew.ask(ours, "fallbacks")),
            at_least=1.6,
            aim=1.9,
        )

    yield judged(sizes.attempts, measure)
    crew.forget()


def training(crew: Crew, sizes: Sizes) -> Iterator[Row]:
    """Training by the MNIST recipe until the loss that serial training has after two thirds of it."""
    plan, solver = sizes.plan, training_solver(sizes.plan)
    exact, inexact = (
        Job("serial course", Training, (plan, lp.Serial())),
        Job("layer-parallel course", Training, (plan, solver, 2), BOTH),
    )
    crew.prepare(exact, inexact)
    theirs: Course = crew.ask(exact, "follow")[0]
    ours: Course = crew.ask(inexact, "follow")[0]
    crew.forget()
    wanted = theirs.smooth()[len(theirs.loss) * 2 // 3]
    their_steps, our_steps = theirs.reached(wanted), ours.reached(wanted)
    assert their_steps is not None
    how = {"Serial()": lp.Serial(), "eager": "eager", "compiled": "compiled"}
    serial = {name: Job(name, Training, (plan, how[name])) for name in sizes.serial}
    threaded = {
        f"{name}, 2 threads": replace(serial[name], who=THREADED) for name in ("Serial()", "eager")
    }
    job = Job("layer-parallel", Training, (plan, solver, 2), BOTH)

    def measure() -> Row:
        found = turns(crew, 2 * sizes.rounds, serial, {"ours": job, **threaded})
        times = found.pop("times")
        two = {label: times[label] for label in threaded}
        fastest = min(two, key=lambda label: two[label])
        step, ours_step = found.pop("baseline_ms"), times["ours"]
        whole = None if our_steps is None else our_steps * ours_step
        return row(
            "training",
            **found,
            baseline_ms=their_steps * step,
            ours_ms=whole,
            step_ms=step,
            our_step_ms=ours_step,
            step_ratio=step / ours_step,
            two_threads=fastest,
            ratio_to_two_threads=None if whole is None else their_steps * two[fastest] / whole,
            loss=wanted,
            steps=their_steps,
            our_steps=our_steps,
            final_loss=theirs.smooth()[-1],
            our_final_loss=ours.smooth()[-1],
            accuracy=theirs.accuracy,
            our_accuracy=ours.accuracy,
            images=plan.training,
            epochs=plan.epochs,
            setting=settings(solver),
            fallbacks=ours.fallbacks,
            at_least=1.4,
            aim=1.7,
        )

    yield judged(sizes.attempts, measure)
    crew.forget()


def inside(crew: Crew, sizes: Sizes) -> Iterator[Row]:
    """Step evaluations, and time outside steps and waiting, of either gradient; the worse rank."""
    cases = {
        "gradient": Job("gradient", Distributed, (sizes.case, gradient_solver(sizes.case)), BOTH),
        "MNIST recipe": Job("recipe", Training, (sizes.plan, training_solver(sizes.plan), 2), BOTH),
    }
    serial = {"Serial()": Job("Serial()", on_one_process, (sizes.case, "Serial()"))}
    for name, job in cases.items():
        crew.prepare(job)
        crew.once(job)
        counts = crew.ask(job, "evaluations")
        forward, adjoint = (max(column) for column in zip(*counts, strict=True))

        def measure(name: str = name, job: Job = job) -> Row:
            found = turns(crew, 2, serial, {})
            ranks = crew.ask(job, "shares", sizes.rounds)
            steps, waiting, outside = max(ranks, key=lambda shares: shares[2])
            parts = {"outside": outside, "steps": steps, "waiting": waiting}
            wanted = {"at_most": 0.10, "aim": 0.05, "capacity": found["capacity"]}
            return row(f"time outside steps and waiting, {name}", **parts, **wanted)

        outside = judged(sizes.attempts, measure)
        wanted = {"at_most": 2.0, "aim": 1.3, "capacity": outside["capacity"]}
        yield row(
            f"step evaluations per owned layer, {name}", forward=forward, adjoint=adjoint, **wanted
        )
        yield outside
        crew.forget()


def pipelining(crew: Crew, sizes: Sizes) -> Iterator[Row]:
    """The same gradient by pipeline stages on the same two processes, batch by batch."""
    for batch in sizes.batches:
        case = replace(sizes.case, batch=batch)
        yield judged(sizes.attempts, lambda case=case: _against_pipelines(crew, sizes, case))
        crew.forget()


def _against_pipelines(crew: Crew, sizes: Sizes, case: Case) -> Row:
    solver = gradient_solver(case)
    chosen = {name: _best_pipeline(crew, case, name) for name in ("GPipe", "1F1B")}
    crew.forget()
    serial = {"Serial()": Job("Serial()", on_one_process, (case, "Serial()"))}
    ours = Job("layer-parallel", Distributed, (case, solver), BOTH)
    others = {"ours": ours, **chosen}
    if case.batch % 2 == 0:
        others["data"] = Job("data", DataParallel, (case,), BOTH)
    found = turns(crew, sizes.rounds, serial, others)
    times = found.pop("times")
    reference = crew.ask(serial["Serial()"], "found")[0]
    error = compare(merged(crew.ask(ours, "found")), reference)
    theirs = [compare(merged(crew.ask(job, "found")), reference).relative for job in chosen.values()]
    fastest = min(chosen, key=lambda name: times[name])
    one = found.pop("baseline_ms")
    return row(
        f"against pipelines, batch {case.batch}",
        **found | {"baseline": f"{fastest}, {_described(chosen[fastest])}", "all_baselines_ms": times},
        baseline_ms=times[fastest],
        ours_ms=times["ours"],
        serial_ms=one,
        **{f"{name}_ms": times[name] for name in chosen},
        **{f"{name}_setting": _described(job) for name, job in chosen.items()},
        data_parallel_ms=times.get("data"),
        ratio_to_serial=one / times["ours"],
        setting=settings(solver),
        relative_error=error.relative,
        cosine=error.cosine,
        pipelines_error=max(theirs),
    )


def _best_pipeline(crew: Crew, case: Case, schedule: str) -> Job:
    """The faster kind of stages with few microbatches, and then the best number of them."""

    def job(microbatches: int, closed: bool) -> Job:
        name = f"{schedule} {microbatches} {closed}"
        return Job(name, Pipeline, (case, schedule, microbatches, closed), BOTH)

    counts = [m for m in (2, 4, 8, 16) if m <= case.batch and case.batch % m == 0]
    counts = [m for m in counts if m > 2 or case.batch < 64] or [case.batch]
    middle = 4 if 4 in counts else counts[-1]
    kinds = [job(middle, True), job(middle, False)]
    times = {each.name: _tried(crew, each) for each in kinds}
    best = min(kinds, key=lambda each: times[each.name])
    closed = best.arguments[3]
    for count in counts:
        if count != middle:
            each = job(count, closed)
            times[each.name] = _tried(crew, each)
            best = min(best, each, key=lambda j: times[j.name])
    return best


def _tried(crew: Crew, job: Job) -> float:
    crew.prepare(job)
    crew.once(job)
    spent = min(crew.once(job) for _ in range(2))
    crew.forget()
    return spent


def _described(job: Job) -> str:
    _, _, microbatches, closed = job.arguments
    return f"{microbatches} microbatches, {'closed form' if closed else 'eager'} stages"


ROWS: dict[str, Callable[[Crew, Sizes], Iterator[Row]]] = {
    "gradient": gradient,
    "training": training,
    "inside": inside,
    "pipelining": pipelining,
}
