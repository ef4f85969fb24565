"""C for single operations on arrays: loops over elements, products, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .program import SAMPLE, Constant, Dot, Gather, Map, Reduce, Value, View

FEW = 16
"""Elements of a product over samples up to which every lane has a sum of its own."""


def strides(index: Tensor) -> tuple[int, list[int]] | None:
    """The place of the first element and the stride of each dimension; None if there are none."""
    if not index.numel():
        return 0, [0] * index.dim()
    first = index[(0,) * index.dim()].item() if index.dim() else index.item()
    expected = index.new_zeros(()) + first
    found = []
    for d, n in enumerate(index.shape):
        step = 0
        if n > 1:
            at = [0] * index.dim()
            at[d] = 1
            step = index[tuple(at)].item() - first
        found.append(int(step))
        wide = [1] * index.dim()
        wide[d] = n
        expected = expected + (step * index.new_ones(n).cumsum(0).sub(1)).reshape(wide)
    return (int(first), found) if bool((expected == index).all()) else None


@dataclass
class Arrays:
    """Writes C that computes values; knows by what name each is called.

    Attributes:
        names: of the arrays that hold values.
        lines: of C.
        lanes, common: numbers in arrays: of every sample, and of all in common.
    """

    names: dict[Value, str]
    lines: list[str] = field(default_factory=list)
    lanes: int = 0
    common: int = 0
    tables: dict[tuple[int, ...], str] = field(default_factory=dict)

    def say(self, line: str) -> None:
        self.lines.append(line)

    # ---- operands ----

    def element(self, view: View, i: str) -> str:
        """Element i of a flat view, where the loops over i and t are open."""
        if isinstance(view.value.op, Constant) and view.value.size == 1:
            return self.number(view.value, view.value.op.numbers[0])
        place = self.place(view.index.reshape(-1), i)
        name = self.names[view.value]
        return f"{name}[({place})*T+t]" if view.value.level == SAMPLE else f"{name}[{place}]"

    def number(self, value: Value, number: float) -> str:
        if value.flags:
            return str(int(number))
        text = {"inf": "INFINITY", "-inf": "(-INFINITY)", "nan": "NAN"}.get(repr(number), repr(number))
        return f"((real){text})"

    def place(self, index: Tensor, i: str) -> str:
        """C for ``index[i]``."""
        found = strides(index)
        if found is not None:
            first, (step,) = found
            return str(first) if not step else f"{first}+{i}*{step}" if first or step != 1 else i
        places = tuple(int(k) for k in index.tolist())
        name = self.tables.setdefault(places, f"at{len(self.tables)}")
        return f"{name}[{i}]"

    def declared(self, value: Value) -> str:
        """A name for a value, and its array."""
        name = self.names[value] = f"v{len(self.names)}"
        sample = value.level == SAMPLE
        kind = ("M" if value.flags else "V") if sample else ("int" if value.flags else "real")
        self.array(kind, name, value.size, sample)
        return name

    def array(self, kind: str, name: str, size: int, sample: bool) -> None:
        """Declares an array, and counts it."""
        self.lanes += size if sample else 0
        self.common += 0 if sample else size
        self.say(f"{kind} {name}[{size}{'*T' if sample else ''}];")

    def operand(self, view: View) -> tuple[str, list[int]]:
        """A pointer to a view's first element, and strides; copied first where there are none."""
        found = strides(view.index)
        sample = view.value.level == SAMPLE
        if found is None or (isinstance(view.value.op, Constant)):
            name = f"c{len(self.lines)}"
            self.array("V" if sample else "real", name, view.size, sample)
            inner = "for (int t = 0; t < T; t++) " if sample else ""
            to = f"{name}[i*T+t]" if sample else f"{name}[i]"
            self.say(
                f"for (int i = 0; i < {view.size}; i++) {inner}{to} = {self.element(view.flat(), 'i')};"
            )
            steps, many = [], 1
            for n in reversed(view.shape):
                steps.append(many)
                many *= n
            return name, steps[::-1]
        first, steps = found
        return f"({self.names[view.value]}+{first}{'*T' if sample else ''})", steps

    # ---- operations ----

    def loop(self, group: Sequence[Value], stored: set[Value]) -> None:
        """Maps of one size as a single loop; `stored` ones are kept in arrays."""
        sample = group[0].level == SAMPLE
        for value in group:
            if value in stored and value not in self.names:
                self.declared(value)
        inner = " for (int t = 0; t < T; t++)" if sample else ""
        self.say(f"for (int i = 0; i < {group[0].size}; i++){inner} {{")
        local: dict[Value, str] = {}
        for k, value in enumerate(group):
            assert isinstance(value.op, Map)
            parts = [
                local[v.value] if v.value in local else self._lifted(v, sample) for v in value.op.views
            ]
            kind = ("M" if value.flags else "V") if sample else ("int" if value.flags else "real")
            call = f"{'f' if sample else 's'}_{value.op.function}({', '.join(parts)})"
            self.say(f"  {kind} e{k} = {call};")
            local[value] = f"e{k}"
            if value in stored:
                self.say(f"  {self.names[value]}[{'i*T+t' if sample else 'i'}] = e{k};")
        self.say("}")

    def _lifted(self, view: View, sample: bool) -> str:
        text = self.element(view, "i")
        if sample and view.value.level < SAMPLE:
            return f"{'flag' if view.value.flags else 'splat'}({text})"
        return text

    def gather(self, value: Value, op: Gather) -> None:
        name, sample = self.declared(value), value.level == SAMPLE
        wide, inner = ("*T", "for (int t = 0; t < T; t++) ") if sample else ("", "")
        if sum(v.size for v in op.views) < value.size:
            self.say(f"memset({name}, 0, sizeof({name}[0])*{value.size}{wide});")
        for view, places in zip(op.views, op.places, strict=True):
            to = self.place(places, "i")
            at = f"({to})*T+t" if sample else to
            text = self._lifted(view, sample)
            self.say(f"for (int i = 0; i < {view.size}; i++) {inner}{name}[{at}] = {text};")

    def reduce(self, value: Value, op: Reduce) -> None:
        name, sample, (view,) = self.declared(value), value.level == SAMPLE, op.views
        rows, columns = view.shape
        source, (row, column) = self.operand(view)
        prefix, wide = ("f", "*T+t") if sample else ("s", "")
        join = {
            "sum": "{0} + {1}",
            "max": prefix + "_maximum({0}, {1})",
            "min": prefix + "_minimum({0}, {1})",
        }
        inner = "for (int t = 0; t < T; t++) " if sample else ""
        kind, at = ("V" if sample else "real"), f"{source}[(i*{row}+k*{column}){wide}]"
        first = f"{source}[(i*{row}){wide}]"
        self.say(f"for (int i = 0; i < {rows}; i++) {inner}{{")
        self.say(f"  {kind} r = {first};")
        self.say(f"  for (int k = 1; k < {columns}; k++) r = {join[op.function].format('r', at)};")
        self.say(f"  {name}[i{wide}] = r;\n}}")

    def dot(self, value: Value, op: Dot) -> None:
        name, (a, b) = self.declared(value), op.views
        (groups, rows, inner), columns = a.shape, b.shape[2]
        (left, (ag, ap, ak)), (right, (bg, bk, bq)) = self.operand(a), self.operand(b)
        lanes_a, lanes_b = ("*T" if v.value.level == SAMPLE else "" for v in (a, b))
        wide = "*T" if value.level == SAMPLE else ""
        if a.value.level == b.value.level == SAMPLE or value.level < SAMPLE:
            call = "dots" if wide else "uniform_dots"
            over = f"for (int g = 0; g < {groups}; g++) for (int p = 0; p < {rows}; p++)"
            to = f"{name}+((g*{rows}+p)*{columns}){wide}"
            x, y = f"{left}+(g*{ag}+p*{ap}){lanes_a}", f"{right}+(g*{bg}){lanes_b}"
            self.say(f"{over} {call}({to}, 1, {x}, 0, {ak}, {y}, {bq}, {bk}, {columns}, {inner});")
        elif lanes_a:  # every row of samples times the matrix
            over = f"for (int g = 0; g < {groups}; g++) for (int p = 0; p < {rows}; p++)"
            to, x = f"{name}+((g*{rows}+p)*{columns})*T", f"{left}+(g*{ag}+p*{ap})*T"
            self.say(
                f"{over} matvec({to}, 1, {right}+g*{bg}, {bq}, {bk}, {x}, {ak}, {columns}, {inner});"
            )
        else:
            over = f"for (int g = 0; g < {groups}; g++) for (int q = 0; q < {columns}; q++)"
            to, x = f"{name}+(g*{rows * columns}+q)*T", f"{right}+(g*{bg}+q*{bq})*T"
            self.say(
                f"{over} matvec({to}, {columns}, {left}+g*{ag}, {ap}, {ak}, {x}, {bk}, {rows}, {inner});"
            )

    # ---- sums over samples ----

    def sum_into(self, acc: str, view: View) -> None:
        """Adds a tile's values to sums that every lane has of its own; see `few`."""
        self.say(f"for (int i = 0; i < {view.size}; i++) for (int t = 0; t < T; t++)")
        self.say(f"  {acc}[i] += {self.element(view, 'i')};")

    def product_into(self, acc: str, op: Dot, few: bool) -> None:
        """Adds products of two values of every sample, summed over k."""
        a, b = op.views
        (groups, rows, inner), columns = a.shape, b.shape[2]
        (left, (ag, ap, ak)), (right, (bg, bk, bq)) = self.operand(a), self.operand(b)
        over = f"for (int g = 0; g < {groups}; g++) for (int k = 0; k < {inner}; k++)"
        x, y = f"{left}+(g*{ag}+k*{ak})*T", f"{right}+(g*{bg}+k*{bk})*T"
        if few:
            self.say(f"{over} outer({acc}+g*{rows * columns}, {x}, {ap}, {y}, {bq}, {rows}, {columns});")
            return
        self.say(f"{over} {{")
        self.say(f"  enum {{ QP = ({columns}+W-1)/W*W }};")
        self.say("  static _Thread_local real turned[L*QP] __attribute__((aligned(64)));")
        self.say(f"  turn(turned, {y}, {bq}, {columns}, QP);")
        self.say(f"  wide_outer({acc}+g*{rows}*QP, {x}, {ap}, turned, {rows}, QP);\n}}")
