"""Every script of `examples/` runs, and what it shows is so."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from scripts import script

from layerparallel.solvers import MGRIT, Serial

EXAMPLES = Path(__file__).parent.parent / "examples"
TRAINERS = ["lightning_trainer", "accelerate_loop"]

pytestmark = pytest.mark.slow


def run(name: str, **options: Any) -> Any:
    """What the main() of an example returns; a solve that had to be done serially is an error."""
    module = script("examples", f"{name}.py")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return module.main(**options)


def test_every_example_is_tested_here():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested | set(TRAINERS)


def test_ten_lines():
    assert run("ten_lines") > 0.7  # a fifth by guessing


def test_neural_ode():
    first, last = run("neural_ode")
    assert last < first / 20


def test_recurrence():
    accuracy, errors = run("recurrence")
    assert accuracy > 0.9
    assert errors["mean_residual"] < errors["mean_parameters"] < errors["inject"]


def test_own_step():
    difference, error = run("own_step")
    assert difference < 1e-5
    assert error < 1e-2


def test_own_closed_form():
    differences = run("own_closed_form")
    assert differences.keys() == {"Sine", "Antisymmetric"}
    assert max(differences.values()) < 1e-12


def test_one_shot():
    found = run("one_shot")
    assert found["last_loss"] < found["first_loss"] / 3
    assert found["last_error"] < found["first_error"] / 100
    assert found["accuracy"] > 0.7


def test_tuning():
    found = run("tuning", depth=128)
    chosen = next(trial for trial in found.trials if trial.solver == found.solver)
    assert chosen.error.relative <= 0.1
    timed = [trial.milliseconds for trial in found.trials if trial.milliseconds is not None]
    assert chosen.milliseconds == min(timed)
    assert any(isinstance(trial.solver, Serial) for trial in found.trials)
    assert found.table().count("<-") == 1


def test_inexact_gradients():
    errors, residuals, fallbacks = run("inexact_gradients")
    assert errors == sorted(errors, reverse=True)
    assert residuals == sorted(residuals, reverse=True)
    assert errors[-1] < 1e-3
    assert fallbacks >= 1


def test_stock_resnet():
    found = run("stock_resnet")
    assert max(found[exact][0] for exact in ("serial", "to the end")) < 1e-5
    assert max(found[exact][1].relative for exact in ("serial", "to the end")) < 1e-4
    assert found["1 + 1 cycles"][1].cosine > 0.9
    assert found["2 + 2 cycles"][1].cosine > 0.99


def test_stock_transformer():
    found = run("stock_transformer")
    for exact in ("dropout 0.0, serial", "dropout 0.0, 4 + 4 cycles", "dropout 0.1, 4 + 4 cycles"):
        assert found[exact][0] < 1e-5
        assert found[exact][1].relative < 1e-4
    for dropout in (0.0, 0.1):
        errors = [found[f"dropout {dropout}, {k} + {k} cycles"][1].relative for k in (1, 2, 4)]
        assert errors == sorted(errors, reverse=True)
        assert errors[1] < 0.2


@pytest.mark.parametrize("solver", [Serial(), MGRIT(coarsening=4)], ids=["serial", "multigrid"])
@pytest.mark.parametrize("name", TRAINERS)
def test_trainers(name, solver):
    found = run(name, solver=solver)
    assert found["accuracy"] > 0.9
    assert (found["residual"] > 0) == isinstance(solver, MGRIT)
    assert found["residual"] < 0.05


def test_an_example_is_a_script():
    """What the user types, once: the rest above is run by import to save starting torch."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "own_step.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "cosine" in done.stdout
