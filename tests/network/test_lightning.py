"""A network inside Lightning's Trainer trains as in an ordinary loop, and goes on from checkpoints."""

from pathlib import Path
from typing import Any

import plain_loop
import pytest
import pytorch_lightning as pl
import torch
from plain_loop import CLIP, EXACT, PARTS, SOLVERS
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from small import same
from torch import Tensor
from torch.nn import functional as F

import layerparallel as lp

pytestmark = pytest.mark.slow


class Module(pl.LightningModule):
    def __init__(self, solver: lp.Serial | lp.MGRIT, stateful: bool = False):
        super().__init__()
        self.save_hyperparameters()
        self.net = plain_loop.network(solver, stateful)
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        x, y = batch
        torch.manual_seed(100 * self.current_epoch + number)  # masks: no checkpoint has that state
        loss = F.cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        assert self.net.solution is not None
        self.log("residual", self.net.solution.relative_residual)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("validation", F.cross_entropy(self.net(batch[0]), batch[1]))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.gradients = self.gradients or [p.grad.clone() for p in self.net.parameters()]  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return plain_loop.optimizer(self.net)


def trainer(folder: Path, epochs: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=PARTS,
        gradient_clip_val=CLIP,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **options,
    )


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_losses_and_weights_are_those_of_the_plain_loop(
    solver: lp.Serial | lp.MGRIT, precision: Any, tmp_path: Path
):
    module = Module(solver)
    trainer(tmp_path, 3, precision=precision).fit(module, plain_loop.loader())
    plain = plain_loop.network(solver)
    plain = plain.double() if precision == "64-true" else plain
    assert module.losses == plain_loop.train(plain, 3, half=precision == "bf16-mixed")
    assert same(module.net.state_dict(), plain.state_dict())
    assert module.net.fallbacks == 0


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
def test_it_is_the_training_of_an_ordinary_network(solver: lp.Serial | lp.MGRIT, tmp_path: Path):
    module = Module(solver)
    trainer(tmp_path, 3, precision="64-true").fit(module, plain_loop.loader())
    ordinary = plain_loop.network(solver).double().to_serial()
    losses = plain_loop.train(ordinary, 3)
    torch.testing.assert_close(module.losses, losses, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        module.net.state_dict(), ordinary.state_dict(), rtol=1e-7, atol=1e-9, check_device=False
    )


@pytest.mark.parametrize("solver", EXACT.values(), ids=EXACT)
def test_accumulated_gradients_are_those_of_the_whole_batch(
    solver: lp.Serial | lp.MGRIT, tmp_path: Path
):
    module = Module(solver)
    trainer(tmp_path, 1, precision="64-true", limit_train_batches=PARTS).fit(module, plain_loop.loader())
    expected = plain_loop.whole_gradient(plain_loop.network(solver).double())
    torch.testing.assert_close(module.gradients, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_stopped_training_goes_on_from_its_checkpoint(
    solver: lp.Serial | lp.MGRIT, precision: Any, tmp_path: Path
):
    """With running statistics and dropout, to the bit."""
    loaders = plain_loop.loader(), plain_loop.loader()
    straight, whole = Module(solver, stateful=True), trainer(tmp_path, 4, precision=precision)
    whole.fit(straight, *loaders)

    path, stopped = tmp_path / "half.ckpt", Module(solver, stateful=True)
    half = trainer(tmp_path, 2, precision=precision)
    half.fit(stopped, *loaders)
    half.save_checkpoint(path)
    module = Module.load_from_checkpoint(path)
    assert module.net.solver == solver  # from the hyperparameters
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    resumed = trainer(tmp_path, 4, precision=precision)
    resumed.fit(module, *loaders, ckpt_path=path)

    assert stopped.losses + module.losses == straight.losses
    assert same(module.state_dict(), straight.state_dict())
    assert same(resumed.optimizers[0].state_dict(), whole.optimizers[0].state_dict())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_bfloat16_trains_and_keeps_state_in_float32(solver: lp.Serial | lp.MGRIT, tmp_path: Path):
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        module = Module(solver)
        each = trainer(tmp_path, 6, precision=precision)
        each.fit(module, plain_loop.loader())
        plain_loop.assert_in_parameters_dtype(module.net, each.optimizers[0])
        found[precision] = module.losses
        assert module.losses[-1] < 0.8 * module.losses[0]
    first = [losses[0] for losses in found.values()]
    assert first[0] != first[1]
    assert first[0] == pytest.approx(first[1], rel=0.01)


def test_a_module_in_bfloat16_altogether_does_not_fall_back(tmp_path: Path):
    """Its residual is rounding, which may grow from cycle to cycle."""
    module = Module(SOLVERS["multigrid"])
    trainer(tmp_path, 4, precision="bf16-true").fit(module, plain_loop.loader())
    assert module.net.fallbacks == 0
    assert next(module.parameters()).dtype == torch.bfloat16
    assert module.losses[-1] < module.losses[0]


def test_the_residual_is_logged(tmp_path: Path):
    module = Module(SOLVERS["multigrid"])
    each = trainer(tmp_path, 1)
    each.fit(module, plain_loop.loader())
    assert 0 < float(each.callback_metrics["residual"]) < 0.1


class Configured(Module):
    """Makes its network where Lightning wants it made."""

    def __init__(self, solver: lp.Serial | lp.MGRIT):
        super().__init__(solver)
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = plain_loop.network(self.hparams["solver"])


def test_a_network_may_be_made_in_configure_model(tmp_path: Path):
    modules = [kind(SOLVERS["multigrid"]) for kind in (Module, Configured)]
    for module in modules:
        trainer(tmp_path, 1).fit(module, plain_loop.loader())
    assert modules[0].losses == modules[1].losses


@pytest.mark.parametrize("empty", [True, False])
def test_a_network_may_be_made_empty_and_loaded(empty: bool, tmp_path: Path):
    solver = SOLVERS["multigrid"]
    each = trainer(tmp_path, 1)
    with each.init_module(empty_init=empty):
        module = Module(solver)
    other = Module(solver)
    module.load_state_dict(other.state_dict())
    for k in (module, other):
        trainer(tmp_path, 1).fit(k, plain_loop.loader())
    assert module.losses == other.losses


@pytest.mark.parametrize(
    "average", [WeightAveraging(), StochasticWeightAveraging(swa_lrs=1e-2)], ids=["plain", "stochastic"]
)
def test_weights_are_averaged(average: pl.Callback, tmp_path: Path):
    """By copies of the module; batch norms then get new statistics."""
    module, plain = (Module(SOLVERS["multigrid"], stateful=True) for _ in range(2))
    trainer(tmp_path, 4, callbacks=[average]).fit(module, plain_loop.loader())
    trainer(tmp_path, 4).fit(plain, plain_loop.loader())
    assert not same(module.state_dict(), plain.state_dict())
    assert all(a.isfinite().all() for a in module.state_dict().values())
