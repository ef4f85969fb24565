"""MNIST, or a folder of your own images: convolutional layers at full resolution."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from torch import nn

from ..data.augment import Augmentation, Preparation
from ..data.base import Dataset
from ..data.folder import folder as images_of
from ..data.mnist import mnist
from ..data.sets import About, about
from ..steps.layers import Convolution
from . import pictures
from .base import part
from .common import Common
from .options import Bound, Count


@dataclass(frozen=True)
class Mnist(Common):
    """Handwritten digits, or images of your own.

    All layers are convolutional, at full resolution. It is the third experiment of Günther et al., SIAM
    J. Math. Data Sci. 2(1), 2020. Channels, size and number of classes are those of the data.
    """

    name: ClassVar[str] = "mnist"
    data_set: ClassVar[str] = "mnist"
    sections: ClassVar[dict[str, str]] = {"data": "Data", "channels": "Network", "crop": "Training"}

    data: Path | None = None
    """Folder in the layout of MNIST, or with a subfolder of images per class; MNIST if not given."""
    size: Count | None = None
    """Side in pixels to which the image files of that folder are scaled; as they are if not given."""
    depth: int = 32
    """Layers N."""
    channels: Count = 8
    """Channels of the state."""
    pool: Count = 4
    """Side of the squares over which the last state is pooled, before a linear layer; at most that of
    the images."""
    crop: Annotated[int, Bound(least=0)] = 2
    """Pixels by which training images are moved at random, up, down and sideways; less than their
    side."""
    T: float = 2.0
    """Final time: the step size is T/N."""
    activation: Literal["tanh", "relu", "smoothrelu", "gelu"] = "relu"
    """Activation of every layer."""
    epochs: int = 6
    """Epochs with the network of full depth."""
    batch: int = 32
    """Images in a mini batch."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle learning rate."""
    smoothness: float = 1e-4
    """Weight, in the objective, of the smoothness of the weights in depth; 0 leaves it out."""
    samples: int | None = 1
    """Groups of layers in a coarse step of mean_residual or picard; none for one a layer."""
    serial_epochs: int = 1
    """Epochs for which the same network is then trained serially, to measure the ratio."""
    evaluate_every: int = 1
    """Epochs between two evaluations."""

    @property
    def known(self) -> About:
        return about("mnist" if self.data is None else "folder")

    @classmethod
    def needs(cls) -> str:
        return f"{super().needs()} or --data"

    def check(self) -> None:
        super().check()
        if self.known.shape:
            self._check_side(min(self.known.shape[1:]))

    def _check_side(self, side: int) -> None:
        """Raises ValueError where images of this side are too small."""
        if self.pool > side:
            raise ValueError(f"pool = {self.pool} is larger than the images: give at most {side}.")
        if self.crop >= side:
            raise ValueError(f"crop = {self.crop} moves images out of sight: give at most {side - 1}.")

    def load(self) -> Dataset:
        """The published files, or those of the folder."""
        whole = mnist() if self.data is None else images_of(self.data, seed=self.seed, size=self.size)
        self._check_side(min(whole.shape[1:]))
        return part(whole, self.training, self.validation, self.seed)

    def prepare(self, data: Dataset) -> Preparation:
        """Normalised by the training images, channel by channel, and moved if `crop` says so."""
        moved = Augmentation(self.crop, flip=False) if self.crop else None
        return Preparation.of(data, moved, self.torch_dtype)

    def parts(self, data: Dataset) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Convolution, convolutional layers, pooling and a linear layer."""
        channels, height, width = data.shape
        features = self.channels * (height // self.pool) * (width // self.pool)
        return (
            nn.Conv2d(channels, self.channels, 3, padding=1),
            Convolution(self.channels, self.activation),
            nn.Sequential(nn.MaxPool2d(self.pool), nn.Flatten(), nn.Linear(features, len(data.classes))),
        )

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Images that the network misses, the surest first."""
        pictures.surest_misses(folder / "missed.png", data, network, self.prepare(data))
