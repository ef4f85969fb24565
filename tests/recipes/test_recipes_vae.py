"""The recipe of an autoencoder, tiny; and what recipes in stages have in common."""

import json

import numpy as np
import pytest
import small
import stage_images
import torch
from small import Killed, dying
from stage_images import classifier, vae
from torch import nn

from layerparallel import cli, data, recipes, runs
from layerparallel.errors import InputError
from layerparallel.models.vae import vae_loss
from layerparallel.recipes import pictures
from layerparallel.runs import record
from layerparallel.runs.evaluate import CLASSIFICATION, Task, figures
from layerparallel.staged import Staged
from layerparallel.training.auxiliary import AuxiliaryMethod
from layerparallel.training.backprop import Backprop


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    found = stage_images.digits()
    monkeypatch.setattr(data, "load", {"mnist": found}.get)
    return found


METHODS = [
    {"method": "serial"},
    {"method": "augmented"},
    {"method": "penalty", "filter": "pool:2+int8", "alternating": True},
    {"method": "penalty", "regenerate": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_run_trains_and_one_that_was_broken_ends_bitwise_the_same(options, tmp_path, monkeypatch):
    recipe = vae(**options, checkpoint_seconds=0.0)
    runs.train(recipe.build(), record.new_folder(tmp_path / "whole"))
    folder = record.new_folder(tmp_path / "broken")
    with monkeypatch.context() as patch:
        dying(patch, Backprop if recipe.method == "serial" else AuxiliaryMethod, 5)
        with pytest.raises(Killed):
            runs.train(recipe.build(), folder)
    start = record.read(folder)[0]
    runs.resume(recipes.rebuild(start["recipe"], start["options"]).build(), folder)
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(folder))
    assert small.losses(tmp_path / "whole") == small.losses(folder)


def test_it_learns_and_is_recorded_by_loss_and_error(digits, tmp_path):
    recipe = vae(epochs=12, serial_epochs=1)
    outcome = runs.train(recipe.build(), record.new_folder(tmp_path / "run"))
    lines = record.read(tmp_path / "run")
    epochs = record.history(lines, "epoch")
    assert epochs[-1]["validation_loss"] < 0.9 * epochs[0]["validation_loss"]
    x = digits.validation_x.double() / 255
    output = outcome.network.eval()(x)
    found = outcome.summary
    assert found["validation_loss"] == pytest.approx(vae_loss(output, x).item(), rel=1e-12)
    assert found["validation_loss"] == epochs[-1]["validation_loss"]
    error = (torch.sigmoid(output.logits) - x).square().mean().item()
    assert found["validation_squared_error"] == pytest.approx(error, rel=1e-12)
    assert not [name for line in (*lines, found) for name in line if "accuracy" in name]
    for name in ("validation_loss", "train_loss"):
        assert name in record.history(lines, "serial")[0]


def test_one_stage_is_serial_training_bitwise(tmp_path):
    found = {}
    for name, options in {"serial": {"method": "serial"}, "stage": {"stages": 1}}.items():
        outcome = runs.train(vae(**options).build(), record.new_folder(tmp_path / name))
        found[name] = outcome.network.state_dict()
    assert small.same(found["serial"], found["stage"])


@pytest.mark.slow
def test_the_command_line_trains_draws_and_evaluates(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--depth", "14", "--width", "2", "--epochs", "3", "--batch", "20", "--latent", "3"]
    assert cli.main(["train", "mnist-vae", *flags, "--run", str(run)]) == 0
    told = capsys.readouterr().out
    assert "validation: squared error 0." in told
    assert "accuracy" not in told
    assert (run / "plots" / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    summary = record.read_summary(run)
    assert summary is not None
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("validation_loss", "validation_squared_error"):
        assert found[name] == found[f"{name}_parallel"] == summary[name]
    assert cli.main(["evaluate", str(run)]) == 0
    assert f"loss {summary['validation_loss']:.4g}" in capsys.readouterr().out


def test_the_picture_has_images_above_what_becomes_of_them(digits, tmp_path, monkeypatch):
    shown = {}

    def noted(path, rows, title):
        shown.update(rows)
        return path

    monkeypatch.setattr(pictures, "rows_of_images", noted)
    recipe = vae()
    network = recipe.made()
    recipe.picture(digits, network, tmp_path)
    x = digits.validation_x[:16].double() / 255
    assert np.array_equal(shown["test images"], x.numpy())
    again = network.eval()(x).images.detach().numpy()
    assert np.array_equal(shown["reconstructed"], again)
    assert shown["z from N(0, 1)"].shape == (16, 1, 28, 28)


def test_rows_of_images_are_drawn_in_grey_and_in_colour(tmp_path):
    for channels in (1, 3):
        images = np.random.default_rng(0).random((4, channels, 6, 5))
        path = pictures.rows_of_images(tmp_path / f"{channels}.png", [("a", images), ("", images)], "t")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_network_of_the_paper_is_cut_in_its_encoder_where_states_can_be_pooled():
    recipe = vae(depth=110, width=16, latent=20, dtype="float32")
    staged = recipe.staged()
    assert isinstance(staged, Staged)
    whole = sum(map(len, staged.stages))
    assert [len(stage) > whole // 6 for stage in staged.stages] == [True] * 3
    assert recipe.bytes_per_sample() > 0


def test_classification_with_auxiliary_variables_records_loss_and_accuracy(digits, tmp_path):
    outcome = runs.train(classifier().build(), record.new_folder(tmp_path / "run"))
    x = classifier().prepare(digits)(digits.validation_x)
    output = outcome.network.eval()(x)
    loss = nn.functional.cross_entropy(output, digits.validation_y).item()
    assert outcome.summary["validation_loss"] == pytest.approx(loss, rel=1e-9)
    for line in record.history(record.read(tmp_path / "run"), "epoch"):
        assert line["validation_loss"] > 0
        assert 0 <= line["validation_accuracy"] <= 1


@pytest.mark.parametrize("recipe", [vae, classifier])
def test_what_is_regenerated_is_not_stored(recipe, tmp_path):
    chosen = recipe(method="penalty", regenerate=True)
    run = chosen.build()
    method = run.phases[0].build(None)
    assert isinstance(method, AuxiliaryMethod)
    assert method.store.nbytes == chosen.bytes_per_sample() == 0
    assert method.generators is not None
    runs.train(run, record.new_folder(tmp_path / "run"))
    lines = record.history(record.read(tmp_path / "run"), "epoch")
    assert [line["mode"] for line in lines] == ["serial", "parallel", "serial"]
    assert len(lines[1]["violations"]) == 2


def test_figures_are_means_over_samples_whatever_the_batches(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double()
    x, y = digits.validation_x.double() / 255, digits.validation_y
    found = figures(net, x, y)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-12)
    assert found["accuracy"] == (net(x).argmax(1) == y).double().mean().item()
    norm = Task(
        nn.functional.mse_loss, lambda x, y: x.flatten(1)[:, :10], {"size": lambda o, t: o.norm(dim=1)}
    )
    wide = torch.cat([x] * 40)  # several batches
    found = figures(net, wide, torch.cat([y] * 40), norm)
    assert found["size"] == pytest.approx(net(x).norm(dim=1).mean().item(), rel=1e-12)
    expected = nn.functional.mse_loss(net(x), x.flatten(1)[:, :10]).item()
    assert found["loss"] == pytest.approx(expected, rel=1e-12)
    assert CLASSIFICATION.classifies
    assert not norm.classifies


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"latent": 0}, "latent = 0 is below 1"),
        ({"divergence": -1.0}, "divergence = -1.0 is below 0"),
        ({"depth": 15}, "depth 15"),
        ({"stages": 99}, "99 stages"),
        ({"regenerate": True}, "regenerate keeps nothing per sample"),
        ({"filter": "pool:3"}, "cannot be pooled by 3"),
    ],
)
def test_options_out_of_bounds_get_one_sentence(options, says):
    with pytest.raises((ValueError, InputError)) as caught:
        vae(**options).build()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
