"""Every layout, from small files written here; real files where LAYERPARALLEL_DATA has them."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from layouts import cifar, idx, known, mat, put, real
from PIL import Image

from layerparallel import data
from layerparallel.data import cifar as cifar_module
from layerparallel.data import files, mnist, svhn
from layerparallel.data.idx import pair, parse
from layerparallel.errors import InputError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (7, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0, 2], dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(tmp_path / "given"))
    return tmp_path / "given"


# ---- idx -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_give_back_what_was_written(compress):
    x, y = pair(idx(IMAGES, compress), idx(LABELS, compress), ("x", "y"))
    assert torch.equal(x, torch.from_numpy(IMAGES)[:, None])
    assert y.dtype == torch.int64
    assert y.tolist() == LABELS.tolist()


PLAIN = idx(IMAGES, compress=False)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "begins with nothing"),
        (PLAIN[:3], "begins with 00 00 08"),
        (b"\x89PNG" + PLAIN[4:], "begins with 89 50 4e 47"),
        (b"\0\0\x0d\x03" + PLAIN[4:], "unsigned bytes"),
        (idx(LABELS, compress=False), "has 1 dimensions: give an idx file with 3"),
        (PLAIN[:9], "ends within its header"),
        (PLAIN[:-1], "announces 7 × 5 × 4 values but has only 139"),
        (PLAIN + b"\0", "values but has more"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "values: give a file"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**16, 2**9, 2**9) + b"\0", "but has only 1"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28), "values: give a file"),
        (gzip.compress(PLAIN)[:-9], "damaged"),
        (gzip.compress(PLAIN)[:-8] + b"12345678", "damaged"),
    ],
)
def test_what_is_no_idx_file_is_told_in_one_sentence(raw, said):
    with pytest.raises(InputError) as caught:
        parse(raw, "file", 3)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_and_classes_must_be_as_many_and_known():
    with pytest.raises(InputError, match="7 images but y 6 classes"):
        pair(idx(IMAGES), idx(LABELS[:6]), ("x", "y"))
    with pytest.raises(InputError, match="class 2: give 0 to 1"):
        pair(idx(IMAGES), idx(LABELS), ("x", "y"), limit=2)


@pytest.mark.parametrize(
    ("name", "marks", "other"),
    [("mnist", "MNIST_FILES", "fashion-mnist"), ("fashion-mnist", "FASHION_FILES", "mnist")],
)
def test_mnist_and_fashion_mnist_are_told_apart(given, monkeypatch, name, marks, other):
    """Straight in one folder their files have the same names; only the checksum tells."""
    monkeypatch.setattr(files, "_download", asked)
    raw = [idx(IMAGES), idx(LABELS), idx(IMAGES[:3]), idx(LABELS[:3])]
    published = zip(getattr(mnist, marks), raw, strict=True)
    here = tuple(known(file, put(given / file.name, part)) for file, part in published)
    monkeypatch.setattr(mnist, marks, here)
    found = data.load(name)
    assert (found.name, len(found.train_x), len(found.validation_x)) == (name, 7, 3)
    with pytest.raises(InputError, match="asked for train-images"):
        data.load(other)


def asked(source, file):
    raise InputError(f"asked for {file.name}")


# ---- CIFAR ---------------------------------------------------------------------------------------


class Trap:
    """A pickle of this runs code."""

    def __reduce__(self):
        return os.putenv, ("LAYERPARALLEL_TRAP", "sprung")


def test_a_cifar_file_with_another_checksum_is_not_opened(given, monkeypatch):
    opened = []
    monkeypatch.setattr(cifar_module, "unpickle", lambda raw, name: opened.append(name))
    put(given / "cifar-10-batches-py" / "batches.meta", pickle.dumps(Trap()))
    with pytest.raises(
        InputError, match=r"batches\.meta is not the published batches\.meta of CIFAR-10"
    ):
        data.load("cifar-10")
    assert opened == []


@pytest.mark.parametrize("raw", [pickle.dumps(Trap()), pickle.dumps({b"data": Trap()})])
def test_a_pickle_that_would_run_code_is_refused_even_then(raw, monkeypatch):
    sprung = []
    monkeypatch.setattr(os, "putenv", lambda *a: sprung.append(a))
    with pytest.raises(InputError, match=r"cannot be read as a CIFAR file .*putenv"):
        cifar_module.unpickle(raw, "data_batch_1")
    assert sprung == []


@pytest.mark.parametrize("raw", [b"", b"\x80\x02nonsense", pickle.dumps([1, 2])])
def test_what_is_no_cifar_file_is_told_in_one_sentence(raw):
    with pytest.raises(InputError, match="copy it again") as caught:
        cifar_module.unpickle(raw, "data_batch_1")
    assert "\n" not in str(caught.value)


def test_cifar_files_give_back_what_was_written(given, monkeypatch):
    folder = given / "cifar-100-python"
    raw = {
        "train": cifar(COLOUR[:4], [3, 1, 0, 2], b"fine_labels"),
        "test": cifar(COLOUR[4:], [1, 1], b"fine_labels"),
        "meta": pickle.dumps({b"fine_label_names": [b"apple", b"bear", b"cup", b"dog"]}, protocol=3),
    }
    for name, part in raw.items():
        put(folder / name, part)
        old = getattr(cifar_module, f"HUNDRED_{name.upper()}")
        new = known(old, part) if name == "meta" else (known(old[0], part),)
        monkeypatch.setattr(cifar_module, f"HUNDRED_{name.upper()}", new)
    found = data.load("cifar-100")
    assert torch.equal(found.train_x, torch.from_numpy(COLOUR[:4]))
    assert torch.equal(found.validation_x, torch.from_numpy(COLOUR[4:]))
    assert found.train_y.tolist() == [3, 1, 0, 2]
    assert found.classes == ("apple", "bear", "cup", "dog")


# ---- SVHN ----------------------------------------------------------------------------------------


def test_svhn_files_give_back_what_was_written(given, monkeypatch):
    digits = np.array([[1], [10], [9], [2], [10], [5]], dtype=np.uint8)
    for name, part in (("TRAIN", slice(0, 4)), ("TEST", slice(4, 6))):
        file = getattr(svhn, name)
        raw = mat(X=np.ascontiguousarray(COLOUR[part].transpose(2, 3, 1, 0)), y=digits[part])
        put(given / "svhn" / file.name, raw)
        monkeypatch.setattr(svhn, name, known(file, raw))
    found = data.load("svhn")
    assert torch.equal(found.train_x, torch.from_numpy(COLOUR[:4]))
    assert torch.equal(found.validation_x, torch.from_numpy(COLOUR[4:]))
    assert found.train_y.tolist() == [1, 0, 9, 2]  # 10 stands for the digit 0
    assert found.validation_y.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"no such thing", "no .mat file"),
        (mat(X=np.zeros((32, 32, 3, 2), np.uint8)), "no .mat file with X and y"),
        (mat(X=np.zeros((32, 32, 3, 2)), y=np.ones((2, 1))), "float64"),
        (mat(X=np.zeros((28, 28, 3, 2), np.uint8), y=np.ones((2, 1))), "(28, 28, 3, 2)"),
        (mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.array([[0], [3]])), "from 0 to 3"),
    ],
)
def test_what_is_no_svhn_file_is_told_in_one_sentence(raw, said):
    with pytest.raises(InputError) as caught:
        svhn.parse(raw, "train_32x32.mat")
    assert said in str(caught.value)


# ---- a user's own folder -------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dot", [True, False])
def test_a_folder_in_the_layout_of_mnist(tmp_path, compress, dot):
    joint, end = "." if dot else "-", ".gz" if compress else ""
    for half, count in (("train", 7), ("t10k", 3)):
        put(tmp_path / f"{half}-images{joint}idx3-ubyte{end}", idx(IMAGES[:count], compress))
        put(tmp_path / f"{half}-labels{joint}idx1-ubyte{end}", idx(LABELS[:count], compress))
    found = data.load("folder", path=tmp_path)
    assert torch.equal(found.train_x, torch.from_numpy(IMAGES)[:, None])
    assert found.classes == ("0", "1", "2")
    (tmp_path / f"t10k-labels{joint}idx1-ubyte{end}").unlink()
    with pytest.raises(InputError, match="has no t10k-labels-idx1-ubyte"):
        data.load("folder", path=tmp_path)


def picture(path, colour, size=(6, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def classes_of(root, count=5):
    """Two classes, told by their colour."""
    for k in range(count):
        picture(root / "red" / f"{k}.png", (200, k, 0))
        picture(root / "blue" / f"{k}.png", (0, k, 200))
    put(root / "red" / "notes.txt", b"no image")
    put(root / "blue" / ".DS_Store", b"hidden")


@pytest.mark.parametrize("kept", ["val", "test"])
def test_a_folder_of_images_in_two_parts(tmp_path, kept):
    classes_of(tmp_path / "train", 5)
    classes_of(tmp_path / kept, 2)
    found = data.load("folder", path=tmp_path)
    assert found.classes == ("blue", "red")
    assert found.shape == (3, 5, 6)
    assert (len(found.train_x), len(found.validation_x)) == (10, 4)
    assert (found.train_x[:, 0, 0, 0] == 200 * found.train_y).all()
    assert found.train_x[:5, 1, 3, 2].tolist() == [0, 1, 2, 3, 4]


def test_a_folder_without_parts_is_split_by_the_seed(tmp_path):
    classes_of(tmp_path, 20)
    first, again, other = (data.load("folder", path=tmp_path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation_x, again.validation_x)
    assert not torch.equal(first.validation_x, other.validation_x)
    assert first.validation_y.bincount().tolist() == [4, 4]
    every = torch.cat([first.train_x, first.validation_x])[:, 1, 0, 0].tolist()
    assert sorted(every) == sorted([*range(20)] * 2)


def test_grey_images_have_one_channel_and_a_size_scales(tmp_path):
    for k in range(3):
        picture(tmp_path / "dark" / f"{k}.png", k, mode="L")
        picture(tmp_path / "light" / f"{k}.jpg", 250, size=(9, 9), mode="L")
    found = data.load("folder", path=str(tmp_path), size=8)
    assert found.shape == (1, 8, 8)
    assert (found.train_x[found.train_y == 1] > 240).all()


def test_wrong_folders_are_told_in_one_sentence(tmp_path):
    def said(path, **options):
        with pytest.raises(InputError) as caught:
            data.load("folder", path=path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is no folder" in said(tmp_path / "nowhere")
    assert "has 0 subfolders of images" in said(tmp_path)
    classes_of(tmp_path / "a", 3)
    assert "leaves nothing on one side" in said(tmp_path / "a", share=1.0)
    picture(tmp_path / "a" / "red" / "odd.png", (1, 1, 1), size=(7, 5))
    assert "odd.png has 7×5 pixels but" in said(tmp_path / "a")
    put(tmp_path / "a" / "red" / "odd.png", b"no image at all")
    assert "odd.png cannot be read as an image" in said(tmp_path / "a")
    whole = (tmp_path / "a" / "red" / "0.png").read_bytes()
    put(tmp_path / "a" / "red" / "odd.png", whole[:-30])
    assert "odd.png cannot be read as an image" in said(tmp_path / "a")
    (tmp_path / "a" / "green").mkdir()
    assert "green has no image files" in said(tmp_path / "a")
    classes_of(tmp_path / "b" / "train", 3)
    assert "has no subfolder val or test" in said(tmp_path / "b")
    classes_of(tmp_path / "b" / "test", 3)
    picture(tmp_path / "b" / "test" / "green" / "0.png", (0, 9, 0))
    assert "has a class 'green' that" in said(tmp_path / "b")
    picture(tmp_path / "c" / "x" / "0.png", (0, 9, 0))
    picture(tmp_path / "c" / "y" / "0.png", (0, 9, 0))
    assert "has one image, which cannot be split" in said(tmp_path / "c")


# ---- real files ----------------------------------------------------------------------------------

MOMENTS = {  # as they are usually given
    "mnist": ((0.1307,), (0.3081,)),
    "cifar-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@pytest.mark.parametrize(
    ("name", "where", "shape", "training"),
    [
        ("mnist", "mnist", (1, 28, 28), 60000),
        ("cifar-10", "cifar-10-batches-py", (3, 32, 32), 50000),
        ("cifar-100", "cifar-100-python", (3, 32, 32), 50000),
    ],
)
def test_real_images(name, where, shape, training):
    real(where)
    found = data.load(name)
    assert found.shape == shape
    assert found.train_x.dtype == torch.uint8
    assert (len(found.train_x), len(found.validation_x)) == (training, 10000)
    count = 100 if name == "cifar-100" else 10
    assert len(set(found.classes)) == count
    assert found.train_y.bincount().min() > 0.09 * training * 10 / count
    for ours, usual in zip(found.moments(), MOMENTS[name], strict=True):
        assert ours == pytest.approx(usual, abs=6e-5)
    if name == "mnist":
        assert found.train_y[:5].tolist() == [5, 0, 4, 1, 9]


def test_real_mnist_as_a_users_own_folder():
    own, published = data.load("folder", path=real("mnist")), data.load("mnist")
    assert torch.equal(own.train_x, published.train_x)
    assert torch.equal(own.validation_y, published.validation_y)


def test_real_published_level_sets():
    real("level-sets")
    found = data.load("level-sets-published", dtype=torch.float64)
    assert found.train_y.bincount().tolist() == [1000] * 5
    assert found.validation_y.bincount().tolist() == [40] * 5
    assert found.train_x.dtype == torch.float64
    cells = (found.train_x + 3) / 6 * 255
    assert (cells - cells.round()).abs().max() < 1e-6
    training = set(map(tuple, found.train_x.tolist()))
    shared = sum(tuple(point) in training for point in found.validation_x.tolist())
    assert shared / 200 == pytest.approx(0.36)
