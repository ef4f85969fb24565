"""The common norm of the gradients of a network whose parameters are on several ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import ALONE, Group


class Norms(nn.Module):
    """A network that a layer group shares, or that is all here."""

    _group: Group = ALONE

    @property
    def group(self) -> Group:
        """The layer group; one process unless distributed."""
        return self._group

    def uncounted(self) -> list[nn.Parameter]:
        """Parameters that sums over the layer group leave out on this rank: another one counts them."""
        return []

    def gradient_norm(self) -> Tensor:
        """The 2-norm of all gradients together, 0-d, over all ranks of the layer group."""
        skipped = {id(p) for p in self.uncounted()}
        grads = [p.grad for p in self.parameters() if p.grad is not None and id(p) not in skipped]
        norms = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        if self.group.alone:
            return norms
        device = next(self.parameters()).device
        return self.group.total(norms.to(device).double().square()).sqrt()

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scales all gradients so that their common 2-norm is at most `max_norm`; returns that norm.

        ``torch.nn.utils.clip_grad_norm_`` for one process and for a layer group alike.
        """
        norm = self.gradient_norm()
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for p in self.parameters():
            if p.grad is not None:
                p.grad.mul_(scale.to(p.grad))
        return norm
