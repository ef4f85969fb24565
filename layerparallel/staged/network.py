"""A network as stages, on one process or one stage on each rank of a layer group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import InputError
from ..group import Group, layer_group
from ..group.agreement import agree
from ..group.norms import Norms
from ..network.crossing import Form, crossed, everywhere, told
from ..network.distribution import Elsewhere
from ..steps.state import State, as_given, as_state
from .cuts import cut
from .in_place import InPlace
from .numbers import Numbers, draw_on_from, drawing
from .pieces import Piece, named_modules, pieces_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Staged(Norms):
    """A network as K stages of consecutive pieces; called, it is the network.

    Parameters and buffers have the names of the plain network, so that states fit in both directions.

    Args:
        network: nn.Sequential or a sequence of modules in the order of their application, in which
            nn.Sequential and nn.ModuleList are taken apart; a `SerialNetwork`; or a `Network`, in place
            of which its serial twin, a copy, is trained.
        stages: K, to be cut where the costliest stage costs least; or the cuts themselves, K-1 growing
            numbers: how many pieces are in front of each.
        example: an input. One forward in evaluation mode then counts every piece's operations, those
            of products and convolutions; without it a piece costs as much as it has parameters.

    Raises:
        InputError: there are fewer pieces than stages, a stage would have no parameters or share some
            with another, or the cuts do not fit.
        TypeError: the network cannot be taken apart.
    """

    def __init__(self, network: Any, stages: int | Sequence[int], example: Any = None):
        super().__init__()
        self._modules.update(named_modules(network))
        self._pieces = tuple(piece for name in self._modules for piece in pieces_of(self, name))
        self._stages = cut(self._pieces, stages, example)
        self._in_place = InPlace()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces in order; of those on other ranks the places alone."""
        return self._pieces

    @property
    def stages(self) -> tuple[range, ...]:
        """Which pieces every stage has."""
        return self._stages

    @property
    def count(self) -> int:
        """K."""
        return len(self._stages)

    @property
    def mine(self) -> range:
        """The stages of this process."""
        return range(self.count) if self.group.alone else range(self.group.rank, self.group.rank + 1)

    def stage(self, k: int) -> Callable[[Any], Any]:
        """Stage k as a function from its first state, (B, ...), the input for k = 0, to its last.

        What it is given is left as it is. Called, it raises RuntimeError where the stage is on another
        rank. Where its weights lie in memory channels-last, so do its states and their gradients,
        whatever it is given.
        """
        through = self._through(k)
        return lambda value: self._in_place.call(f"Stage {k}", self.training, through, value)

    def _through(self, k: int) -> Callable[[Any], Any]:
        """Stage k, which may change in place what it is given."""
        pieces = self._of(k)
        last = _channels_last(pieces)

        def through(value: Any) -> Any:
            value = tree_map_only(Tensor, _placed, value) if last else value
            for piece in pieces:
                value = piece(value)
            return tree_map_only(Tensor, _kept, value) if last else value

        return through

    def parameters_of(self, k: int) -> list[nn.Parameter]:
        """Those of stage k, in order of their application; none where the stage is on another rank."""
        return list(dict.fromkeys(p for piece in self._of(k) for p in piece.module.parameters()))

    def _of(self, k: int) -> tuple[Piece, ...]:
        return self._pieces[self._stages[k].start : self._stages[k].stop]

    def forward(self, x: Any) -> Any:
        """All stages one after the other, exact; on a layer group the output is on every rank.

        All ranks call it with the same batch, and `backward` on what they make of its output. Random
        numbers (of dropout, say) are those of one process, if the ranks were seeded alike.

        Raises:
            RankFailed: a stage has raised on another rank.
        """
        if not self.group.alone:
            return self._relayed(x)
        for k in range(self.count):
            x = self._through(k)(x)
        return x

    def _relayed(self, x: Any) -> Any:
        """From rank to rank; the gradient comes back the same way."""
        group, last = self.group, self.count - 1
        device = next(self.parameters()).device
        value, state = x, ()
        for k in range(last):
            found, (forms, drawn) = told(group, k, partial(self._ended, k, value, device))
            draw_on_from(drawn, device)
            if group.rank == k:
                state = crossed(group, k, k + 1, found)
            elif group.rank == k + 1:
                state = crossed(group, k, k + 1, tuple(form.placeholder(device) for form in forms))
                value = as_given(state)
        random: Numbers = ()

        def closing() -> Any:
            nonlocal random
            end, random = drawing(self._through(last), value, device)
            return end

        output = everywhere(group, closing, state)
        draw_on_from(group.tell(random, last), device)
        return output

    def _ended(
        self, k: int, value: Any, device: torch.device
    ) -> tuple[State, tuple[list[Form], Numbers]]:
        """The last state of stage k, in a graph even where the stage is frozen: a gradient will come."""
        end, random = drawing(self._through(k), value, device)
        state = as_state(end, f"the last state of stage {k}")
        if torch.is_grad_enabled():
            state = tuple(
                a if a.requires_grad or not a.is_floating_point() else a.detach().requires_grad_()
                for a in state
            )
        return state, ([Form.of(a) for a in state], random)

    def distribute(self, over: DeviceMesh | Group) -> Staged:
        """Keeps of the network the stage of this rank alone, in place; on one process all of them.

        Every rank makes the whole network with the same seed and calls this; optimisers are made
        afterwards.

        Args:
            over: the dimension of a device mesh that has K ranks, ``mesh["layer"]``, or one rank.

        Returns:
            The network itself.

        Raises:
            InputError: the ranks are not as many as the stages, disagree on the network, its weights or
                its cuts, or it is distributed already.
        """
        if not self.group.alone:
            raise InputError(
                f"The network is distributed over {self.count} ranks already; make a new one."
            )
        group = layer_group(over)
        if group.alone:
            return self
        kinds = [type(piece.module).__name__ for piece in self._pieces]
        stages = [stage.start for stage in self._stages]
        weights = dict(self.state_dict())
        agree(group, {"network": kinds, "stages": stages, "initial weights": weights})
        if group.size != self.count:
            raise InputError(
                f"{self.count} stages, one on each rank, do not fit {group.size} ranks; start "
                f"{self.count} ranks, or cut the network into {group.size} stages."
            )
        self._group = group
        kept = {piece.place for piece in self._of(group.rank)}
        for k in range(self.count):
            for piece in self._of(k):
                if piece.place not in kept:
                    piece.holder._modules[piece.name] = Elsewhere(f"stage {k}", k)
        return self

    def extra_repr(self) -> str:
        """The number of pieces of every stage."""
        return f"stages of {', '.join(str(len(stage)) for stage in self._stages)} pieces"


# ---- memory -------------------------------------------------------------------------------------


def _channels_last(pieces: Sequence[Piece]) -> bool:
    """Whether the first weight of a 2-d convolution of which it can be told is channels-last."""
    weights = (p for piece in pieces for p in piece.module.parameters() if p.dim() == 4)
    for weight in weights:
        first, last = weight.is_contiguous(), weight.is_contiguous(memory_format=torch.channels_last)
        if first != last:
            return last
    return False


def _placed(a: Tensor) -> Tensor:
    return a.contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a


def _kept(a: Tensor) -> Tensor:
    """With a gradient that will lie in memory as the tensor does."""
    return Form.of(a).like(a)
