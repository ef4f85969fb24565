"""From a network to its parareal form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..staged.pieces import Piece, named_modules, pieces_of
from ..steps import draws
from .describe import Part, part
from .ends import cut, found_ends
from .network import PararealNetwork
from .shallow import both_ways, opened, shallow
from .trace import Layer, Shape, check, evaluating, is_state, shape_of, through, traced

Build = Callable[[int, Any, Any], nn.Module]
"""Makes a part from its number j and the shapes of states before and behind it, without samples."""
OWN = (
    *("preprocessing", "coarse", "holders", "alike"),
    *("_pieces", "_ends", "_parts", "_shapes", "_seen", "_group", "_in_place"),
)
"""Names that the parareal form needs for itself."""


def parareal_network(
    network: Any,
    subnetworks: int,
    example: Any,
    *,
    cuts: Sequence[int] | None = None,
    coarse: Build | None = None,
    preprocessing: Build | None = None,
    opening: int | None = None,
    closing: int | None = None,
    coarse_depth: int = 1,
    seed: int = 0,
) -> PararealNetwork:
    """Turns a feed-forward network into N parallel subnetworks joined by a coarse network.

    The network is C^1, its opening; g^1..g^N, what is between, cut into N; and h, its closing. They keep
    its modules and so its weights, trained or not. Coarse parts F^j and the preprocessing C^j, j > 1,
    are new: a few layers of the kind that the network itself has, see `shallow`.

    Args:
        network: nn.Sequential or a sequence of modules in the order of their application, in which
            nn.Sequential and nn.ModuleList are taken apart; a `SerialNetwork`; or a `Network`, in place
            of which its serial twin, a copy, is used.
        subnetworks: N; 1 leaves the network as it is.
        example: an input of few samples, on the network's device; forwards in evaluation mode find
            shapes and operations.
        cuts: N - 1 growing numbers, how many pieces of the network are in front of g^2..g^N; if None
            where the costliest g^j costs least, by counted operations and written entries.
        coarse: makes F^j, for j = 1..N-1, from states like y_j to states like y_{j+1}:
            ``coarse(j, shape_of_y_j, shape_of_y_j_plus_1)``; shapes are without samples.
        preprocessing: makes C^j, for j = 2..N, from the input to states like y_{j-1}.
        opening: how many pieces C^1 has, if they are not to be found.
        closing: how many pieces are in front of h, if they are not to be found.
        coarse_depth: units of the default F^j, one behind the other.
        seed: of the new weights; torch's random numbers are left as they are.

    Raises:
        InputError: there are fewer layers than subnetworks, cuts do not fit, a part makes states of
            another shape than the next one takes, the network cannot take the example, the coarse depth
            is below 1, or a number is none.
        TypeError: the network cannot be taken apart.
    """
    numbers = {"subnetworks": subnetworks, "coarse_depth": coarse_depth, "seed": seed}
    _check_numbers({**numbers, "opening": opening, "closing": closing}, cuts)
    for name, build in (("coarse", coarse), ("preprocessing", preprocessing)):
        if build is not None and (isinstance(build, nn.Module) or not callable(build)):
            raise InputError(
                f"{name} is a {type(build).__name__}, where a function that makes each part is needed: "
                "give one of its number and both shapes, lambda j, before, after: nn.Linear(4, 4)."
            )
    if coarse_depth < 1:
        raise InputError(f"A coarse depth of {coarse_depth} is below 1: give at least 1.")
    modules = named_modules(network)
    taken = next((name for name in OWN if name in modules), None)
    if taken is not None:
        raise InputError(
            f"The network has a module named {taken!r}, and a parareal network needs this name for its "
            "own; rename it."
        )
    holder = nn.Module()
    holder._modules.update(modules)
    named = [(name, piece) for name in modules for piece in pieces_of(holder, name)]
    pieces = [piece for _, piece in named]
    layers, states = traced(pieces, example)
    first, last = found_ends(network, [name for name, _ in named], layers)
    first, last = first if opening is None else opening, last if closing is None else closing
    ends = cut(layers, states, first, last, subnetworks, cuts)
    parts = _Parts(layers, states, ends)
    with draws.apart(seed):
        coarse_parts = [parts.coarse(j, coarse, coarse_depth) for j in range(1, subnetworks)]
        prepared = [parts.preprocessing(j, preprocessing) for j in range(2, subnetworks + 1)]
    rows = parts.described(prepared, coarse_parts)
    shapes = [shape_of(state) for state in (states[0], *(states[end] for end in ends))]
    made = PararealNetwork(modules, ends, prepared, coarse_parts, rows, shapes)
    fine = [made.pieces(j) for j in range(1, subnetworks + 1)]
    made.compare_anew(fine, [states[end] for end in ends[:-1]])
    made.training = any(piece.module.training for piece in pieces)
    for new in (made.preprocessing, made.coarse):
        new.train(made.training)
    return made


def _check_numbers(numbers: dict[str, Any], cuts: Any) -> None:
    def whole(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool)

    for name, value in numbers.items():
        if not whole(value) and (value is not None or name not in ("opening", "closing")):
            raise InputError(f"{name} = {value!r} is no whole number: give one.")
    if cuts is not None and not (isinstance(cuts, Sequence) and all(map(whole, cuts))):
        raise InputError(
            f"cuts = {cuts!r} is no sequence of whole numbers: give N - 1 growing ones, as [8, 16]."
        )


class _Parts:
    """What new parts are made from."""

    def __init__(self, layers: Sequence[Layer], states: Sequence[Any], ends: Sequence[int]):
        self.layers, self.states, self.ends = layers, states, ends

    def interface(self, j: int) -> Any:
        """A state like y_j; in front of g^1 for j = 0."""
        return self.states[self.ends[j]]

    def shape(self, j: int) -> Shape:
        """Of y_j."""
        shape = shape_of(self.interface(j))
        assert shape is not None
        return shape

    def between(self, first: int, last: int) -> list[Layer]:
        """The layers of g^first..g^last."""
        return list(self.layers[self.ends[first - 1] : self.ends[last]])

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """Pieces by their numbers."""
        return [layer.piece for layer in self.layers[start:stop]]

    def coarse(self, j: int, build: Build | None, depth: int) -> nn.Module:
        """F^j, by default of so many units."""
        before, after = self.interface(j), self.interface(j + 1)
        name, option = f"coarse network F^{j}", "coarse="
        if build is None:
            layers = self.between(j + 1, j + 1)
            starts = [self.shape(j), *[self.shape(j + 1)] * (depth - 1)]
            units = [shallow(a, self.shape(j + 1), layers, name, option) for a in starts]
            made = _placed(units[0] if depth == 1 else nn.Sequential(*units), after)
            made = _placed(both_ways(made, before, layers), after)
        else:
            made = _made(build, j, self.shape(j), self.shape(j + 1), name, option)
        self._check(name, option, made, before, after)
        return made

    def preprocessing(self, j: int, build: Build | None) -> nn.Module:
        """C^j."""
        given, after = self.states[0], self.interface(j - 1)
        name, option = f"preprocessing C^{j}", "preprocessing="
        if build is None:
            begin = opened(self.pieces(0, self.ends[0]))
            if not is_state(self.interface(0)):
                raise InputError(
                    f"There is no default for the {name}, as C^1 makes no state of floating-point "
                    f"numbers; give one by {option}, a function of its number and both shapes."
                )
            layers = self.between(1, j - 1)
            end = shallow(self.shape(0), self.shape(j - 1), layers, name, option)
            made = _placed(nn.Sequential(*begin, end), after)
        else:
            made = _made(build, j, shape_of(given), self.shape(j - 1), name, option)
        self._check(name, option, made, given, after)
        return made

    def _check(self, name: str, option: str, made: nn.Module, given: Any, wanted: Any) -> None:
        remedy = f"give another by {option}" if option else "cut elsewhere"
        with evaluating([made]):
            check(name, made, given, wanted, remedy)

    def described(self, prepared: Sequence[nn.Module], coarse: Sequence[nn.Module]) -> list[Part]:
        """The rows of `PararealNetwork.describe`."""
        ends, x = self.ends, self.states[0]
        with evaluating([*(layer.piece.module for layer in self.layers), *prepared, *coarse]):
            found = [self._row("C^1", 0, ends[0])]
            found += [part(f"C^{j}", [C], C, x) for j, C in enumerate(prepared, start=2)]
            for j in range(1, len(ends)):
                found.append(self._row(f"g^{j}", ends[j - 1], ends[j]))
            found += [part(f"F^{j}", [F], F, self.interface(j)) for j, F in enumerate(coarse, start=1)]
            return [*found, self._row("h", ends[-1], len(self.layers))]

    def _row(self, name: str, start: int, stop: int) -> Part:
        pieces = self.pieces(start, stop)
        modules = [piece.module for piece in pieces]
        return part(name, modules, lambda u: through(pieces, u), self.states[start])


def _made(build: Build, j: int, before: Any, after: Any, name: str, option: str) -> nn.Module:
    made = build(j, before, after)
    if not isinstance(made, nn.Module):
        raise InputError(
            f"For the {name} {option} gave a {type(made).__name__}, which is no module; return an "
            "nn.Module."
        )
    return made


def _placed(module: nn.Module, like: Any) -> nn.Module:
    """In the dtype and on the device of a state."""
    state: Tensor = like[0] if isinstance(like, tuple) else like
    return module.to(device=state.device, dtype=state.dtype)
