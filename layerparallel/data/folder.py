"""A user's own images: in the layout of MNIST, or one subfolder of image files per class."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Dataset
from .idx import pair

if TYPE_CHECKING:
    from PIL import Image

TRAINING = ("train", "training")
VALIDATION = ("val", "validation", "valid", "test")
Halves = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]


def folder(
    path: Path | str,
    share: float = 0.2,
    seed: int = 0,
    size: int | None = None,
) -> Dataset:
    """A data set from a folder, whose layout is found out.

    Either the four files of MNIST (``train-images-idx3-ubyte`` and so on, with ``.gz`` or without),
    or image files in one subfolder per class: under ``train/`` and ``val/`` or ``test/``, or
    without these, and then split by a seed. Images are grey where all files are, else RGB.

    Args:
        share: of every class for validation, where the folder has no such part.
        seed: draws that split.
        size: side in pixels to which image files are scaled, whatever their own; None takes them as
            they are, and all must be alike.

    Raises:
        InputError: the folder has neither layout, a file cannot be read, or sizes differ.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"{root.absolute()} is no folder: give one with images in it.")
    if not 0 < share < 1:
        raise InputError(f"share = {share} leaves nothing on one side: give a number between 0 and 1.")
    if size is not None and size < 1:
        raise InputError(f"size = {size} pixels is no size: give at least 1.")
    layout = _idx(root) or _images(root, share, seed, size)
    train, validation, classes = layout
    return Dataset(root.resolve().name, *train, *validation, classes)


# ---- the layout of MNIST ------------------------------------------------------------------------


def _idx(root: Path) -> Halves | None:
    found = {
        (half, kind): _either(root, half, kind)
        for half in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }
    if not any(found.values()):
        return None
    for (half, kind), path in found.items():
        if path is None:
            raise InputError(f"{root} has no {half}-{kind}-ubyte: put it beside the others.")
    halves = []
    for half in ("train", "t10k"):
        images, labels = found[half, "images-idx3"], found[half, "labels-idx1"]
        assert images is not None
        assert labels is not None
        names = (str(images), str(labels))
        halves.append(pair(images.read_bytes(), labels.read_bytes(), names))
    count = 1 + max(int(y.max()) for _, y in halves)
    return halves[0], halves[1], tuple(map(str, range(count)))


def _either(root: Path, half: str, kind: str) -> Path | None:
    names = [f"{half}-{kind}-ubyte", f"{half}-{kind.replace('-idx', '.idx')}-ubyte"]
    paths = [root / (name + ending) for name in names for ending in (".gz", "")]
    return next((path for path in paths if path.is_file()), None)


# ---- one subfolder per class --------------------------------------------------------------------


def _images(root: Path, share: float, seed: int, size: int | None) -> Halves:
    train, kept = _part(root, TRAINING), _part(root, VALIDATION)
    if train is None and kept is None:
        files = _classes(root)
        halves = _split(root, files, share, seed)
    elif train is None or kept is None:
        missing = "train" if train is None else "val or test"
        raise InputError(f"{root} has no subfolder {missing} beside {train or kept}: add it.")
    else:
        halves = _classes(train), _classes(kept)
        for name in halves[1]:
            if name not in halves[0]:
                raise InputError(f"{kept} has a class {name!r} that {train} has not: add it there.")
    classes = tuple(halves[0])
    every = [path for half in halves for paths in half.values() for path in paths]
    shape = _shape(every, size)
    pictures = _read(every, shape, resize=size is not None)
    labels = torch.tensor(
        [classes.index(name) for half in halves for name, paths in half.items() for _ in paths]
    )
    first = sum(len(paths) for paths in halves[0].values())
    return (pictures[:first], labels[:first]), (pictures[first:], labels[first:]), classes


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _classes(root: Path) -> dict[str, list[Path]]:
    """The image files of every class, sorted; hidden files and what is no image are passed over."""
    from PIL import Image

    known = Image.registered_extensions()
    found: dict[str, list[Path]] = {}
    for sub in sorted(root.iterdir()):
        if not sub.is_dir() or sub.name.startswith("."):
            continue
        found[sub.name] = sorted(
            path
            for path in sub.rglob("*")
            if path.is_file() and path.suffix.lower() in known and not path.name.startswith(".")
        )
        if not found[sub.name]:
            raise InputError(f"{sub} has no image files: put the images of that class there.")
    if len(found) < 2:
        raise InputError(
            f"{root} has {len(found)} subfolders of images: give one for each of at least two classes, "
            "or the four files of MNIST's layout."
        )
    return found


def _split(
    root: Path, files: dict[str, list[Path]], share: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files of every class in two halves, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    train, kept = {}, {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise InputError(f"{root / name} has one image, which cannot be split: give at least 2.")
        order = torch.randperm(len(paths), generator=generator).tolist()
        count = min(max(1, round(share * len(paths))), len(paths) - 1)
        kept[name] = [paths[k] for k in sorted(order[:count])]
        train[name] = [paths[k] for k in sorted(order[count:])]
    return train, kept


def _shape(paths: list[Path], size: int | None) -> tuple[int, int, int]:
    """Channels, height and width of all images, from their headers."""
    grey, sizes = True, {}
    for path in paths:
        with _open(path) as image:
            grey = grey and image.mode in ("1", "L")
            sizes.setdefault(image.size, path)
        if size is None and len(sizes) > 1:
            (first, one), (second, other), *_ = sizes.items()
            raise InputError(
                f"{other} has {second[0]}×{second[1]} pixels but {one} has {first[0]}×{first[1]}: make "
                "them one size, or give the size to scale them to."
            )
    width, height = (size, size) if size is not None else next(iter(sizes))
    return (1 if grey else 3), height, width


def _read(paths: list[Path], shape: tuple[int, int, int], resize: bool) -> Tensor:
    channels, height, width = shape
    pictures = torch.empty(len(paths), *shape, dtype=torch.uint8)
    for place, path in enumerate(paths):
        try:
            with _open(path) as image:
                image = image.convert("L" if channels == 1 else "RGB")
                if resize:
                    image = image.resize((width, height))
                values = np.asarray(image)
        except OSError as error:
            raise InputError(f"{path} cannot be read as an image ({error}): replace it.") from error
        picture = values[None] if channels == 1 else values.transpose(2, 0, 1)
        pictures[place] = torch.from_numpy(np.array(picture))
    return pictures


def _open(path: Path) -> "Image.Image":
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}): replace it.") from error
