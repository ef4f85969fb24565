"""MNIST drawn anew by a variational autoencoder whose stages train at once."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ..data.augment import Preparation
from ..data.base import Dataset
from ..models.vae import Reconstruction, Variational, resnet_vae, vae_loss
from ..network.network import Network
from ..runs.evaluate import Task
from . import pictures
from .options import Count, NotNegative
from .stages import Stages

COLUMNS = 16
"""Images in a row of the picture."""


def inputs_of(x: Tensor, y: Tensor) -> Tensor:
    """The target: the inputs x themselves."""
    return x


def squared_error(output: Reconstruction, x: Tensor) -> Tensor:
    """Of every image, its mean over the pixels, `(b,)`."""
    return (output.images - x).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class MnistVae(Stages):
    """MNIST drawn anew by a variational autoencoder.

    Its stages train at once, from auxiliary variables. Its encoder is a ResNet, as in Sun et al. 2021,
    who train ResNet-110 with K = 3, beta = 10 and Adam. The loss is the reconstruction error and the
    divergence of q(z | x) from N(0, 1), summed over an image; that of test images takes the mean of q
    for z. Nothing is augmented.
    """

    name: ClassVar[str] = "mnist-vae"
    data_set: ClassVar[str] = "mnist"
    sections: ClassVar[dict[str, str]] = {"depth": "Network", "error": "Training"}

    depth: Count = 20
    """Layers with weights of the encoder, 6 n + 2; n is 2 or more."""
    width: Count = 16
    """Channels behind the first convolution."""
    latent: Count = 20
    """Entries of z."""
    error: Literal["bce", "mse"] = "bce"
    """Reconstruction error: cross entropy of the pixels, or their squared distance."""
    divergence: NotNegative = 1.0
    """Weight of the divergence."""
    stages: int = 3
    """Stages K, of about the same cost."""
    serial_start: int = 1
    """Serial epochs before the first parallel one; they count as serial ones."""
    beta: float = 1000.0
    """Weight of the constraints' violation; the loss it stands beside is of a hundred or so."""
    learning_rate: float = 1e-2
    """Learning rate of Adam at the start."""

    def prepare(self, data: Dataset) -> Preparation:
        """Grey values in [0, 1]."""
        return Preparation(dtype=self.torch_dtype)

    def network(self) -> Network:
        return resnet_vae(self.depth, self.latent, width=self.width)

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Adam over the parameters of a network or a stage."""
        return Adam(parameters, lr=self.learning_rate)

    @property
    def task(self) -> Task:
        """To draw the image that was put in."""
        loss = partial(vae_loss, beta=self.divergence, error=self.error)
        return Task(loss, inputs_of, {"squared_error": squared_error})

    def picture(self, data: Dataset, network: nn.Module, folder: Path) -> None:
        """Test images above what becomes of them, and images of z drawn from N(0, 1)."""
        count = min(COLUMNS, len(data.validation_x))
        x = self.prepare(data)(data.validation_x[:count])
        noise = torch.Generator().manual_seed(self.seed)
        z = torch.randn(2 * count, self.latent, generator=noise).to(x)
        network.eval()
        closing = next(each for each in network.modules() if isinstance(each, Variational))
        with torch.no_grad():
            again, drawn = network(x), closing.decoder(z).sigmoid()
        rows = [("test images", x), ("reconstructed", again.images)]
        rows += [("z from N(0, 1)", drawn[:count]), ("", drawn[count:])]
        off = squared_error(again, x).mean().item()
        pictures.rows_of_images(
            folder / "reconstructions.png",
            [(text, images.double().numpy()) for text, images in rows],
            title=f"{len(x)} test images; mean squared error of a pixel {off:.4f}",
        )
