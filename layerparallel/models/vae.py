"""Variational autoencoder of images in [0, 1], its encoder a CIFAR ResNet (Kingma, Welling 2013).

    net = resnet_vae(depth=110, latent=20)
    loss = vae_loss(net(x), x)  # x of (B, 1, 28, 28)

All between the encoder's last features and the decoded image is the network's closing, so that every
state between two blocks is one tensor, and the encoder can be cut anywhere.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UnknownNameError
from ..network.network import Network
from ..solvers import Serial
from ..solvers.variants import Solvers
from .residual import resnet

Error = Literal["bce", "mse"]
ERRORS = ("bce", "mse")
SEEDS = 1_000_003
"""Keeps the noise of one seed apart from that of the next."""


class Reconstruction(NamedTuple):
    """What a variational autoencoder returns.

    Attributes:
        logits: (B, C, H, W), of the decoded images.
        mean, log_variance: (B, latent), of the normal distribution q(z | x).
    """

    logits: Tensor
    mean: Tensor
    log_variance: Tensor

    @property
    def images(self) -> Tensor:
        """The decoded images, (B, C, H, W), in [0, 1]."""
        return torch.sigmoid(self.logits)


class Variational(nn.Module):
    """From features (B, C, H, W) to a `Reconstruction`: q(z | x), a sample z of it, and its image.

    In training z = mean + deviation * noise, and otherwise the mean. Noise follows from torch's seed and
    the number of samples drawn before, which is part of the state: a network that goes on from a
    checkpoint, whole or in stages on any number of ranks, meets the noise that it would have met.

    Args:
        features: (C, H, W).
        latent: entries of z.
        decoder: from z, (B, latent), to logits.

    Attributes:
        drawn: int64, 0-d: how often noise was drawn.
    """

    drawn: Tensor

    def __init__(self, features: tuple[int, int, int], latent: int, decoder: nn.Module):
        super().__init__()
        channels, height, width = features
        self.posterior = nn.Linear(channels * height * width, 2 * latent)
        self.decoder = decoder
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def forward(self, u: Tensor) -> Reconstruction:
        # Divided, as by a mean over the pixels, q begins near N(0, 1), and a step of Adam that suits the
        # encoder does not throw it out of all bounds.
        pixels = u.shape[2] * u.shape[3]
        mean, log_variance = self.posterior(u.flatten(1) / pixels).chunk(2, dim=1)
        z = mean
        if self.training:
            z = mean + torch.exp(log_variance / 2) * self._noise(mean)
        return Reconstruction(self.decoder(z), mean, log_variance)

    def _noise(self, like: Tensor) -> Tensor:
        """Normal, the same on a CPU as on a GPU."""
        self.drawn.add_(1)
        seed = (torch.initial_seed() * SEEDS + int(self.drawn)) % (1 << 63)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def resnet_vae(
    depth: int = 110,
    latent: int = 20,
    *,
    in_channels: int = 1,
    size: int = 28,
    width: int = 16,
    solver: Solvers = Serial(),
    evaluate: Solvers = Serial(),
) -> Network:
    """A variational autoencoder with the encoder of `resnet`, decoding by transposed convolutions.

    The encoder ends with 4 width channels of size / 4 pixels in each direction; the decoder takes the
    same way back.

    Args:
        depth: of the ResNet, 6 n + 2: 20, 56, 110.
        latent: entries of z.
        in_channels: channels of the images.
        size: their height and width in pixels, a multiple of 4.
        width: channels of the encoder's first stage.
        solver: how the encoder's chains are propagated in training.
        evaluate: the same otherwise.

    Raises:
        ValueError: depth is none of the family's, size no multiple of 4, or a number below 1.
    """
    if size < 4 or size % 4:
        raise ValueError(
            f"size {size} is no multiple of 4 pixels, as images halved twice need it; pad them to "
            f"{max(4, -(-size // 4) * 4)}"
        )
    if latent < 1:
        raise ValueError(f"latent {latent} is out of range; use 1 or more")
    net = resnet(depth, in_channels=in_channels, width=width, solver=solver, evaluate=evaluate)
    features = (4 * width, size // 4, size // 4)
    net.closing = Variational(features, latent, _decoder(latent, features, in_channels))
    return net


def _decoder(latent: int, features: tuple[int, int, int], channels: int) -> nn.Module:
    """From z, (B, latent), to logits (B, channels, 4 H, 4 W), features being (C, H, W)."""
    first, height, width = features
    return nn.Sequential(
        nn.Linear(latent, first * height * width),
        nn.Unflatten(1, features),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        *_doubling(first, first // 2),
        *_doubling(first // 2, first // 4),
        nn.Conv2d(first // 4, channels, 3, padding=1),
    )


def _doubling(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Twice as high and wide."""
    return [
        nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def vae_loss(output: Reconstruction, x: Tensor, beta: float = 1.0, error: Error = "bce") -> Tensor:
    """Reconstruction error plus beta times KL(q(z | x) || N(0, 1)): the negative evidence bound at 1.

    Both are summed over the entries of a sample and averaged over the samples; 0-d.

    Args:
        output: of the network.
        x: the images, (B, C, H, W), in [0, 1].
        beta: weight of the divergence.
        error: "bce", the cross entropy of pixels that are 1 with probability sigmoid(logits); "mse",
            the squared distance to those probabilities.

    Raises:
        ValueError: the error's name is unknown, or the shapes do not fit.
    """
    if output.logits.shape != x.shape:
        raise ValueError(
            f"the images are {tuple(x.shape)} and their reconstructions {tuple(output.logits.shape)}; "
            "give the input of the network"
        )
    if error == "bce":
        off = functional.binary_cross_entropy_with_logits(output.logits, x, reduction="sum")
    elif error == "mse":
        off = functional.mse_loss(output.images, x, reduction="sum")
    else:
        raise UnknownNameError("reconstruction error", error, ERRORS)
    mean, log_variance = output.mean, output.log_variance
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return (off + beta * divergence) / len(x)
