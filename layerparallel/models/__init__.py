"""Networks of the literature: chains with transitions, each a `Network`; VGG-16, an nn.Sequential.

It knows how networks are put together; it must not know how they are trained. Open `residual.py` first.
"""

from .residual import preactivation_resnet, resnet, wide_resnet
from .vae import resnet_vae, vae_loss
from .vgg import vgg16

__all__ = ["preactivation_resnet", "resnet", "resnet_vae", "vae_loss", "vgg16", "wide_resnet"]
