"""Networks of the literature as chains with transitions; each function returns a `Network`."""

from .residual import preactivation_resnet, resnet, wide_resnet

__all__ = ["preactivation_resnet", "resnet", "wide_resnet"]
