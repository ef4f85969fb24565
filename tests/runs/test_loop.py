"""The one loop: what it records, that it resumes bitwise, that watching it changes nothing."""

import io
import random
import time

import pytest
import small
import torch
from launching import alone
from small import Killed

from layerparallel import runs, solvers
from layerparallel.cli import main
from layerparallel.errors import InputError
from layerparallel.network.network import Network
from layerparallel.runs import checkpoint, record
from layerparallel.runs.checkpoint import CheckpointError
from layerparallel.runs.evaluate import accuracy, logits, residuals_per_cycle
from layerparallel.runs.progress import Plain, Silent
from layerparallel.training.backprop import Backprop


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(folder, **options):
    return runs.train(small.recipe(**options).build(), record.new_folder(folder))


def test_the_record_and_the_summary_hold_what_is_promised(tmp_path):
    outcome = train(tmp_path)
    lines = record.read(tmp_path)
    trained = [*["epoch"] * 4, "checkpoint", "cycles", "serial"]
    assert [line["kind"] for line in lines] == ["start", "network", *trained]
    start, network, cycles = lines[0], lines[1], lines[-2]
    epochs = record.history(lines, "epoch")
    assert start["recipe"] == "level-sets"
    assert start["options"]["depth"] == 16
    assert {"depth", "width", "epochs"} <= set(start["changed"])
    assert "seed" not in start["changed"]
    assert start["data"] == {"name": "level-sets", "training": 130, "validation": 40}
    assert network["parameters"] == 3 * 4 + 16 * 5 * 4 + 5 * 5
    assert network["chains"][0]["steps"] == 16
    trained = outcome.network
    assert isinstance(trained, Network)
    assert solvers.rebuild(network["chains"][0]["solver"]) == trained.solver
    assert all(0 < line["gradient_error"] < 1 for line in epochs if "validation_accuracy" in line)
    assert all(0 < line["forward_factor"] < 1 for line in epochs if "validation_accuracy" in line)
    assert {"python", "torch", "layerparallel", "processor", "threads"} <= start["machine"].keys()
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert [("validation_accuracy" in line) for line in epochs] == [False, True, False, True]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert all(line["forward_error"] > 0 and line["adjoint_error"] > 0 for line in epochs)
    assert cycles["forward"][-1] < 1e-8 * cycles["forward"][0]  # more cycles than intervals
    assert cycles["adjoint"][-1] < 1e-8 * cycles["adjoint"][0]
    summary = record.read_summary(tmp_path)
    assert summary is not None
    assert summary["recipe"] == "level-sets"
    assert summary["epochs"] == 4
    assert summary["train_loss"] == epochs[-1]["train_loss"]
    assert summary["seconds"] == pytest.approx(sum(line["epoch_seconds"] for line in epochs))
    assert summary["serial_ratio"] == pytest.approx(
        summary["serial_epoch_seconds"] / summary["epoch_seconds"]
    )
    data = small.recipe().build().data
    found = accuracy(outcome.network, data.validation_x, data.validation_y)
    assert summary["validation_accuracy"] == found
    assert 0 <= summary["validation_accuracy_parallel"] <= 1


def test_the_last_network_is_in_the_last_checkpoint_by_layer_names(tmp_path):
    outcome = train(tmp_path)
    state = small.final_state(tmp_path)
    assert state["moment"] == checkpoint.Moment(0, 4, 0)
    assert state["network"]["body.15.weight"].shape == (4, 4)
    assert small.same(dict(state["network"]), dict(outcome.network.state_dict()))


def test_training_learns(tmp_path):
    outcome = train(tmp_path, training=1000, epochs=25, width=8, evaluate_every=25)
    assert outcome.summary["validation_accuracy"] > 0.6  # chance is 0.2


def test_the_serial_slice_starts_from_the_same_weights_with_the_same_batches(tmp_path):
    train(tmp_path / "parallel", forward_cycles=4, adjoint_cycles=4)  # exact: 4 intervals
    train(tmp_path / "serial", solver="serial")
    lines = record.read(tmp_path / "parallel")
    slice_ = next(line for line in lines if line["kind"] == "serial")["train_loss"]
    assert slice_ == pytest.approx(small.losses(tmp_path / "parallel")[0], rel=1e-9)
    assert slice_ == pytest.approx(small.losses(tmp_path / "serial")[0], rel=1e-9)


def test_a_serially_propagated_run_has_no_residuals(tmp_path):
    outcome = train(tmp_path, solver="serial", serial_epochs=0)
    cycles = record.history(record.read(tmp_path), "cycles")[-1]
    assert (cycles["forward"], cycles["adjoint"]) == ([], [])
    assert outcome.summary["serial_ratio"] is None
    assert record.history(record.read(tmp_path), "epoch")[0]["forward_error"] is None


