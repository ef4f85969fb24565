"""Networks of the literature as chains with transitions; each function returns a `Network`."""

from .residual import preactivation_resnet, resnet, wide_resnet
from .vae import resnet_vae, vae_loss

__all__ = ["preactivation_resnet", "resnet", "resnet_vae", "vae_loss", "wide_resnet"]
