"""The recipes, built tiny: each trains, is evaluated both ways, resumes bitwise, draws its picture."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from small import Killed

from layerparallel import cli, data, recipes, runs
from layerparallel.data import indian_pines
from layerparallel.data.files import File
from layerparallel.errors import InputError
from layerparallel.recipes.indian_pines import IndianPines
from layerparallel.recipes.level_sets import LevelSets
from layerparallel.recipes.mnist import Mnist
from layerparallel.runs import record
from layerparallel.training.adaptive import Adaptive
from layerparallel.training.backprop import Backprop

TINY = {"depth": 8, "coarsening": 4, "epochs": 2, "batch": 20, "serial_epochs": 0, "dtype": "float64"}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A scene of 20×21 pixels in six fields of three classes, in the layout of Indian Pines."""
    from scipy.io import savemat

    random = np.random.default_rng(0)
    truth = np.zeros((20, 21), dtype=np.uint8)
    for k, (row, column) in enumerate((r, c) for r in (0, 10) for c in (0, 7, 14)):
        truth[row : row + 9, column : column + 6] = k % 3 + 1
    means = random.uniform(1000, 5000, (4, 200))
    cube = (means[truth] + random.normal(0, 50, (20, 21, 200))).astype(np.uint16)
    folder = tmp_path / "data" / "indian-pines"
    folder.mkdir(parents=True)
    savemat(folder / "Indian_pines_corrected.mat", {"indian_pines_corrected": cube})
    savemat(folder / "Indian_pines_gt.mat", {"indian_pines_gt": truth})
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(folder.parent))
    monkeypatch.setattr(indian_pines, "TRUTH", File("Indian_pines_gt.mat"))
    monkeypatch.setattr(indian_pines, "CUBES", {200: File("Indian_pines_corrected.mat")})
    monkeypatch.setattr(indian_pines, "COVER", ("maize", "grass", "woods"))


@pytest.fixture
def digits(tmp_path):
    """The bundled digits, 8×8, in the layout of MNIST."""
    folder, found = tmp_path / "digits", data.load("digits")
    folder.mkdir()
    for half, part, count in (("train", "train", 300), ("t10k", "validation", 100)):
        images = getattr(found, f"{part}_x")[:count, 0].numpy()
        labels = getattr(found, f"{part}_y")[:count].numpy().astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (folder / f"{half}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return folder


@pytest.fixture
def photos(tmp_path):
    """Colour images of 12×10 pixels in three subfolders: what is red, green and blue."""
    from PIL import Image

    random = np.random.default_rng(1)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(20):
            pixels = random.integers(0, 120, (10, 12, 3))
            pixels[..., channel] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def level_sets(**options):
    return LevelSets(**{**TINY, "width": 4, "training": 130, "validation": 40, **options})


def pines(**options):
    return IndianPines(**{**TINY, "width": 12, "training": 100, "validation": 60, **options})


def images(folder, **options):
    return Mnist(**{**TINY, "data": folder, "channels": 3, **options})


@pytest.fixture(params=["level-sets", "indian-pines", "indian-pines by regions", "mnist"])
def tiny(request, scene, digits):
    """One recipe, and the picture that it draws."""
    return {
        "level-sets": (level_sets(), "regions.png"),
        "indian-pines": (pines(), "land_cover.png"),
        "indian-pines by regions": (pines(split="regions"), "land_cover.png"),
        "mnist": (images(digits, crop=1), "missed.png"),
    }[request.param]


def break_after(monkeypatch, steps):
    step, left = Backprop.step, iter(range(steps))

    def mortal(self, x, y):
        if next(left, None) is None:
            raise Killed
        return step(self, x, y)

    monkeypatch.setattr(Backprop, "step", mortal)


def resumed(recipe, folder, monkeypatch, steps):
    """Where the recipe ends if it is broken after some steps and taken up again."""
    record.new_folder(folder)
    with monkeypatch.context() as patch:
        break_after(patch, steps)
        with pytest.raises(Killed):
            runs.train(recipe.build(), folder)
    start = json.loads((folder / record.RECORD).read_text().splitlines()[0])
    runs.resume(recipes.rebuild(start["recipe"], start["options"]).build(), folder)
    return small.final_state(folder)


def test_a_recipe_trains_is_evaluated_both_ways_and_draws(tiny, tmp_path, capsys):
    recipe, picture = tiny
    outcome = runs.train(recipe.build(), record.new_folder(tmp_path / "run"))
    epochs = record.history(record.read(tmp_path / "run"), "epoch")
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("validation_accuracy", "validation_accuracy_parallel"):
        assert found[name] == pytest.approx(outcome.summary[name], abs=1e-12)
    draw = recipe.build().picture
    assert draw is not None
    draw(outcome.network, tmp_path)
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_recipe_that_was_broken_ends_bitwise_where_the_unbroken_one_ends(tiny, tmp_path, monkeypatch):
    recipe = replace(tiny[0], checkpoint_seconds=0.0)
    runs.train(recipe.build(), record.new_folder(tmp_path / "whole"))
    broken = resumed(recipe, tmp_path / "broken", monkeypatch, steps=4)
    assert small.same(small.final_state(tmp_path / "whole"), broken)


def test_adaptive_cycles_are_recorded_and_resume_bitwise(tmp_path, monkeypatch):
    recipe = level_sets(
        adaptive=True, adaptive_every=3, adaptive_target=1e-3, checkpoint_seconds=0.0, coarse="inject"
    )
    run = recipe.build()
    assert isinstance(run.phases[0].build(None), Adaptive)
    runs.train(run, record.new_folder(tmp_path / "whole"))
    told = [line for line in record.read(tmp_path / "whole") if line["kind"] == "decision"]
    assert [line["step"] for line in told] == [0, 3, 6, 9, 12]  # 7 mini batches, 2 epochs
    assert "raise" in {line["action"] for line in told}
    broken = resumed(recipe, tmp_path / "broken", monkeypatch, steps=8)
    assert small.same(small.final_state(tmp_path / "whole"), broken)


def test_the_serial_twin_has_the_same_weights_and_mini_batches(tmp_path, digits):
    options = {"serial_epochs": 1, "forward_cycles": 2, "adjoint_cycles": 2, "epochs": 1}
    # the serial twin leaves out the smoothness term
    runs.train(images(digits, **options, smoothness=0.0).build(), record.new_folder(tmp_path / "run"))
    lines = record.read(tmp_path / "run")
    ours, theirs = (record.history(lines, kind)[0]["train_loss"] for kind in ("epoch", "serial"))
    assert ours == pytest.approx(theirs, rel=1e-9)  # two intervals: two cycles are exact


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["digits", "photos"])
def test_data_of_your_own_trains_by_its_path_alone(folder, request, tmp_path, capsys):
    path, run = request.getfixturevalue(folder), tmp_path / "run"
    flags = ["--depth", "8", "--coarsening", "4", "--epochs", "3", "--serial-epochs", "0"]
    assert cli.main(["train", "mnist", "--data", str(path), "--run", str(run), *flags]) == 0
    summary = record.read_summary(run)
    assert summary is not None
    chance = 0.1 if folder == "digits" else 1 / 3
    assert summary["validation_accuracy"] > 1.5 * chance
    assert (run / "plots" / "missed.png").is_file()
    start = record.read(run)[0]
    assert start["data"]["training"] == (300 if folder == "digits" else 48)
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) == 0
    assert "in parallel" in capsys.readouterr().out