def test_evaluating_and_saving_do_not_change_the_training(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b", evaluate_every=1, checkpoint_seconds=0.0)
    assert small.same(small.final_state(tmp_path / "a"), small.final_state(tmp_path / "b"))


def test_seeds_reproduce_and_differ(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, seed=seed)
    assert small.losses(tmp_path / "a") == small.losses(tmp_path / "b")
    assert small.losses(tmp_path / "a") != small.losses(tmp_path / "c")


# ---- killed and resumed ------------------------------------------------------------------------


def interrupt_after(monkeypatch, steps):
    """Let `Backprop.step` die at its step number `steps`."""
    step, count = Backprop.step, 0

    def mortal(self, x, y):
        nonlocal count
        if count == steps:
            raise Killed
        count += 1
        return step(self, x, y)

    monkeypatch.setattr(Backprop, "step", mortal)


@pytest.fixture(scope="module", params=[(), (8,)])
def unbroken(request, tmp_path_factory):
    """A run, with refinement or without, and its options."""
    refine = request.param
    options = {"refine": refine, "refine_epochs": 2, "epochs": 4 - len(refine), "serial_epochs": 2}
    whole = tmp_path_factory.mktemp("unbroken") / "whole"
    train(whole, **options)
    return whole, options


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 3, 13, 14, 20, 27, 28, 30])
def test_a_run_broken_at_any_step_ends_bitwise_where_the_unbroken_one_ends(
    tmp_path, monkeypatch, steps, unbroken
):
    whole, options = unbroken
    run = small.recipe(**options, checkpoint_seconds=0.0).build()
    broken = record.new_folder(tmp_path / "broken")
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Killed):
            runs.train(run, broken)
    runs.resume(run, broken)
    assert small.same(small.final_state(whole), small.final_state(broken))
    assert small.losses(whole) == small.losses(broken)
    assert len(record.history(record.read(broken), "serial")) == 2


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_where_the_unbroken_one_ends(tmp_path):
    options = small.recipe(epochs=40, checkpoint_seconds=0.05, serial_epochs=0)
    runs.train(options.build(), record.new_folder(tmp_path / "whole"))
    broken = tmp_path / "broken"
    command = ["train", "level-sets", "--run", str(broken), *small.flags(options)]
    moment = random.Random(7)
    kills = 0
    while record_lines(broken) == 0 or kills < 4:
        process = alone(tmp_path, main, command).process
        before = record_lines(broken)
        while record_lines(broken) <= before and process.is_alive():
            time.sleep(0.005)  # until it has begun
        time.sleep(moment.uniform(0.0, 0.4))
        process.kill()
        process.join()
        kills += 1
        command = ["resume", str(broken)]
    last = alone(tmp_path, main, command)
    assert last.returned(seconds=300) == 0, last.said
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(broken))
    assert small.losses(tmp_path / "whole") == small.losses(broken)
    resumed = [line["done"][1] for line in record.read(broken) if line["kind"] == "resume"]
    assert len(resumed) == 4
    assert min(resumed) < 40


def record_lines(folder):
    path = folder / record.RECORD
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_half_written_checkpoint_is_passed_over_on_resume(tmp_path, monkeypatch):
    train(tmp_path / "whole")
    run, broken = small.recipe(checkpoint_seconds=0.0).build(), record.new_folder(tmp_path / "broken")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 17)
        with pytest.raises(Killed):
            runs.train(run, broken)
    latest = checkpoint.latest(broken)
    assert latest is not None
    assert latest.moment == checkpoint.Moment(0, 2, 3)
    (latest.path / checkpoint.MANIFEST).unlink()
    said = io.StringIO()
    runs.resume(run, broken, Plain(said))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith(f"passed over: The checkpoint {latest.path}")
    assert lines[1].startswith(f"goes on from {broken}")
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(broken))


def test_a_checkpoint_of_another_network_does_not_fit(tmp_path):
    train(tmp_path, serial_epochs=0)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match="does not fit the options"):
        runs.restore(small.recipe(width=6).build(), found)


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_training_that_diverges_ends_with_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"learning rate") as caught:
        train(tmp_path, learning_rate=1e200, dtype="float32")
    assert "\n" not in str(caught.value)


def test_an_exception_of_the_method_comes_out_as_it_is(tmp_path, monkeypatch):
    def broken(self, x, y):
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(Backprop, "step", broken)
    ended = []
    monkeypatch.setattr(Silent, "end", lambda self: ended.append(True))
    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tmp_path)
    assert ended == [True]  # the display was closed


# ---- evaluation --------------------------------------------------------------------------------


def network():
    run = small.recipe().build()
    net = run.phases[0].build(None).network
    assert isinstance(net, Network)
    return net, run.data


def test_parallel_evaluation_uses_the_networks_solver_and_serial_does_not():
    net, data = network()
    serial = logits(net, data.validation_x)
    assert torch.allclose(serial, net.to_serial()(data.validation_x), rtol=1e-12)
    parallel = logits(net, data.validation_x, parallel=True)
    error = (parallel - serial).norm() / serial.norm()
    assert 1e-12 < error < 0.1


def test_evaluation_leaves_mode_and_gradients_alone_and_takes_any_batch():
    net, data = network()
    net.train()
    whole = logits(net, data.train_x)
    parts = logits(net, data.train_x, batch=7)
    assert torch.allclose(whole, parts, rtol=1e-12)
    residuals_per_cycle(net, data.train_x, lambda output: output.square().sum(), cycles=3)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_accuracy_of_a_plain_module_is_the_share_of_right_answers():
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert accuracy(torch.nn.Identity(), x, y) == 0.75
    assert residuals_per_cycle(torch.nn.Identity(), x, torch.sum, cycles=2) == ([], [])
