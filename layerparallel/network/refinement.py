"""Nested iteration in depth: a trained network becomes the first guess of one m times as deep.

Cyr, Günther, Schroder 2019 (multilevel initialisation): the parameters are samples of functions of
the time t = n h, so the deeper network samples the same functions more finely; T stays.
"""

import copy

import torch
from torch import Tensor

from .bodies import Body, StackedBody, UnlikeBody
from .network import Network


def refine(network: Network, factor: int) -> Network:
    """A network `factor` times as deep with the same T; opening and closing are copied.

    Layer j of the new network is at time j h / factor; its parameters are interpolated linearly
    between the layers around that time (behind the last layer they stay those of the last layer).
    The solver stays too: give the new depth another one if it needs it.

    Raises:
        ValueError: factor is below 2, or the body is a list of unlike modules or of blocks with
            h = 1, for which there is nothing between two layers.
    """
    if factor < 2:
        raise ValueError(f"factor = {factor} does not deepen the network: give 2 or more.")
    if any(isinstance(body, UnlikeBody) or body.integrator == "block" for body in network.chains):
        raise ValueError(
            "A body of unlike modules or blocks has nothing between two layers: refine one made of "
            "a residual function and a step size."
        )
    fine = copy.deepcopy(network)
    if isinstance(fine.body, Body):
        fine.body = _refined(fine.body, factor)
        return fine
    for k, part in enumerate(fine.body):
        if isinstance(part, Body):
            fine.body[k] = _refined(part, factor)
    return fine


def _refined(body: Body, factor: int) -> Body:
    depth, h = body.depth * factor, body.h / factor
    if not isinstance(body, StackedBody):  # all layers share their parameters, if there are any
        fine = copy.deepcopy(body)
        fine.depth, fine.h = depth, h
        return fine
    stacked = StackedBody(body.template(0), depth, h, body.integrator, "tied")
    with torch.no_grad():
        buffers = zip(stacked.running_statistics(), body.running_statistics(), strict=True)
        for target, source in (*zip(stacked.tensors(), body.tensors(), strict=True), *buffers):
            target.copy_(interpolate(source, factor))
    return stacked.train(body.training)


def interpolate(stacked: Tensor, factor: int) -> Tensor:
    """From `(N, ...)` to `(factor N, ...)`: linear in depth, constant behind the last layer."""
    depth = stacked.shape[0]
    position = torch.arange(depth * factor, device=stacked.device)
    left = position // factor
    right = (left + 1).clamp(max=depth - 1)
    if not stacked.is_floating_point():  # a count
        return stacked[left]
    weight = ((position % factor).to(stacked.dtype) / factor).view(-1, *[1] * (stacked.dim() - 1))
    return torch.lerp(stacked[left], stacked[right], weight)
