"""Bounds of options: written where the option is, checked before data are read, shown in the help."""

import dataclasses
import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest

from layerparallel import data, recipes
from layerparallel.cli.options import Option, options_of
from layerparallel.data.sets import about
from layerparallel.errors import InputError
from layerparallel.recipes.cifar import Cifar10
from layerparallel.recipes.mnist_vae import MnistVae
from layerparallel.recipes.options import Bound, Count, NotNegative, Several, bounds_of, check_bounds
from layerparallel.recipes.parareal import ImagenetParareal
from layerparallel.recipes.stages import Stages

RECIPES: list[Any] = [recipes.get(name) for name in recipes.names()]
NUMBERS: list[tuple[Any, Option]] = [
    (kind, option) for kind in RECIPES for option in options_of(kind) if option.item in (int, float)
]


@pytest.fixture
def unread(monkeypatch):
    """No recipe may read its data."""
    for kind in RECIPES:
        monkeypatch.setattr(kind, "load", None)


# ---- what a bound is -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cake:
    """Options with every kind of bound."""

    layers: Count = 2
    sugar: NotNegative = 0.5
    icing: Annotated[float, Bound(above=0, below=1)] = 0.5
    eggs: Annotated[int, Bound(least=1, most=12)] = 3
    nuts: Count | None = None
    minutes: Several[Count] = 30


@dataclass(frozen=True)
class Tart(Cake):
    """Other defaults, the same bounds."""

    layers: int = 1
    eggs: Annotated[int, Bound(most=6)] = 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": 0}, "layers = 0 is below 1: give at least 1."),
        ({"sugar": -1.0}, "sugar = -1.0 is below 0: give at least 0."),
        ({"sugar": math.nan}, "sugar = nan is not finite: give at least 0."),
        ({"sugar": math.inf}, "sugar = inf is not finite: give at least 0."),
        ({"icing": 0.0}, "icing = 0.0 is not above 0: give more than 0 and less than 1."),
        ({"icing": 1.0}, "icing = 1.0 is not below 1: give more than 0 and less than 1."),
        ({"eggs": 13}, "eggs = 13 is above 12: give 1 to 12."),
        ({"nuts": 0}, "nuts = 0 is below 1: give at least 1."),
        ({"minutes": 0}, "minutes = 0 is below 1: give at least 1."),
        ({"minutes": (30, 0)}, "minutes = 0 is below 1: give at least 1."),
    ],
)
def test_what_is_out_of_bounds_is_one_sentence(options, says):
    with pytest.raises(InputError) as caught:
        check_bounds(Cake(**options))
    assert str(caught.value) == says


def test_a_subclass_keeps_the_bounds_and_may_add_some():
    check_bounds(Cake(layers=1, sugar=0.0, icing=0.01, eggs=12, nuts=1, minutes=(1, 2)))
    check_bounds(Tart())
    for options in ({"layers": 0}, {"eggs": 0}, {"eggs": 7}):
        with pytest.raises(InputError):
            check_bounds(Tart(**options))


# ---- every recipe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option"), NUMBERS, ids=[f"{kind.name}-{option.field}" for kind, option in NUMBERS]
)
def test_every_number_has_bounds_that_are_checked_before_data_are_read(kind, option, unread):
    assert bounds_of(kind)[option.field]
    for wrong in (-1,) if option.item is int else (-1.0, math.nan, math.inf):
        value = (wrong,) if option.several and not option.single else wrong
        with pytest.raises(InputError, match=rf"^{option.field} = {wrong} is .*: give .*\.$"):
            kind(**{option.field: value}).build()


