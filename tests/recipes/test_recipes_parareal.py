"""The recipes of parareal networks, on the bundled digits: methods, resumption, a run to begin from."""

from pathlib import Path
from typing import Any

import pytest
import stage_images
import torch
from PIL import Image
from small import Killed, final_state, same

from layerparallel import cli, data, recipes, runs
from layerparallel.errors import InputError
from layerparallel.recipes.parareal import ImagenetParareal, MnistParareal
from layerparallel.recipes.parareal_network import Subnetworks
from layerparallel.runs import record
from layerparallel.training.backprop import Backprop

TINY: dict[str, Any] = {"depth": 14, "width": 2, "batch": 20, "epochs": 2, "dtype": "float64"}
TINY |= {"learning_rate": 0.02, "checkpoint_seconds": 0.0}


@pytest.fixture(autouse=True)
def _digits(monkeypatch):
    before, digits = torch.get_num_threads(), stage_images.digits()
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda name, **more: digits if name == "mnist" else load(name, **more)
    )
    yield
    torch.set_num_threads(before)


def tiny(**options: Any) -> MnistParareal:
    return MnistParareal(**{**TINY, **options})


def trained(recipe: Subnetworks, folder: Path) -> list[dict[str, Any]]:
    """The lines of its epochs."""
    runs.train(recipe.build(), record.new_folder(folder))
    return record.history(record.read(folder), "epoch")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "serial"},
        {"subnetworks": 3, "coarse_depth": 2, "rate": "cosine"},
        {"cuts": (5,), "family": "preactivation", "depth": 20, "augment": False},
        {"family": "vgg"},
        {"method": "warp", "warp": 3, "depth": 26},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_a_run_trains_and_one_that_was_broken_ends_bitwise_the_same(options, tmp_path, monkeypatch):
    recipe = tiny(**options)
    epochs = trained(recipe, tmp_path / "whole")
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    step, left = Backprop.step, iter(range(4))

    def mortal(self, *args):
        if next(left, None) is None:
            raise Killed
        return step(self, *args)

    run, folder = recipe.build(), record.new_folder(tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr(Backprop, "step", mortal)
        with pytest.raises(Killed):
            runs.train(run, folder)
    started = record.read(tmp_path / "broken")[0]
    again = recipes.rebuild(started["recipe"], started["options"])
    runs.resume(again.build(), tmp_path / "broken")
    assert same(final_state(tmp_path / "whole"), final_state(tmp_path / "broken"))
    interfaces = recipe.subnetworks - 1 if recipe.method == "parareal" else 0
    assert len(epochs[-1].get("corrections", [])) == interfaces
    assert all(size > 0 for size in epochs[-1].get("corrections", []))


@pytest.mark.slow
def test_it_begins_from_the_network_of_a_serial_run(tmp_path):
    trained(tiny(method="serial"), tmp_path / "serial")
    wanted = final_state(tmp_path / "serial")["network"]
    recipe = tiny(pretrained=tmp_path / "serial", subnetworks=2)
    network = recipe.parareal(recipe.load())
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())
    assert set(state) > set(wanted)
    trained(recipe, tmp_path / "run")
    with pytest.raises(InputError, match="another network than resnet with depth = 20"):
        tiny(pretrained=tmp_path / "serial", depth=20).build()
    with pytest.raises(InputError, match="no whole checkpoint"):
        tiny(pretrained=tmp_path / "nothing").build()


def test_one_subnetwork_trains_as_the_network_itself(tmp_path):
    serial = trained(tiny(method="serial"), tmp_path / "serial")
    alone = trained(tiny(subnetworks=1), tmp_path / "alone")
    assert [line["train_loss"] for line in alone] == [line["train_loss"] for line in serial]
    assert "corrections" not in alone[-1]


def test_the_jumps_are_those_of_the_equations():
    recipe = tiny(subnetworks=2)
    images = recipe.load()
    network = recipe.parareal(images).eval()
    x = recipe.prepare(images)(images.train_x[:5])
    with torch.no_grad():
        y1, x2 = network.fine(1, network.prepared(1, x)), network.prepared(2, x)
        jump = y1 - x2
        size = network.coarse["1"](jump).norm() / network.fine(2, x2).norm()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (found,) = network.corrections(x)
    assert found.jump == pytest.approx(float(jump.norm() / y1.norm()))
    assert found.size == pytest.approx(float(size))
    assert network.training
    assert same(before, dict(network.state_dict()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subnetworks": 0}, "subnetworks = 0 is below 1"),
        ({"subnetworks": 100}, "100 subnetworks cannot be made"),
        ({"coarse_depth": 0}, "coarse_depth = 0 is below 1"),
        ({"cuts": (5,), "subnetworks": 3}, "1 cuts make 2 subnetworks, not 3; give 2 cuts, or 2 subn"),
        ({"method": "warp", "family": "vgg"}, "no residual units"),
        ({"depth": 15}, "depth 15 is none of a ResNet"),
        ({"decay": -1.0}, "decay = -1.0 is below 0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(options, says):
    with pytest.raises(ValueError, match=says):
        tiny(**options).build()


# ---- a folder of images -------------------------------------------------------------------------


def test_a_folder_of_images_is_trained_on_by_the_command_line(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for half, count in (("train", 12), ("val", 4)):
        for kind, colour in (("red", 0), ("blue", 2)):
            folder = tmp_path / "images" / half / kind
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = torch.randint(100, (40 + n, 36, 3), dtype=torch.uint8, generator=generator)
                pixels[..., colour] += 120
                Image.fromarray(pixels.numpy()).save(folder / f"{n}.png")
    flags = ["--images", str(tmp_path / "images"), "--side", "32", "--width", "2", "--batch", "8"]
    flags += ["--epochs", "3", "--run", str(tmp_path / "run"), "--learning-rate", "0.02"]
    assert cli.main(["train", "imagenet-parareal", *flags]) == 0
    summary = record.read_summary(tmp_path / "run")
    assert summary is not None
    assert (tmp_path / "run" / "report.html").exists()
    epochs = record.history(record.read(tmp_path / "run"), "epoch")
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert ImagenetParareal().side == 64
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_without_a_folder_one_is_asked_for(capsys):
    assert cli.main(["train", "imagenet-parareal"]) == 2
    assert "--images" in capsys.readouterr().err
