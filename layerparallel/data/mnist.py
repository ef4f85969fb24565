"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28×28 pixels in ten classes."""

from .base import Dataset
from .files import File, Source, read
from .idx import pair

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _files(address: str, checksums: tuple[str, ...]) -> tuple[File, ...]:
    return tuple(
        File(name, (known,), address + name) for name, known in zip(NAMES, checksums, strict=True)
    )


MNIST = Source("MNIST", ("mnist", "MNIST/raw"))
MNIST_FILES = _files(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
FASHION = Source("Fashion-MNIST", ("fashion-mnist", "FashionMNIST/raw"))
FASHION_FILES = _files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
GARMENTS = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def mnist() -> Dataset:
    """Handwritten digits (LeCun, Cortes, Burges); validation is the published test part.

    Raises:
        InputError: a file is missing or not the published one.
    """
    return _load("mnist", MNIST, MNIST_FILES, tuple("0123456789"))


def fashion_mnist() -> Dataset:
    """Garments (Xiao, Rasul, Vollgraf 2017), in the layout of MNIST; validation is the test part.

    Raises:
        InputError: a file is missing or not the published one.
    """
    return _load("fashion-mnist", FASHION, FASHION_FILES, GARMENTS)


def _load(name: str, source: Source, files: tuple[File, ...], classes: tuple[str, ...]) -> Dataset:
    raw = [read(source, file) for file in files]
    train = pair(raw[0], raw[1], (files[0].name, files[1].name), len(classes))
    validation = pair(raw[2], raw[3], (files[2].name, files[3].name), len(classes))
    return Dataset(name, *train, *validation, classes)
