"""Indian Pines: 145×145 pixels of farmland seen in 200 or 220 spectral bands, 16 kinds of land cover.

The AVIRIS scene of June 1992 (Baumgardner, Biehl, Landgrebe; Purdue, doi 10.4231/R7RX991C). The 200
bands are those that water vapour leaves usable. A sample is the spectrum of one labelled pixel.

Pixels that touch are nearly copies of each other, so a split by pixel flatters every method:
`split="regions"` keeps training and validation pixels apart.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Dataset
from .files import File, Source, read
from .regions import pixels, regions

SOURCE = Source("Indian Pines", ("indian-pines",))
ADDRESS = "https://www.ehu.eus/ccwintco/uploads/"
CUBES = {
    200: File(
        "Indian_pines_corrected.mat",
        (
            "ec2f8808710919d566f70f0d4aa885aae1ddfd42b734aba71c5e12ca65450939",
            "16d6e4a1bd188ec3c79479fc35d98b7cef68cf5f3bdb73e0084508ee3997082b",  # the same, saved anew
        ),
        ADDRESS + "6/67/Indian_pines_corrected.mat",
    ),
    220: File("Indian_pines.mat"),  # no checksum of it is known for certain, so it is not downloaded
}
TRUTH = File(
    "Indian_pines_gt.mat",
    ("65c4687a8ab04f6da4789799bc3bc4f6e88bccac3ed6a2e6ae367e5e6b9e429c",),
    ADDRESS + "c/c4/Indian_pines_gt.mat",
)
LABELLED = 10_249
"""Pixels of the scene that have a class."""
COVER = (
    "alfalfa",
    "corn, no till",
    "corn, min till",
    "corn",
    "grass, pasture",
    "grass, trees",
    "grass, pasture, mowed",
    "hay, windrowed",
    "oats",
    "soybean, no till",
    "soybean, min till",
    "soybean, clean",
    "wheat",
    "woods",
    "buildings, grass, trees, drives",
    "stone, steel, towers",
)


@dataclass(frozen=True)
class Scene(Dataset):
    """Spectra of a scene's labelled pixels, and the scene itself, to draw maps of.

    Args:
        spectra: `(H, W, bands)`, all pixels, standardised like the samples.
        truth: int64 `(H, W)`, the class of a pixel, -1 where it has none.
        train_pixels: int64 `(n, 2)`, row and column of every training sample.
        validation_pixels: the same of the validation samples.
    """

    spectra: Tensor
    truth: Tensor
    train_pixels: Tensor
    validation_pixels: Tensor


def indian_pines(
    bands: Literal[200, 220] = 200,
    split: Literal["pixels", "regions"] = "pixels",
    training: int = 4000,
    validation: int = 2000,
    stratified: bool = False,
    guard: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Scene:
    """Spectra of labelled pixels, every band with mean 0 and deviation 1 over the training pixels.

    Args:
        bands: 200 of the corrected file, or 220 of ``Indian_pines.mat`` where the user has it.
        split: by "pixels", drawn from all that are labelled, as Günther et al. (SIAM J. Math. Data
            Sci. 2(1), 2020) do; or by "regions", see `layerparallel.data.regions`.
        training: how many pixels to train on; results are published for 4000.
        validation: how many to validate on; results are published for 2000.
        stratified: classes in their proportions instead of as they are drawn.
        guard: with regions, a training pixel is more than so many pixels away from every validation
            pixel, diagonals included; 1 means that they do not touch.
        seed: draws the split.
        dtype: of the spectra.

    Raises:
        InputError: a file is missing or not the published one, or an option is out of its bounds.
    """
    if bands not in CUBES:
        raise InputError(f"bands = {bands} is not one of the files there are: give 200 or 220.")
    if split not in ("pixels", "regions"):
        raise InputError(f"split = {split!r} is unknown: give 'pixels' or 'regions'.")
    if training + validation > LABELLED:
        raise InputError(
            f"{training} training and {validation} validation pixels are more than the {LABELLED} that "
            "are labelled: give fewer."
        )
    truth = _matrix(read(SOURCE, TRUTH), TRUTH.name, 2).astype(np.int64) - 1
    cube = _matrix(read(SOURCE, CUBES[bands]), CUBES[bands].name, 3)
    if cube.shape != (*truth.shape, bands):
        raise InputError(
            f"{CUBES[bands].name} has the shape {cube.shape}: give {truth.shape[0]} × {truth.shape[1]} "
            f"pixels of {bands} bands."
        )
    generator = np.random.default_rng(seed)
    if split == "pixels":
        places = pixels(truth, training, validation, stratified, generator)
    else:
        places = regions(truth, training, validation, stratified, generator, guard)
    return _scene(cube, truth, *places, dtype)


def _scene(
    cube: np.ndarray, truth: np.ndarray, train: np.ndarray, kept: np.ndarray, dtype: torch.dtype
) -> Scene:
    """The data set from the flat places of its training and validation pixels."""
    spectra = cube.reshape(-1, cube.shape[2]).astype(np.float64)
    deviation = spectra[train].std(axis=0)
    deviation[deviation == 0] = 1.0  # a dead band
    spectra = (spectra - spectra[train].mean(axis=0)) / deviation
    classes, width = truth.ravel(), truth.shape[1]

    def positions(places: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack(np.divmod(places, width), axis=1))

    floats = torch.from_numpy(spectra).to(dtype)
    return Scene(
        name="indian-pines",
        train_x=floats[torch.from_numpy(train)],
        train_y=torch.from_numpy(classes[train]),
        validation_x=floats[torch.from_numpy(kept)],
        validation_y=torch.from_numpy(classes[kept]),
        classes=COVER,
        spectra=floats.view(*truth.shape, -1),
        truth=torch.from_numpy(truth),
        train_pixels=positions(train),
        validation_pixels=positions(kept),
    )


def _matrix(raw: bytes, name: str, dimensions: int) -> np.ndarray:
    """The one matrix of whole numbers in a .mat file, whatever it is called there."""
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(raw))
    except Exception as error:  # scipy fails in many ways on what is no .mat file
        raise InputError(f"{name} is no .mat file: copy it again.") from error
    matrices = [value for key, value in found.items() if not key.startswith("__")]
    good = [m for m in matrices if isinstance(m, np.ndarray) and m.ndim == dimensions]
    if len(good) != 1 or good[0].dtype.kind not in "iuf":
        raise InputError(
            f"{name} does not hold one numeric array of {dimensions} dimensions: copy it again."
        )
    return good[0]