@pytest.mark.parametrize("kind", RECIPES, ids=lambda kind: kind.name)
def test_the_defaults_are_within_their_bounds(kind):
    check_bounds(kind())
    if kind is not ImagenetParareal:  # which has no images of its own
        kind().check()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mnist", {"training": 60_001}, "training = 60001 is out of bounds: give 1 to 60000."),
        ("mnist", {"validation": 10_001}, "give 1 to 10000."),
        ("svhn-parareal", {"training": 80_000}, "give 1 to 73257."),
        ("mnist", {"pool": 29}, "pool = 29 is larger than the images: give at most 28."),
        ("mnist", {"crop": 28}, "crop = 28 moves images out of sight: give at most 27."),
        ("cifar10", {"depth": 21}, "depth 21 is none of a ResNet"),
        ("cifar10", {"stages": 99}, "99 stages cannot be made"),
        ("cifar10", {"cut": (5, 3)}, "give growing numbers"),
        ("cifar10", {"filter": "pol:2"}, "did you mean 'pool'"),
        ("cifar10", {"beta_growth": 1e300}, "give a beta_growth nearer to 1"),
        ("cifar10-parareal", {"depth": 21}, "depth 21 is none of a ResNet"),
        ("cifar10-parareal", {"subnetworks": 99}, "99 subnetworks cannot be made"),
        ("cifar10-parareal", {"method": "warp", "family": "vgg"}, "no residual units"),
        ("cifar10-parareal", {"pretrained": "nowhere"}, "no whole checkpoint"),
        ("imagenet-parareal", {}, "There are no images to train with"),
        ("imagenet-parareal", {"images": ".", "family": "resnet", "depth": 21}, "depth 21 is none"),
        ("imagenet-parareal", {"images": ".", "subnetworks": 99}, "99 subnetworks cannot be made"),
    ],
)
def test_what_the_data_need_not_be_read_for_is_said_before(name, options, says, unread):
    with pytest.raises(ValueError, match=re.escape(says)):
        recipes.get(name)(**options).build()


def test_more_pixels_than_are_labelled_are_refused_before_the_scene_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="more than the 10249 that are labelled: give fewer"):
        data.load("indian-pines", training=9000, validation=2000)


def test_what_is_known_of_a_set_before_it_is_read_is_so_when_it_is():
    found, known = data.load("digits"), about("digits")
    assert (found.shape, len(found.classes)) == (known.shape, known.classes)
    found, known = data.load("level-sets"), about("level-sets")
    assert (found.shape, len(found.classes)) == (known.shape, known.classes)
    assert about("folder").comes == "your own folder"
    assert {about(name).comes for name in data.names() if about(name).megabytes} == {"downloaded"}


# ---- the fewest epochs ---------------------------------------------------------------------------


STAGES = [kind for kind in RECIPES if issubclass(kind, Stages)]


@pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.name)
def test_the_fewest_epochs_stand_in_the_help_and_in_the_refusal(kind, unread):
    (told,) = (option.help for option in options_of(kind) if option.field == "epochs")
    (least,) = map(int, re.findall(r"at least (\d+) with this serial start and hybrid", told))
    kind(epochs=least).check()
    with pytest.raises(InputError) as caught:
        kind(epochs=least - 1).build()
    start = kind().serial_start
    assert str(caught.value) == (
        f"epochs = {least - 1} is below {least}, the least with serial_start = {start} and hybrid = "
        f"4:1: give at least {least}, or change these two."
    )


def test_the_autoencoder_needs_three_epochs_unless_its_schedule_changes(unread):
    with pytest.raises(InputError, match="give at least 3"):
        MnistVae(epochs=2).build()
    MnistVae(epochs=2, serial_start=0).check()
    MnistVae(epochs=2, hybrid="1:0").check()
    MnistVae(epochs=1, method="serial").check()


@pytest.mark.parametrize("hybrid", ["1:0", "4:1", "1:1", "2:3", "1:9", "1:40"])
@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize("serial_start", [0, 2])
def test_no_fewer_epochs_have_a_parallel_one_and_those_do(hybrid, alternating, serial_start):
    if alternating and hybrid == "1:0":
        return
    recipe = Cifar10(hybrid=hybrid, alternating=alternating, serial_start=serial_start)
    least = recipe.least_epochs
    settings = replace(recipe, epochs=least).settings()
    assert any(map(settings.is_parallel, range(least)))
    if not alternating and hybrid != "1:0":
        assert not settings.is_parallel(least - 1)
    with pytest.raises(InputError, match=f"give at least {least}"):
        replace(recipe, epochs=least - 1).settings()


def test_all_options_are_fields_that_a_record_can_hold():
    for kind in RECIPES:
        names = [each.name for each in dataclasses.fields(kind)]
        assert len(names) == len(set(names))
        assert not {"name", "data_set", "sections"} & set(names)
