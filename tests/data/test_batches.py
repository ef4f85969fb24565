"""Augmentation is crops and flips of the padded image; batches are the same for the same seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerparallel.data import Augmentation, Batches, Dataset, Preparation
from layerparallel.data.level_sets import level_sets
from layerparallel.errors import InputError


def images(count=23, channels=3, height=8, width=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def dataset(count=23, **sizes):
    x = images(count, **sizes)
    return Dataset("some", x, torch.arange(count) % 3, x[:5], torch.arange(5) % 3, tuple("abc"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- augmentation --------------------------------------------------------------------------------


@given(
    crop=st.integers(0, 4),
    flip=st.booleans(),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    channels=st.integers(1, 3),
    count=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_every_image_is_a_window_of_the_padded_one(crop, flip, height, width, channels, count, seed):
    x = images(count, channels, height, width, seed)
    drawn = Augmentation(crop, flip).draw(count, height, width, seeded(seed))
    done = drawn.apply(x)
    assert done.dtype == torch.uint8
    for k in range(count):
        padded = torch.zeros(channels, height + 2 * crop, width + 2 * crop, dtype=torch.uint8)
        padded[:, crop : crop + height, crop : crop + width] = x[k]
        top, left = crop + int(drawn.down[k]), crop + int(drawn.right[k])
        assert 0 <= top <= 2 * crop
        assert 0 <= left <= 2 * crop
        window = padded[:, top : top + height, left : left + width]
        assert flip or not drawn.flipped[k]
        assert torch.equal(done[k], window.flip(2) if drawn.flipped[k] else window)


def test_all_windows_and_both_sides_are_drawn_equally_often():
    drawn = Augmentation(2, True).draw(50_000, 8, 8, seeded())
    places = (drawn.down + 2) * 5 + drawn.right + 2
    shares = places.bincount(minlength=25) / 50_000
    assert shares.sub(1 / 25).abs().max() < 0.005
    assert drawn.flipped.double().mean().sub(0.5).abs() < 0.01


def test_the_same_draw_applies_to_another_tensor_of_the_same_samples():
    x = images(6, 3, 8, 8)
    drawn = Augmentation(3).draw(6, 8, 8, seeded())
    states = torch.cat([x.double(), 2 * x.double()], dim=1)  # six channels, floating point
    done = drawn.apply(states)
    assert torch.equal(done[:, :3], drawn.apply(x).double())
    assert torch.equal(done[:, 3:], 2 * done[:, :3])
    assert torch.equal(drawn[2:4].apply(x[2:4]), drawn.apply(x)[2:4])


def test_states_of_half_the_size_move_by_half_the_pixels():
    small = torch.rand(40, 2, 6, 6)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    drawn = Augmentation(4).draw(40, 12, 12, seeded())
    even = (drawn.down % 2 == 0) & (drawn.right % 2 == 0)
    assert 3 < even.sum() < 40
    down, up = drawn.apply(small), drawn.apply(large)
    assert torch.equal(down[even], up[even][:, :, ::2, ::2])


def test_augmentation_without_crop_and_flip_changes_nothing():
    x = images()
    assert torch.equal(Augmentation(0, False).draw(23, 8, 9, seeded()).apply(x), x)


def test_the_same_seed_gives_the_same_draws():
    first = Augmentation().draw(9, 32, 32, seeded(4))
    again = Augmentation().draw(9, 32, 32, seeded(4))
    assert torch.equal(first.down, again.down)
    assert torch.equal(first.flipped, again.flipped)


def test_wrong_augmentation_is_told_in_one_sentence():
    with pytest.raises(InputError, match="crop = -1 is below 0"):
        Augmentation(crop=-1)
    with pytest.raises(InputError, match="give at most 7"):
        Augmentation(crop=8).draw(3, 8, 9, seeded())
    drawn = Augmentation().draw(3, 8, 9, seeded())
    with pytest.raises(InputError, match=r"give \(3, channels, height, width\)"):
        drawn.apply(images(4))
    with pytest.raises(InputError, match="no images to crop and flip"):
        Batches(level_sets(), 10, seeded(), Preparation(augmentation=Augmentation()))


# ---- preparation ---------------------------------------------------------------------------------


def test_normalised_training_images_have_mean_0_and_deviation_1():
    data = dataset(500, channels=2)
    done = Preparation.of(data, dtype=torch.float64)(data.train_x)
    assert done.mean(dim=(0, 2, 3)).abs().max() < 1e-12
    assert torch.allclose(
        done.std(dim=(0, 2, 3), correction=0), torch.ones(2, dtype=torch.float64), rtol=1e-12
    )


def test_a_channel_that_never_changes_is_not_divided_by_zero():
    x = torch.full((4, 2, 3, 3), 7, dtype=torch.uint8)
    x[0, 1] = 9
    data = Dataset("flat", x, torch.zeros(4).long(), x, torch.zeros(4).long(), ("only",))
    assert data.moments()[1][0] == 1.0
    assert (Preparation.of(data)(x)[:, 0] == 0).all()


def test_without_moments_images_become_0_to_1_and_floats_stay():
    x = images()
    assert torch.equal(Preparation()(x), x.float() / 255)
    vectors = torch.randn(4, 2, dtype=torch.float64)
    assert Preparation()(vectors) is vectors
    assert Preparation(dtype=torch.float32)(vectors).dtype == torch.float32


def test_wrong_moments_are_told_in_one_sentence():
    with pytest.raises(InputError, match="give one of each"):
        Preparation((0.5,), ())
    with pytest.raises(InputError, match="give a positive number"):
        Preparation((0.5,), (0.0,))
    with pytest.raises(InputError, match="cannot be normalised by 1 means: give 3"):
        Preparation((0.5,), (1.0,))(images())


# ---- batches -------------------------------------------------------------------------------------

PREPARE = Preparation((0.5,) * 3, (0.25,) * 3, Augmentation(2))


def test_an_epoch_has_every_sample_once_with_its_index():
    data = dataset()
    batches = Batches(data, 5, seeded())
    assert len(batches) == 5
    found = list(batches)
    assert [len(batch.y) for batch in found] == [5, 5, 5, 5, 3]
    index = torch.cat([batch.index for batch in found])
    assert sorted(index.tolist()) == list(range(23))
    assert index.tolist() != list(range(23))
    for batch in found:
        assert torch.equal(batch.x, data.train_x[batch.index] / 255)
        assert torch.equal(batch.y, data.train_y[batch.index])
        assert batch.drawn is None


def test_the_same_seed_gives_the_same_batches_asked_for_in_any_order():
    data = dataset()
    first, again = Batches(data, 5, seeded(1), PREPARE), Batches(data, 5, seeded(1), PREPARE)
    backwards = {step: again[step] for step in reversed(range(5))}
    for step, batch in enumerate(first):
        assert torch.equal(batch.x, backwards[step].x)
        assert torch.equal(batch.index, backwards[step].index)
    other = Batches(data, 5, seeded(2), PREPARE)
    assert not torch.equal(first.order, other.order)


def test_a_batch_says_how_its_images_were_cropped():
    data = dataset()
    for batch in Batches(data, 5, seeded(), PREPARE):
        assert batch.drawn is not None
        again = batch.drawn.apply(data.train_x[batch.index])
        assert torch.equal(batch.x, PREPARE(again))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches():
    data = dataset(500, height=32, width=32)
    on_cpu = Batches(data, 128, seeded(5), PREPARE)
    on_gpu = Batches(data.to("cuda"), 128, seeded(5), PREPARE)
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert there.x.is_cuda
        assert torch.equal(here.index, there.index.cpu())
        assert torch.allclose(here.x, there.x.cpu(), rtol=1e-6)


def test_two_epochs_of_one_generator_differ():
    data, generator = dataset(), seeded()
    first, second = (Batches(data, 5, generator, PREPARE) for _ in range(2))
    assert not torch.equal(first.order, second.order)
    assert first.drawn is not None
    assert second.drawn is not None
    assert not torch.equal(first.drawn.down, second.drawn.down)


def test_batches_out_of_range_are_refused():
    batches = Batches(dataset(), 5, seeded())
    for step in (-1, 5):
        with pytest.raises(IndexError, match="the epoch has 5"):
            batches[step]
    with pytest.raises(InputError, match="give at least 1"):
        Batches(dataset(), 0, seeded())


# ---- data sets -----------------------------------------------------------------------------------


def test_a_part_is_drawn_by_the_seed():
    data = dataset()
    part = data.part(7, 2, seed=3)
    assert (len(part.train_x), len(part.validation_y)) == (7, 2)
    assert torch.equal(part.train_x, data.part(7, 2, seed=3).train_x)
    with pytest.raises(InputError, match="give 1 to 5"):
        data.part(7, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_y": torch.arange(22) % 3}, "23 train samples but 22 classes"),
        ({"train_y": torch.arange(23.0) % 3}, "float32"),
        ({"train_y": torch.arange(23) % 4}, "from 0 to 3: give 0 to 2"),
        ({"validation_x": images(5, 1)}, "give one shape"),
        ({"validation_x": images(0), "validation_y": torch.arange(0)}, "no validation samples"),
    ],
)
def test_samples_and_classes_that_do_not_fit_are_refused(change, said):
    data = dataset()
    parts = {name: getattr(data, name) for name in data.__dataclass_fields__}
    with pytest.raises(InputError, match=said):
        Dataset(**{**parts, **change})
