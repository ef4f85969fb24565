"""A network in a bare loop with Accelerate trains as without it, and goes on from saved states."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_loop
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from plain_loop import CLIP, EXACT, PARTS, SOLVERS
from small import same
from torch import Tensor
from torch.nn import functional as F

import layerparallel as lp

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Accelerate has one state per process, which is not to be another test's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Training:
    """A network, its optimiser and loader as an accelerator prepares them."""

    def __init__(
        self,
        solver: lp.Serial | lp.MGRIT,
        precision: str = "no",
        dtype: torch.dtype = torch.float32,
        stateful: bool = False,
    ):
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=PARTS
        )
        net = plain_loop.network(solver, stateful).to(dtype)
        made = net, plain_loop.optimizer(net), plain_loop.loader()
        self.net, self.optimizer, self.loader = self.accelerator.prepare(*made)
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.net):
                    loss = F.cross_entropy(self.net(x.to(self.dtype)), y)
                    self.losses.append(loss.item())
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        found = [p.grad.clone() for p in self.net.parameters()]
                        self.gradients = self.gradients or found
                        self.accelerator.clip_grad_norm_(self.net.parameters(), CLIP)
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    @property
    def state(self) -> list[Any]:
        return [self.net.state_dict(), self.optimizer.state_dict()]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("no", torch.float32), ("no", torch.float64), ("bf16", torch.float32)]
)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_losses_and_weights_are_those_of_the_plain_loop(
    solver: lp.Serial | lp.MGRIT, precision: str, dtype: torch.dtype
):
    training = Training(solver, precision, dtype)
    training.train(3)
    plain = plain_loop.network(solver).to(dtype)
    assert training.losses == plain_loop.train(plain, 3, half=precision == "bf16")
    assert same(training.net.state_dict(), plain.state_dict())
    assert training.net.fallbacks == 0


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
def test_it_is_the_training_of_an_ordinary_network(solver: lp.Serial | lp.MGRIT):
    training = Training(solver, dtype=torch.float64)
    training.train(3)
    ordinary = plain_loop.network(solver).double().to_serial()
    losses = plain_loop.train(ordinary, 3)
    torch.testing.assert_close(training.losses, losses, rtol=1e-9, atol=0)
    torch.testing.assert_close(training.net.state_dict(), ordinary.state_dict(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
def test_accumulated_gradients_are_those_of_the_whole_batch(solver: lp.Serial | lp.MGRIT):
    training = Training(solver, dtype=torch.float64)
    training.train(1)
    expected = plain_loop.whole_gradient(plain_loop.network(solver).double())
    torch.testing.assert_close(training.gradients, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_stopped_training_goes_on_from_its_state(
    solver: lp.Serial | lp.MGRIT, precision: str, safe: bool, tmp_path: Path
):
    """With running statistics and dropout, to the bit."""
    straight = Training(solver, precision, stateful=True)
    straight.train(2)
    straight.accelerator.save_state(str(tmp_path), safe_serialization=safe)
    before = len(straight.losses)
    straight.train(2)

    resumed = Training(solver, precision, stateful=True)
    with torch.no_grad():
        for p in resumed.net.parameters():
            p.zero_()
    resumed.accelerator.load_state(str(tmp_path))
    resumed.train(2)
    assert resumed.losses == straight.losses[before:]
    assert same(resumed.state, straight.state)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_bfloat16_trains_and_keeps_state_in_float32(solver: lp.Serial | lp.MGRIT):
    first = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        training = Training(solver, precision)
        training.train(6)
        plain_loop.assert_in_parameters_dtype(training.net, training.optimizer)
        assert training.losses[-1] < 0.8 * training.losses[0]
        first.append(training.losses[0])
    assert first[0] != first[1]
    assert first[0] == pytest.approx(first[1], rel=0.01)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_prepared_network_is_copied_and_unwrapped(precision: str):
    training = Training(SOLVERS["multigrid"], precision, stateful=True)
    training.train(1)
    x = plain_loop.data().tensors[0]
    copied = copy.deepcopy(training.net).eval()
    with torch.no_grad():
        for p in training.net.parameters():
            p.mul_(0.9)
    mine, theirs = training.net.eval()(x), copied(x)
    assert not same(mine, theirs)  # each has its own weights

    plain = training.accelerator.unwrap_model(training.net, keep_fp32_wrapper=False)
    assert plain is training.net
    for other in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), plain.to_serial()):
        torch.testing.assert_close(other.eval()(x), plain(x), rtol=1e-5, atol=1e-6)
    layerwise = lp.optimizer_state(plain, training.optimizer)
    assert layerwise["body.0.15.weight"]["exp_avg"].shape == (6, 6)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_saved_model_is_that_of_an_ordinary_network(safe: bool, tmp_path: Path):
    training = Training(SOLVERS["multigrid"], stateful=True)
    training.train(1)
    training.accelerator.save_model(training.net, str(tmp_path), safe_serialization=safe)
    if safe:
        from safetensors.torch import load_file

        state = load_file(tmp_path / "model.safetensors")
    else:
        state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    ordinary = plain_loop.network(lp.Serial(), stateful=True).to_serial()
    left_out = ordinary.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith(".scale") for name in left_out)  # one buffer of all layers
    x = plain_loop.data().tensors[0]
    torch.testing.assert_close(ordinary.eval()(x), training.net.eval()(x), rtol=1e-5, atol=1e-6)
