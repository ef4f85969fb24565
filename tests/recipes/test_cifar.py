"""The CIFAR recipes, on eighty generated images in the published layout: stages, schedules, pictures."""

import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest
import small
import torch
from layouts import cifar, known, put
from small import Killed, dying

from layerparallel import cli, data, recipes, runs
from layerparallel.data import cifar as cifar_module
from layerparallel.errors import InputError
from layerparallel.recipes import pictures
from layerparallel.recipes.cifar import Cifar10, Cifar100
from layerparallel.recipes.mnist_stages import MnistStages
from layerparallel.runs import record
from layerparallel.training.auxiliary import AuxiliaryMethod
from layerparallel.training.backprop import Backprop

TINY: dict[str, Any] = {"depth": 14, "width": 2, "batch": 20, "epochs": 3, "learning_rate": 0.02}
TINY |= {"dtype": "float64", "serial_start": 1, "hybrid": "1:1"}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """Fifty training and thirty test images, of ten colours, in the layout of CIFAR-10."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(tmp_path / "data"))
    random = np.random.default_rng(0)
    colours = random.integers(0, 156, (10, 3, 1, 1))
    names = [f"colour {k}".encode() for k in range(10)]

    def drawn(count: int) -> bytes:
        classes = np.arange(count) % 10
        pixels = colours[classes] + random.integers(0, 100, (count, 3, 32, 32))
        return cifar(pixels.astype(np.uint8), classes.tolist())

    folder = tmp_path / "data" / "cifar-10-batches-py"
    train, test = (
        put(folder / name, drawn(n)) for name, n in (("data_batch_1", 50), ("test_batch", 30))
    )
    meta = put(folder / "batches.meta", pickle.dumps({b"label_names": names}, protocol=3))
    monkeypatch.setattr(cifar_module, "TEN_TRAIN", (known(cifar_module.TEN_TRAIN[0], train),))
    monkeypatch.setattr(cifar_module, "TEN_TEST", (known(cifar_module.TEN_TEST[0], test),))
    monkeypatch.setattr(cifar_module, "TEN_META", known(cifar_module.TEN_META, meta))


def tiny(**options: Any) -> Cifar10:
    return Cifar10(**{**TINY, **options})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "serial"},
        {"method": "penalty"},
        {"method": "augmented", "stages": 3, "filter": "pool:2+int8"},
        {"method": "augmented", "alternating": True, "filter": "none", "family": "wide", "depth": 16},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_a_run_trains_and_one_that_was_broken_ends_bitwise_the_same(options, tmp_path, monkeypatch):
    recipe = tiny(**options, checkpoint_seconds=0.0)
    outcome = runs.train(recipe.build(), record.new_folder(tmp_path / "whole"))
    epochs = record.history(record.read(tmp_path / "whole"), "epoch")
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert 0 <= outcome.summary["validation_accuracy"] <= 1
    folder = record.new_folder(tmp_path / "broken")
    with monkeypatch.context() as patch:
        dying(patch, Backprop if recipe.method == "serial" else AuxiliaryMethod, 5)
        with pytest.raises(Killed):
            runs.train(recipe.build(), folder)
    start = record.read(folder)[0]
    runs.resume(recipes.rebuild(start["recipe"], start["options"]).build(), folder)
    assert small.same(small.final_state(tmp_path / "whole"), small.final_state(folder))


def test_one_stage_is_serial_training_bitwise(tmp_path):
    found = {}
    for name, options in {"serial": {"method": "serial"}, "stage": {"stages": 1}}.items():
        recipe = tiny(**options, augment="both")
        outcome = runs.train(recipe.build(), record.new_folder(tmp_path / name))
        found[name] = outcome.network.state_dict()
    assert small.same(found["serial"], found["stage"])


def test_the_trainer_goes_through_serial_and_parallel_epochs(tmp_path, monkeypatch):
    step, seen = AuxiliaryMethod.step, []

    def watched(self, x, y, batch):
        seen.append(self.mode)
        return step(self, x, y, batch)

    monkeypatch.setattr(AuxiliaryMethod, "step", watched)
    recipe = tiny(epochs=5, hybrid="3:2")
    runs.train(recipe.build(), record.new_folder(tmp_path / "run"))
    epochs = [seen[k : k + 3] for k in range(0, len(seen), 3)]  # of 3 mini batches
    wanted = ["serial", "parallel", "parallel", "parallel", "serial"]
    assert epochs == [[mode] * 3 for mode in wanted]


def test_a_method_hears_what_comes_next_and_gets_crops_where_it_wants_them(tmp_path, monkeypatch):
    step, expect, seen, told = AuxiliaryMethod.step, AuxiliaryMethod.expect, [], []

    def stepped(self, x, y, batch):
        seen.append((batch.index, batch.drawn))
        return step(self, x, y, batch)

    def expected(self, index):
        told.append(index)
        return expect(self, index)

    monkeypatch.setattr(AuxiliaryMethod, "step", stepped)
    monkeypatch.setattr(AuxiliaryMethod, "expect", expected)
    runs.train(tiny().build(), record.new_folder(tmp_path / "run"))
    later = [index for number, (index, _) in enumerate(seen) if number % 3]  # 3 mini batches an epoch
    assert len(told) == len(later) == 6
    assert all(map(torch.equal, told, later))
    assert [drawn is None for _, drawn in seen] == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.slow
def test_by_the_command_line_with_a_picture(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--depth", "14", "--width", "2", "--epochs", "3", "--batch", "20", "--method", "augmented"]
    assert cli.main(["train", "cifar10", *flags, "--run", str(run)]) == 0
    assert (run / "plots" / "missed.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.html").exists()
    summary = record.read_summary(run)
    assert summary is not None
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["validation_accuracy"] == summary["validation_accuracy"]


def test_a_part_of_the_images():
    found = tiny(training=20, validation=10).build().data
    assert (len(found.train_y), len(found.validation_y)) == (20, 10)


@pytest.mark.parametrize(
    ("options", "parallel", "serial"),
    [
        ({"epochs": 10}, [1, 8], [0, 9]),
        ({"epochs": 200}, [1, 160], [0, 161]),
        ({"epochs": 10, "hybrid": "2:3"}, [1, 4], [0, 5]),
        ({"epochs": 3}, [1, 1], [0, 2]),
        ({"epochs": 4, "hybrid": "1:0", "serial_start": 0}, [0, 3], []),
        ({"epochs": 9, "hybrid": "2:1", "alternating": True}, [1, 2, 4, 5, 7, 8], [0, 3, 6]),
    ],
)
def test_the_hybrid_says_which_epochs_are_parallel(options, parallel, serial):
    settings = Cifar10(**{"serial_start": 1, **options}).settings()
    assert all(settings.is_parallel(epoch) for epoch in parallel)
    assert not any(settings.is_parallel(epoch) for epoch in serial)


def test_the_default_hybrid_has_a_fifth_of_its_epochs_serial():
    settings = Cifar10(epochs=200).settings()
    assert sum(map(settings.is_parallel, range(200))) == 160


GIB = 50_000 / (1 << 30)
"""Bytes of one sample in GiB of all of CIFAR."""


@pytest.mark.parametrize(
    ("recipe", "options", "published"),
    [
        (Cifar10, {"depth": 110, "stages": 3}, 4.58),
        (Cifar10, {"depth": 110, "stages": 2}, 1.53),
        (Cifar10, {"depth": 110, "stages": 2, "filter": "pool:2"}, 0.38),
        (Cifar100, {"depth": 40, "widen": 10, "stages": 3}, 45.77),
    ],
)
def test_memory_of_the_networks_of_the_paper_is_as_published(recipe, options, published):
    found = recipe(**{"method": "penalty", "filter": "none", **options}).bytes_per_sample()
    assert found * GIB == pytest.approx(published, abs=0.02)


def test_multipliers_take_as_much_again_and_serial_training_nothing():
    one = tiny(stages=3, method="penalty").bytes_per_sample()
    assert one > 0
    assert tiny(stages=3, method="augmented").bytes_per_sample() == 2 * one
    assert tiny(stages=3, method="serial").bytes_per_sample() == 0


def test_the_rate_falls_to_a_tenth_after_every_quarter_or_as_a_cosine():
    images = tiny().load()
    for rate, expected in (("steps", [1, 0.1, 0.01, 0.001]), ("cosine", [1, 0.853553, 0.5, 0.146447])):
        recipe = tiny(rate=rate, epochs=4)
        optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
        scheduler, found = recipe.scheduler(images, optimizer), []
        for _ in range(4):  # epochs of 3 mini batches
            found.append(optimizer.param_groups[0]["lr"] / recipe.learning_rate)
            for _ in range(3):
                optimizer.step()
                scheduler.step()
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depth": 15}, "depth 15"),
        ({"stages": 99}, "99 stages"),
        ({"stages": 0}, "stages = 0 is below 1"),
        ({"filter": "pool:3"}, "cannot be pooled by 3"),
        ({"filter": "pol:2"}, "did you mean 'pool'"),
        ({"hybrid": "four"}, "hybrid = 'four' is no ratio"),
        ({"hybrid": "0:1"}, "give such as 4:1"),
        ({"epochs": 2}, "give at least 3"),
        ({"epochs": 1, "hybrid": "1:0"}, "give at least 2"),
        ({"hybrid": "1:0", "alternating": True}, "cannot alternate"),
        ({"beta": -1.0}, "beta = -1.0 is not above 0"),
        ({"state_rate": 0.0}, "state_rate = 0.0"),
        ({"momentum": -1.0}, "momentum = -1.0 is below 0"),
        ({"training": 51}, "give 1 to 50"),
    ],
)
def test_options_out_of_bounds_get_one_sentence(options, says):
    with pytest.raises((ValueError, InputError)) as caught:
        tiny(**options).build()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_memory_names_a_filter_that_fits(tmp_path):
    with pytest.raises(InputError, match=r"or the filter pool:2"):
        runs.train(
            tiny(method="penalty", filter="none", budget=5e-5).build(),
            record.new_folder(tmp_path / "run"),
        )


def test_digits_are_moved_and_never_mirrored(tmp_path, monkeypatch):
    images = torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8)
    classes = torch.arange(40) % 10
    names = tuple("0123456789")
    digits = data.Dataset("mnist", images, classes, images[:10], classes[:10], names)
    monkeypatch.setattr(data, "load", {"mnist": digits}.get)
    recipe = MnistStages(width=2, batch=20, epochs=3, hybrid="1:1")
    run = recipe.build()
    drawn = run.prepare.draw(images, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert not drawn.flipped.any()
    assert drawn.down.abs().max() == 2
    runs.train(run, record.new_folder(tmp_path / "run"))
    assert len(record.history(record.read(tmp_path / "run"), "epoch")) == 3


def test_what_missed_images_are_taken_for_does_not_overlap(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: drawn.append(figure) or path)
    names = ("automobile", "aquarium_fish", "sweet_pepper")
    classes = np.arange(20) % 3
    images = np.zeros((20, 3, 32, 32), dtype=np.uint8)
    pictures.missed(tmp_path / "missed.png", images, classes, (classes + 1) % 3, names, "title")
    drawn[0].canvas.draw()
    row = [(axes.title if axes.get_title() else axes._left_title) for axes in drawn[0].axes[:10]]
    boxes = [text.get_window_extent() for text in row]
    assert all(text.get_text() for text in row)
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
