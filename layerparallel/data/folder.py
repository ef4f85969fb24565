"""A user's own images: in the layout of MNIST, or one subfolder of image files per class."""

from mimetypes import guess_type
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from . import image_file
from .base import Dataset
from .idx import pair

TRAINING = ("train", "training")
VALIDATION = ("val", "validation", "valid", "test")
FEW_LEVELS = 16
"""What 8 bits keep of images of 16 bits that use only 12 of them: 0 to 16."""
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
    without these, and then split by a seed. Images are grey where all files are, else RGB; what is
    transparent in them is white, and EXIF data turn them. Grey values of 16 bits are scaled to 8.

    Args:
        share: of every class for validation, where the folder has no such part.
        seed: draws that split.
        size: side in pixels to which image files are scaled, whatever their own; None takes them as
            they are, and all must be alike.

    Raises:
        InputError: the folder has neither layout, a file cannot be read or its values are not known
            (animations, floating point, damage), or sizes differ.
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
    pictures = _read(root, every, size)
    labels = torch.tensor(
        [classes.index(name) for half in halves for name, paths in half.items() for _ in paths]
    )
    first = sum(len(paths) for paths in halves[0].values())
    return (pictures[:first], labels[:first]), (pictures[first:], labels[first:]), classes


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _classes(root: Path) -> dict[str, list[Path]]:
    """The files of every class whose names are those of images, sorted; hidden files are passed over."""
    from PIL import Image

    known = Image.registered_extensions()
    found: dict[str, list[Path]] = {}
    for sub in sorted(root.iterdir()):
        if not sub.is_dir() or sub.name.startswith("."):
            continue
        found[sub.name] = sorted(
            path
            for path in sub.rglob("*")
            if (path.is_file() or path.is_symlink()) and not path.name.startswith(".")
            if path.suffix.lower() in known or (guess_type(path.name)[0] or "").startswith("image/")
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


def _read(root: Path, paths: list[Path], size: int | None) -> Tensor:
    """All images, uint8 `(n, channels, H, W)`: one channel where every file is grey, else three."""
    pictures, spans = torch.empty(0), {}
    for place, path in enumerate(paths):
        values, span = image_file.read(path, size)
        if span is not None:
            spans[path] = span
        if place == 0:
            pictures = torch.empty(len(paths), *values.shape, dtype=torch.uint8)
        if values.shape[1:] != pictures.shape[2:]:
            (height, width), (first, other) = values.shape[1:], pictures.shape[2:]
            raise InputError(
                f"{path} has {width}×{height} pixels but {paths[0]} has {other}×{first}: make them one "
                "size, or give the size to scale them to."
            )
        if len(values) > pictures.shape[1]:  # the first in colour
            grey, pictures = pictures, torch.empty(len(paths), *values.shape, dtype=torch.uint8)
            pictures[:place] = grey[:place]
        pictures[place] = values
    _check_range(root, spans)
    return pictures


def _check_range(root: Path, spans: dict[Path, tuple[int, int]]) -> None:
    """Deep images must not lose nearly all their levels in 8 bits, as 12-bit values in 16 bits do."""
    if not spans:
        return
    least, greatest = min(low for low, _ in spans.values()), max(high for _, high in spans.values())
    if greatest - least <= FEW_LEVELS:
        raise InputError(
            f"{next(iter(spans))} and the other 16-bit images of {root} use so little of their range "
            f"that 8 bits keep only {greatest - least + 1} of 256 levels: stretch them to all of it."
        )
