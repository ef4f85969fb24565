"""Distributing a network's depth over a layer group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..group import Group, layer_group
from ..group.agreement import agree, placeless
from ..group.blocks import Blocks
from ..solvers.variants import Solver
from .bodies import Body
from .network import Chains, Network, Output
from .propagate import interval_length

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def distribute(
    network: Network,
    over: DeviceMesh | Group,
    *,
    output: Output = "all",
    layers: Sequence[Sequence[int]] | None = None,
) -> Network:
    """Keeps of a network what this rank of a layer group is to have, in place.

    Every rank makes the whole network with the same seed and calls this; then `network` is used as
    before, by all ranks with the same batches: called, its loss taken, `backward` and an optimiser's
    step. The opening is on the first rank, closing and transitions on the last, every chain's layers
    in consecutive blocks. Make the optimiser afterwards.

    Args:
        network: on one process so far; on the device of its rank.
        over: the dimension of a device mesh whose ranks share the depth, ``mesh["layer"]``.
        output: "all" gives every rank the network's output; "last" leaves the broadcast out, other
            ranks get a number to call ``backward`` on.
        layers: of every chain, how many layers every rank gets; if None as equal as whole intervals
            of the present solver allow.

    Returns:
        `network`.

    Raises:
        ValueError: ranks disagree on network, weights, solver or versions, tensors are shared between
            parts that go to different ranks, or `layers` does not fit.
    """
    if not isinstance(network, Network):
        raise TypeError(
            f"{type(network).__name__} is no layerparallel.Network; stages and parareal networks have a "
            "method `distribute` of their own"
        )
    group = layer_group(over)
    if not network.group.alone:
        raise ValueError(
            f"the network is distributed over {network.group.size} ranks already; make a new one"
        )
    if output not in ("all", "last"):
        raise ValueError(f'output = {output!r} is unknown; give "all" or "last"')
    agree(group, _facts(network, output, layers))
    if group.alone:
        return network
    blocks = _blocks(network, group.size, layers)
    _refuse_shared(network)
    network._group, network.output = group, output
    for body, each in zip(network.chains, blocks, strict=True):
        body.cut(group, each)
    if not group.first:
        network.opening = Elsewhere("the opening", 0)
    if not group.last:
        network.closing = Elsewhere("the closing", group.size - 1)
        if isinstance(network.body, Chains):
            for k, part in enumerate(network.body):
                if not isinstance(part, Body) and not _before_first_chain(network, k):
                    network.body[k] = Elsewhere("a transition", group.size - 1)
    if not group.first and isinstance(network.body, Chains):
        for k, part in enumerate(network.body):
            if not isinstance(part, Body) and _before_first_chain(network, k):
                network.body[k] = Elsewhere("a transition", 0)
    return network


class Elsewhere(nn.Module):
    """Stands for a module that another rank of the layer group has."""

    def __init__(self, what: str, rank: int):
        super().__init__()
        self.what, self.rank = what, rank
        self.register_load_state_dict_pre_hook(_leave_out)

    def forward(self, *_: object) -> Any:
        """Cannot be called here."""
        raise RuntimeError(f"{self.what} is on rank {self.rank}; call the whole network on all ranks")

    def extra_repr(self) -> str:
        return f"{self.what}, on rank {self.rank}"


def _leave_out(module: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """What the state of a whole network has for this place is for another rank."""
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _facts(network: Network, output: str, layers: object) -> dict[str, Any]:
    weights = hashlib.sha256()
    for name, value in network.state_dict().items():
        weights.update(name.encode())
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            weights.update(flat.view(torch.uint8).numpy().tobytes())
        else:  # extra state
            weights.update(placeless(value).encode())
    network_text = placeless(network)
    solver_text = f"{placeless(network.solver)}, {placeless(network.evaluate_with)}"
    return {
        "network": network_text,
        "solver": solver_text,
        "distribution": f"output={output}, layers={layers}",
        "initial weights": weights.digest(),
    }


def _before_first_chain(network: Network, k: int) -> bool:
    return not any(isinstance(part, Body) for part in network.parts[:k])


def _blocks(network: Network, ranks: int, layers: Sequence[Sequence[int]] | None) -> list[Blocks]:
    chains = network.chains
    if layers is None:
        return [
            even_blocks(body.depth, ranks, solver)
            for body, solver in zip(chains, network.solvers, strict=True)
        ]
    if len(layers) != len(chains):
        raise ValueError(
            f"layers are given for {len(layers)} chains of {len(chains)}; give one list for each"
        )
    found = []
    for counts, body in zip(layers, chains, strict=True):
        if len(counts) != ranks or sum(counts) != body.depth or min(counts) < 0 or counts[0] < 1:
            raise ValueError(
                f"layers = {list(counts)} do not distribute {body.depth} layers over {ranks} ranks; "
                "give every rank a number of at least 0, the first at least 1, of the right sum"
            )
        found.append(Blocks.of_ends([sum(counts[:r]) for r in range(ranks + 1)]))
    return found


def even_blocks(depth: int, ranks: int, solver: Solver) -> Blocks:
    """Blocks as equal as can be: of whole intervals where every rank gets one, else of layers."""
    length = interval_length(solver, depth)
    intervals = depth // length
    if intervals < ranks:
        return Blocks.even(depth, ranks)
    ends = [block.start * length for block in Blocks.even(intervals, ranks).ranges]
    return Blocks.of_ends([*ends, depth])


def _refuse_shared(network: Network) -> None:
    """Raises ValueError where two parts that may go to different ranks have a tensor in common."""
    parts = {"the opening": network.opening, "the closing": network.closing}
    for k, part in enumerate(network.parts):
        parts[f"part {k} of the body"] = part
    seen: dict[Tensor, str] = {}
    for name, part in parts.items():
        places = [part]
        if isinstance(part, Body) and hasattr(part, "layers"):
            places = list(part.layers)  # type: ignore[arg-type]
        for place in places:
            for p in place.parameters():
                if seen.setdefault(p, name) != name or (len(places) > 1 and _twice(p, places)):
                    raise ValueError(
                        f"{seen[p]} and {name} share a parameter {tuple(p.shape)}, and may be on "
                        "different ranks of the layer group; give each its own"
                    )


def _twice(parameter: Tensor, places: list[nn.Module]) -> bool:
    return sum(any(parameter is p for p in place.parameters()) for place in places) > 1


__all__ = ["Elsewhere", "distribute", "even_blocks"]
