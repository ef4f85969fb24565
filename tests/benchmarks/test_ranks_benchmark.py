"""The benchmark of two processes against one: its rows, on networks too small to judge anything by."""

import contextlib
import gzip
import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import layerparallel as lp
from layerparallel import data
from layerparallel.solvers.measure import compare

FOLDER = Path(__file__).parents[2] / "benchmarks" / "ranks"
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "common")]

NAMES = ("baselines", "cases", "comparing", "mnist_training", "pipelines", "run", "workers")
baselines, cases, comparing, mnist_training, pipelines, run, workers = map(
    importlib.import_module, NAMES
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The bundled digits, 8×8, in the layout of MNIST."""
    folder, found = tmp_path_factory.mktemp("digits"), data.load("digits")
    for half, part, count in (("train", "train", 128), ("t10k", "validation", 64)):
        images = getattr(found, f"{part}_x")[:count, 0].numpy()
        labels = getattr(found, f"{part}_y")[:count].numpy().astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{half}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return folder


@pytest.fixture(scope="module")
def crew():
    with workers.Crew() as made:
        yield made


CASE = cases.Case(depth=8, channels=2, side=8, batch=8)


@pytest.fixture(scope="module")
def found(digits) -> dict[str, dict]:
    written = io.StringIO()
    flags = ["--quick", "--batches", "4", "--data", str(digits), "--json"]
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(io.StringIO()):
        assert run.main(flags) == 0
    return {row["case"]: row for row in json.loads(written.getvalue())}


def test_rows(found):
    assert list(found) == [
        "gradient",
        "training",
        "step evaluations per owned layer, gradient",
        "time outside steps and waiting, gradient",
        "step evaluations per owned layer, MNIST recipe",
        "time outside steps and waiting, MNIST recipe",
        "against pipelines, batch 4",
    ]
    needed = {"case", "threads", "baseline", "baseline_ms", "ours_ms", "ratio", "relative_error"}
    for row in found.values():
        assert needed <= set(row)
        assert row["capacity"] > 0
        assert run.line(row).startswith(row["case"])


def test_the_gradient_is_nearly_exact_and_the_pipelines_are(found):
    for name in ("gradient", "against pipelines, batch 4"):
        assert found[name]["cosine"] > 0.99
        assert 1e-5 < found[name]["relative_error"] < 0.1
        assert found[name]["ratio"] == pytest.approx(found[name]["baseline_ms"] / found[name]["ours_ms"])
    assert found["against pipelines, batch 4"]["pipelines_error"] < 1e-5


def test_step_evaluations_are_those_of_the_schedule(found):
    """Of 4 layers and one coarse step: mean_parameters evaluates 1 layer, picard in 2 groups 4."""
    here = found["step evaluations per owned layer, gradient"]
    assert (here["forward"], here["adjoint"]) == (1 + 1 / 4, 1 + 2 / 4)
    here = found["step evaluations per owned layer, MNIST recipe"]
    assert (here["forward"], here["adjoint"]) == (1 + 4 / 4, 1 + 2 / 4)


def test_time_is_shared_out(found):
    for name in ("gradient", "MNIST recipe"):
        row = found[f"time outside steps and waiting, {name}"]
        assert row["steps"] > 0
        assert row["waiting"] > 0
        assert row["steps"] + row["waiting"] + row["outside"] == pytest.approx(1, abs=0.3)


def test_training_reaches_the_loss(found):
    row = found["training"]
    assert row["our_steps"] is not None
    assert row["fallbacks"] == 0
    assert row["our_final_loss"] == pytest.approx(row["final_loss"], rel=0.1)


@pytest.mark.parametrize("how", ["eager", "compiled blocks of 3"])
def test_serial_baselines_are_exact(how, monkeypatch):
    if how != "eager":
        monkeypatch.setattr(baselines, "BLOCK", 3)
        monkeypatch.setattr(cases.torch, "compile", lambda block, dynamic: block)
    exact = cases.exact_gradient(0, CASE)
    other = cases.on_one_process(0, CASE, how.split()[0])
    exact()
    other()
    name = {key.removeprefix("serial."): value for key, value in other.found().items()}
    assert compare(name, exact.found()).relative < 1e-5


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("schedule", ["GPipe", "1F1B"])
def test_pipeline_stages_give_the_serial_gradient(crew, schedule, closed):
    job = workers.Job("stages", pipelines.Pipeline, (CASE, schedule, 4, closed), workers.BOTH)
    crew.prepare(job)
    crew.once(job)
    exact = cases.exact_gradient(0, CASE)
    exact()
    assert compare(comparing.merged(crew.ask(job, "found")), exact.found()).relative < 1e-5


def test_halves_of_the_batch_give_the_serial_gradient(crew):
    job = workers.Job("halves", pipelines.DataParallel, (CASE,), workers.BOTH)
    crew.prepare(job)
    crew.once(job)
    exact = cases.exact_gradient(0, CASE)
    exact()
    assert compare(crew.ask(job, "found")[1], exact.found()).relative < 1e-5


def test_serial_training_on_two_ranks_is_that_on_one(crew, digits):
    plan = mnist_training.Plan(64, 1, 32, 1, smoothness=10.0, depth=8, channels=2, pool=2, data=digits)
    one = workers.Job("one", mnist_training.Training, (plan, lp.Serial()))
    two = workers.Job("two", mnist_training.Training, (plan, lp.Serial(), 2), workers.BOTH)
    crew.prepare(one, two)
    exact, ours = crew.ask(one, "follow")[0], crew.ask(two, "follow")
    assert ours[0].loss == pytest.approx(ours[1].loss, abs=1e-7)
    assert ours[0].loss == pytest.approx(exact.loss, rel=1e-4)
    last = comparing.merged(crew.ask(two, "found"))
    assert compare(last, crew.ask(one, "found")[0]).relative < 1e-3


def test_a_job_that_fails_is_an_error_here():
    with workers.Crew() as own:
        job = workers.Job("none", cases.on_one_process, (None, "eager"))
        with pytest.raises(RuntimeError, match=r"process 0 of the benchmark failed(.|\n)*NoneType"):
            own.prepare(job)


def test_a_row_is_repeated_until_the_machine_is_quiet():
    def measured(*capacities):
        left = iter(capacities)
        return comparing.judged(3, lambda: {"capacity": next(left)})

    assert measured(1.9, 2.0) == {"capacity": 1.9, "attempts": 1, "judged": True}
    assert measured(1.2, 1.85, 2.0) == {"capacity": 1.85, "attempts": 2, "judged": True}
    assert measured(1.2, 1.7, 1.5) == {"capacity": 1.7, "attempts": 3, "judged": False}


def test_a_loss_is_reached_where_its_mean_of_three_is_as_low():
    course = mnist_training.Course([1, 2, 3, 4], [4.0, 1.0, 1.0, 1.0], 0.5, 0)
    assert course.smooth() == [2.5, 2.0, 1.0, 1.0]
    assert course.reached(2.0) == 2
    assert course.reached(0.5) is None
