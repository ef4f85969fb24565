"""All processes that train one network together: data-parallel times layer-parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from ..errors import InputError
from .base import ALONE, Group, Link, Pending

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Value = TypeVar("Value")
DIMENSIONS = ("data", "layer")


@dataclass(frozen=True)
class Team:
    """The processes of a run; one alone if nothing is given.

    Ranks of one layer group share the depth of one network and see the same samples. Those of a data
    group have the same layers and see different samples; their gradients are averaged.

    Attributes:
        layer: the layer group of this process.
        data: its data group.
    """

    layer: Group = ALONE
    data: Group = ALONE

    @classmethod
    def of(cls, mesh: DeviceMesh) -> Team:
        """That of a mesh with the dimensions "data" and "layer"; all its ranks call this.

        Raises:
            ValueError: the mesh has other dimensions.
        """
        from .ranks import Ranks

        if mesh.mesh_dim_names != DIMENSIONS:
            raise ValueError(
                f"the mesh has the dimensions {mesh.mesh_dim_names}; make it by "
                'init_device_mesh("cpu", (D, P), mesh_dim_names=("data", "layer"))'
            )
        layer, data = mesh["layer"], mesh["data"]
        return cls(
            Ranks(layer) if layer.size() > 1 else ALONE,
            Ranks(data, Link(0.0, 0.0)) if data.size() > 1 else ALONE,
        )

    @cached_property
    def everyone(self) -> Group:
        """All processes as one group, for small objects and sums."""
        if self.data.alone:
            return self.layer
        return self.data if self.layer.alone else Grid(self.data, self.layer)

    @property
    def alone(self) -> bool:
        """Whether this process has no others."""
        return self.everyone.alone

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.everyone.first

    # ---- a network ------------------------------------------------------------------------------

    def wrapped(self, network: nn.Module) -> nn.Module:
        """What is called in place of a network, so that gradients are averaged over the data group."""
        if self.data.alone:
            return network
        from torch.nn.parallel import DistributedDataParallel

        mesh: Any = getattr(self.data, "mesh")  # noqa: B009  that of a group of processes
        return DistributedDataParallel(network, process_group=mesh.get_group())

    # ---- what is done once, or together ---------------------------------------------------------

    def together(self, work: Callable[[], Value]) -> Value:
        """What every rank does; the InputError of one is raised on all."""
        if self.alone:
            return work()
        value, problem = None, None
        try:
            value = work()
        except InputError as error:
            problem = error
        told = self.everyone.gather(None if problem is None else str(problem))
        text = next((each for each in told if each is not None), None)
        if text is None:
            return value  # type: ignore[return-value]
        raise problem if problem is not None and str(problem) == text else InputError(text)

    def once(self, work: Callable[[], Value]) -> Value:
        """What the first rank does and tells the others, small; its InputError is raised on all."""
        value = self.together(lambda: work() if self.first else None)
        return self.everyone.tell(value, 0)

    def in_turn(self, first: bool, work: Callable[[], Value]) -> Value:
        """What every rank does, the others after those that are `first`: one of a node, say."""
        value = self.together(lambda: work() if first else None)
        later = self.together(lambda: None if first else work())
        return value if first else later  # type: ignore[return-value]


class Grid(Group):
    """The ranks of a data group of layer groups, in rows; for what is said to all."""

    def __init__(self, data: Group, layer: Group) -> None:
        self.data, self.layer = data, layer
        self.rank, self.size = data.rank * layer.size + layer.rank, data.size * layer.size

    def exchange(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Pending:
        raise NotImplementedError("messages go within a layer group or a data group")

    def total(self, value: Tensor) -> Tensor:
        return self.data.total(self.layer.total(value))

    def broadcast(self, value: Tensor, source: int) -> None:
        row, column = divmod(source, self.layer.size)
        self.layer.broadcast(value, column)
        self.data.broadcast(value, row)

    def tell(self, value: Any, source: int) -> Any:
        row, column = divmod(source, self.layer.size)
        return self.data.tell(self.layer.tell(value, column), row)

    def gather(self, value: Any) -> list[Any]:
        return [each for row in self.data.gather(self.layer.gather(value)) for each in row]
