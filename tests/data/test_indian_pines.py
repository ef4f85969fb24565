"""Indian Pines: splits by pixel and by regions apart, standardisation, the cube of 220 bands."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import mat, put, real

from layerparallel import data
from layerparallel.data import indian_pines as module
from layerparallel.data.files import File
from layerparallel.data.indian_pines import Scene
from layerparallel.data.regions import pixels, regions
from layerparallel.errors import InputError


def scene(**options) -> Scene:
    found = data.load("indian-pines", **options)
    assert isinstance(found, Scene)
    return found


def fields(side: int, classes: int, generator: np.random.Generator) -> np.ndarray:
    """A patchwork: square fields of random classes, some of them bare."""
    patches = generator.integers(-1, classes, (side // 6, side // 6))
    patches.flat[: classes + 1] = np.arange(-1, classes)
    return np.kron(patches, np.ones((6, 6), dtype=np.int64))


def nearest(first: np.ndarray, second: np.ndarray, width: int) -> int:
    """Smallest distance between pixels of two sets, diagonals counting 1; by every pair."""
    a, b = (np.stack(np.divmod(places, width), axis=1) for places in (first, second))
    return int(np.abs(a[:, None] - b[None]).max(axis=2).min())


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), guard=st.integers(0, 2), stratified=st.booleans())
def test_regions_are_apart(seed, guard, stratified):
    generator = np.random.default_rng(seed)
    truth = fields(48, 5, generator)
    train, kept = regions(truth, 150, 100, stratified, generator, guard)
    assert (len(train), len(kept)) == (150, 100)
    assert len(np.unique(train)) == 150
    assert (truth.ravel()[np.concatenate([train, kept])] >= 0).all()
    assert nearest(train, kept, 48) > guard


def test_a_class_of_one_field_is_on_both_sides():
    truth = np.full((20, 30), -1)
    truth[2:8, 3:25] = 0  # cut across its 22 columns
    truth[12:18, :10] = 1
    truth[12:18, 20:] = 1
    train, kept = regions(truth, 80, 60, True, np.random.default_rng(0))
    classes = truth.ravel()
    assert set(classes[train]) == set(classes[kept]) == {0, 1}
    columns = [places[classes[places] == 0] % 30 for places in (train, kept)]
    assert columns[0].max() < columns[1].min() - 1 or columns[1].max() < columns[0].min() - 1


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), stratified=st.booleans())
def test_pixels_are_drawn_once(seed, stratified):
    generator = np.random.default_rng(seed)
    truth = fields(24, 3, generator)
    train, kept = pixels(truth, 40, 20, stratified, generator)
    assert len(np.unique(np.concatenate([train, kept]))) == 60
    if stratified:
        for places in (train, kept):
            have = np.bincount(truth.ravel()[places], minlength=3) / len(places)
            want = np.bincount(truth[truth >= 0], minlength=3) / (truth >= 0).sum()
            assert np.abs(have - want).max() <= 1.5 / len(places)


@pytest.mark.parametrize("split", [pixels, regions])
def test_more_pixels_than_there_are_is_refused(split):
    truth = fields(24, 3, np.random.default_rng(0))
    with pytest.raises(InputError, match="give"):
        split(truth, 10**6, 10, False, np.random.default_rng(0))
    with pytest.raises(InputError, match="give"):
        split(truth, 10, 0, False, np.random.default_rng(0))


# ---- small files ---------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A scene of 24×24 pixels in files of the published names, with 220 bands, one of them dead."""
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(tmp_path))
    monkeypatch.setattr(module, "TRUTH", File(module.TRUTH.name))
    generator = np.random.default_rng(1)
    truth = fields(24, 4, generator)
    cube = generator.integers(900, 9000, (24, 24, 220)).astype(np.uint16)
    cube[:, :, 7] = 1234
    folder = tmp_path / "indian-pines"
    put(folder / "Indian_pines_gt.mat", mat(indian_pines_gt=(truth + 1).astype(np.uint8)))
    put(folder / "Indian_pines.mat", mat(indian_pines=cube))
    return truth, cube


def test_a_cube_of_220_bands_is_read_and_standardised(small):
    truth, cube = small
    found = scene(bands=220, training=120, validation=60, dtype=torch.float64)
    assert found.shape == (220,)
    assert torch.equal(found.truth, torch.from_numpy(truth))
    row, column = found.train_pixels.T
    assert torch.equal(found.spectra[row, column], found.train_x)
    assert torch.equal(found.truth[row, column], found.train_y)
    row, column = found.validation_pixels.T
    assert torch.equal(found.spectra[row, column], found.validation_x)
    assert found.train_x.mean(dim=0).abs().max() < 1e-12
    deviation = found.train_x.std(dim=0, correction=0)
    assert deviation[7] == 0
    assert torch.allclose(deviation[deviation > 0], torch.ones(219, dtype=torch.float64))
    rows, columns = found.train_pixels.numpy().T
    raw = cube[rows, columns].astype(float)  # by training pixels alone
    expected = (cube[:, :, 3] - raw[:, 3].mean()) / raw[:, 3].std()
    assert torch.allclose(found.spectra[:, :, 3], torch.from_numpy(expected))


def test_the_same_seed_gives_the_same_split(small):
    first, again, other = (scene(bands=220, training=50, validation=50, seed=k) for k in (3, 3, 4))
    assert torch.equal(first.train_pixels, again.train_pixels)
    assert not torch.equal(first.train_pixels, other.train_pixels)


def test_wrong_cubes_and_options_are_told_in_one_sentence(small, tmp_path):
    for options, said in (
        ({"bands": 100}, "give 200 or 220"),
        ({"split": "halves"}, "give 'pixels' or 'regions'"),
        ({"guard": -1, "split": "regions", "bands": 220}, "guard = -1 is below 0"),
    ):
        with pytest.raises(InputError, match=said):
            scene(**options)
    for cube, said in (
        (mat(a=np.ones((24, 24, 200))), "220 bands"),
        (mat(a=np.ones((24, 24))), "one numeric array of 3 dimensions"),
        (b"nothing", "is no .mat file"),
    ):
        put(tmp_path / "indian-pines" / "Indian_pines.mat", cube)
        with pytest.raises(InputError, match=said):
            scene(bands=220, training=5, validation=5)


# ---- the real scene ------------------------------------------------------------------------------


def test_real_split_by_pixel():
    real("indian-pines")
    found = scene()
    assert (len(found.train_x), len(found.validation_x)) == (4000, 2000)
    assert found.shape == (200,)
    assert found.spectra.shape == (145, 145, 200)
    assert int((found.truth >= 0).sum()) == 10249
    assert found.train_y.bincount().argmax() == 10  # soybean, min till: 2455 of the 10249
    assert len(found.classes) == 16


@pytest.mark.parametrize("guard", [1, 3])
def test_real_split_by_regions(guard):
    real("indian-pines")
    found = scene(split="regions", guard=guard, stratified=True)
    assert (len(found.train_x), len(found.validation_x)) == (4000, 2000)
    train, kept = found.train_pixels, found.validation_pixels
    distance = (train[:, None] - kept[None]).abs().amax(dim=2).min()
    assert distance > guard
    if guard == 1:
        assert (found.train_y.bincount(minlength=16) > 0).all()
    assert (found.validation_y.bincount(minlength=16) > 0).all()