def test_channels_size_and_classes_are_those_of_the_folder(digits, photos):
    for folder, channels, classes in ((digits, 1, 10), (photos, 3, 3)):
        recipe = images(folder)
        run = recipe.build()
        opening, _, closing = recipe.parts(run.data)
        assert isinstance(opening, torch.nn.Conv2d)
        assert opening.in_channels == channels
        assert list(closing.children())[-1].out_features == classes
        x = run.prepare(run.data.train_x)
        assert x.mean().item() == pytest.approx(0, abs=1e-9)
        assert x.std().item() == pytest.approx(1, abs=1e-2)


def test_images_of_unlike_size_are_scaled_where_a_size_is_given(photos):
    assert images(photos, size=9).build().data.shape == (3, 9, 9)


def test_regions_keep_training_and_validation_pixels_apart(scene):
    found = pines(split="regions").build().data
    assert isinstance(found, indian_pines.Scene)
    apart = (found.train_pixels[:, None] - found.validation_pixels[None]).abs().amax(dim=-1)
    assert apart.min() > 1


def test_the_whole_recipes_are_as_deep_and_wide_as_promised():
    assert (LevelSets().depth, LevelSets().width) == (1024, 8)
    assert (IndianPines().depth, IndianPines().width) == (512, 220)
    assert 32 <= Mnist().depth <= 128
    assert 4 <= Mnist().channels <= 8
    assert recipes.names() == [
        "cifar10",
        "cifar10-parareal",
        "cifar100",
        "cifar100-parareal",
        "imagenet-parareal",
        "indian-pines",
        "level-sets",
        "mnist",
        "mnist-parareal",
        "mnist-stages",
        "mnist-vae",
        "svhn-parareal",
    ]


@pytest.mark.parametrize(
    ("recipe", "options", "says"),
    [
        (level_sets, {"width": 0}, "width = 0 is below 1: give at least 1."),
        (level_sets, {"adaptive": True, "solver": "serial"}, "adaptive chooses cycles"),
        (level_sets, {"adaptive_target": -1.0}, "adaptive_target = -1.0 is not above 0"),
        (level_sets, {"smoothness": -1.0}, "smoothness = -1.0 is below 0"),
        (level_sets, {"refine": (3,)}, "give a proper divisor"),
        (level_sets, {"validation": 0}, "give at least 1"),
        (pines, {"split": "fields"}, "give 'pixels' or 'regions'"),
        (pines, {"training": 10_000}, "give fewer"),
        (images, {"channels": 0}, "channels = 0 is below 1"),
        (images, {"pool": 9}, "pool = 9 is larger than the images: give at most 8."),
        (images, {"crop": 8}, "give at most 7"),
        (images, {"crop": -1}, "crop = -1 is below 0"),
        (images, {"training": 301}, "give 1 to 300"),
    ],
)
def test_options_out_of_bounds_get_one_sentence(recipe, options, says, scene, digits):
    chosen = recipe(digits, **options) if recipe is images else recipe(**options)
    with pytest.raises((ValueError, InputError)) as caught:
        chosen.build()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_gets_one_sentence(tmp_path, capsys):
    assert cli.main(["train", "mnist", "--data", str(tmp_path / "none")]) == 2
    assert "is no folder: give one with images in it." in capsys.readouterr().err
