"""The loops over intervals, steps and tiles around what `arrays` writes: a walk forward, a walk back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from .arrays import FEW, Arrays
from .program import (
    CALL,
    SAMPLE,
    STEP,
    Constant,
    Dot,
    Gather,
    Input,
    Map,
    Reduce,
    Total,
    Value,
    View,
)
from .split import Walks, is_zero, reached


def record(walks: Walks) -> int:
    """Numbers that the tape keeps of a sample and a step."""
    return sum(v.size for v in walks.saved)


def roles(walks: Walks, role: str) -> list[Value]:
    """The inputs of a role, in their order."""
    return [v for v in walks.program.inputs if isinstance(v.op, Input) and v.op.role == role]


class Walk:
    """What both walks have: inputs, states in tiles, values by level."""

    def __init__(self, walks: Walks):
        self.walks, self.c = walks, Arrays({})
        self.sizes = [math.prod(shape) for shape in walks.program.shapes]
        self.offsets = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        self.state = sum(self.sizes)
        self.done: set[Value] = set()

    def written(self) -> str:
        raise NotImplementedError

    def say(self, text: str) -> None:
        for line in text.strip("\n").split("\n"):
            self.c.say(line)

    def inputs(self, level: int) -> None:
        """Names of the inputs that are known from a level on."""
        for value in self.walks.program.inputs:
            op = value.op
            assert isinstance(op, Input)
            if value.level != level or value in self.c.names or op.role in ("state", "adjoint"):
                continue
            if op.role == "own" and op.per_sample:
                self.c.declared(value)
                name, k = self.c.names[value], op.place
                self.say(
                    f"load_tile({name}, c->own[{k}]+n*c->own_step[{k}], tile*L, c->batch, {value.size});"
                )
                self.done.add(value)
                continue
            self.c.names[value] = {
                "own": f"(c->own[{op.place}]+n*c->own_step[{op.place}])",
                "shared": f"c->shared[{op.place}]",
                "h": "h",
                "t": f"(c->times+n*{value.size})",
            }[op.role]
            self.done.add(value)

    def values(self, wanted: Sequence[View], level: int, after: bool = False) -> None:
        """Computes the values of a level that views need, as far as they can be known."""
        order = [
            v
            for v in reached(wanted, self.done)
            if v.level == level and v.after == after and v not in self.done
        ]
        self.declare_constants(order)
        order = [v for v in order if not isinstance(v.op, Constant | Input | Total)]
        groups = self._grouped(order)
        place = {v: k for k, group in enumerate(groups) for v in group}
        stored = {v.value for v in wanted}
        everything = reached(wanted, ())
        for value in everything:
            for view in value.op.views:
                if place.get(view.value, -1) != place.get(value, -2):
                    stored.add(view.value)
        for group in groups:
            (one, *_) = group
            match one.op:
                case Map():
                    self.c.loop(group, stored)
                case Dot():
                    self.c.dot(one, one.op)
                case Reduce():
                    self.c.reduce(one, one.op)
                case Gather():
                    self.c.gather(one, one.op)
            self.done.update(group)

    def declare_constants(self, order: Iterable[Value]) -> None:
        for value in order:
            if isinstance(value.op, Constant) and value not in self.c.names:
                name = self.c.names[value] = f"k{len(self.c.names)}"
                numbers = ", ".join(self.c.number(value, x) for x in value.op.numbers)
                kind = "int" if value.flags else "real"
                self.say(f"static const {kind} {name}[] = {{{numbers}}};")
                self.done.add(value)

    def _grouped(self, order: Sequence[Value]) -> list[list[Value]]:
        """Maps of one size that can share a loop are put together."""
        groups: list[list[Value]] = []
        left, known = list(order), set(self.done)
        while left:
            first = next(v for v in left if all(a.value in known for a in v.op.views))
            group = [first]
            if isinstance(first.op, Map):
                inside = {first}
                for value in left:
                    if value in inside or not isinstance(value.op, Map) or value.size != first.size:
                        continue
                    if all(a.value in known or (a.value in inside and a.whole) for a in value.op.views):
                        group.append(value)
                        inside.add(value)
            groups.append(group)
            known.update(group)
            left = [v for v in left if v not in known]
        return groups

    def each_part(self, line: str) -> str:
        """A line of C for every part of the state: {k} its place, {s} its size, {o} where it begins."""
        return "\n".join(
            line.format(k=k, s=s, o=o)
            for k, (s, o) in enumerate(zip(self.sizes, self.offsets, strict=True))
        )

    def opened(self, name: str) -> None:
        self.say(f"""
void {name}(const Call *c) {{
  const unsigned long before = flush_on();
  const int64_t tiles = (c->batch + L - 1) / L;
  const real h[1] = {{(real)c->h}};
  enum {{ S = {self.state} }};
  V *x = (V *)c->scratch, *y = x + tiles*S*T;""")

    def finished(self) -> str:
        self.say("  flush_off(before);\n}")
        kind = "f" if isinstance(self, Forward) else "b"
        text = "\n".join(self.c.lines)
        for name in self.c.tables.values():
            text = text.replace(f"{name}[", f"{name}_{kind}[")
        return text


class Forward(Walk):
    """From departures to arrivals; writes the tape."""

    def written(self) -> str:
        walks, ends = self.walks, self.walks.ends
        wanted = [*ends, *(View(v, torch.arange(v.size)) for v in walks.saved)]
        self.opened("forward")
        self.inputs(CALL)
        self.values(wanted, CALL)
        self.say("for (int64_t k = 0; k < c->count; k++) {")
        self.say("  for (int64_t tile = 0; tile < tiles; tile++) {")
        load = "load_tile(x+(tile*S+{o})*T, c->start[{k}]+k*c->batch*{s}, tile*L, c->batch, {s});"
        self.say(self.each_part(load))
        self.say(
            "  }\n  for (int64_t j = 0; j < c->walked; j++) {\n    const int64_t n = k*c->length + j;"
        )
        self.inputs(STEP)
        self.values(wanted, STEP)
        self.say(
            "for (int64_t tile = 0; tile < tiles; tile++) {\n  V *u = x + tile*S*T, *e = y + tile*S*T;"
        )
        self.say("  const int64_t from = tile*L;")
        self.say("  if (c->onto[0]) {")
        onto = "load_tile(u+{o}*T, c->onto[{k}]+n*c->batch*{s}, from, c->batch, {s});"
        self.say(self.each_part(onto) + "\n}")
        for k, value in enumerate(roles(walks, "state")):
            self.c.names[value] = f"(u+{self.offsets[k]}*T)"
            self.done.add(value)
        self.inputs(SAMPLE)
        self.values(wanted, SAMPLE)
        self._kept()
        for k, view in enumerate(ends):
            at = f"e[({self.offsets[k]}+i)*T+t]"
            text = self.c._lifted(view.flat(), True)
            self.say(f"for (int i = 0; i < {view.size}; i++) for (int t = 0; t < T; t++) {at} = {text};")
        self._changed()
        self.say("}\n{ V *z = x; x = y; y = z; }\n}")
        self.say("for (int64_t tile = 0; tile < tiles; tile++) {")
        store = "store_tile(c->end[{k}]+k*c->batch*{s}, x+(tile*S+{o})*T, tile*L, c->batch, {s});"
        self.say(self.each_part(store) + "\n}\n}")
        return self.finished()

    def _kept(self) -> None:
        """Writes the tape."""
        self.say(f"if (c->tape) {{\n  V *tape = (V *)c->tape + (n*tiles + tile)*{record(self.walks)}*T;")
        at = 0
        for value in self.walks.saved:
            text = self.c.element(View(value, torch.arange(value.size)), "i")
            over = f"for (int i = 0; i < {value.size}; i++) for (int t = 0; t < T; t++)"
            self.say(f"  {over} tape[({at}+i)*T+t] = (V)({text});")
            at += value.size
        self.say("}")

    def _changed(self) -> None:
        """What is added to the state, and where it is written, beside the walk."""
        array = "c->{name}[{{k}}]+(n+1)*c->batch*{{s}}"
        add = "add_tile(e+{{o}}*T, {array}, {sign}, from, c->batch, {{s}});"
        for name, sign in (("less", -1), ("rhs", 1)):
            text = add.format(array=array.format(name=name), sign=sign)
            self.say(f"if (c->{name}[0]) {{\n{self.each_part(text)}\n}}")
        fill = "fill_rest(e+{o}*T, from, c->batch, {s});"
        self.say(f"if (c->rhs[0] && from + L > c->batch) {{\n{self.each_part(fill)}\n}}")
        store = f"store_tile({array.format(name='into')}, e+{{o}}*T, from, c->batch, {{s}});"
        self.say(f"if (c->into[0]) {{\n{self.each_part(store)}\n}}")


class Backward(Walk):
    """From the adjoint at the arrivals to that at the departures, along the tape; gathers gradients."""

    def written(self) -> str:
        walks = self.walks
        wanted = [*walks.adjoint, *walks.summed.values()]
        totals = [v for v in reached(wanted) if isinstance(v.op, Total)]
        leaves = [view for v in totals for view in _leaves(v.op)]
        inputs = [w for v, w in walks.summed.items() if w.value.level == SAMPLE and not w.value.after]
        self.opened("backward")
        self.inputs(CALL)
        self._sums([v for v in totals if v.level == CALL])
        self.values(wanted, CALL)
        self.say("for (int64_t k = c->count-1; k >= 0; k--) {")
        self.say("  for (int64_t tile = 0; tile < tiles; tile++) {\n  const int64_t from = tile*L;")
        load = "load_tile(x+(tile*S+{o})*T, c->start[{k}]+k*c->batch*{s}, from, c->batch, {s});"
        clear = "if (from + L > c->batch) clear_rest(x+(tile*S+{o})*T, from, c->batch, {s});"
        self.say(self.each_part(load) + "\n" + self.each_part(clear) + "\n}")
        self.say("for (int64_t j = c->length-1; j >= c->length - c->walked; j--) {")
        self.say("const int64_t n = k*c->length + j;")
        self.inputs(STEP)
        self.values(wanted, STEP)
        self._sums([v for v in totals if v.level == STEP])
        self.say(
            "for (int64_t tile = 0; tile < tiles; tile++) {\n  V *w = x + tile*S*T, *e = y + tile*S*T;"
        )
        self.say("  const int64_t from = tile*L;")
        self.say(f"  const V *tape = (const V *)c->tape + (n*tiles + tile)*{record(walks)}*T;")
        at = 0
        for value in walks.saved:
            self.c.names[value] = f"({'(const M *)' if value.flags else ''}tape+{at}*T)"
            self.done.add(value)
            at += value.size
        for k, value in enumerate(roles(walks, "adjoint")):
            self.c.names[value] = f"(w+{self.offsets[k]}*T)"
            self.done.add(value)
        self.inputs(SAMPLE)
        self.values([*walks.adjoint, *leaves, *inputs], SAMPLE)
        self._gathered(totals)
        self._samples()
        for k, view in enumerate(walks.adjoint):
            if isinstance(view.value.op, Constant):
                self.declare_constants([view.value])
            text = self.c._lifted(view.flat(), True)
            over = f"for (int i = 0; i < {view.size}; i++) for (int t = 0; t < T; t++)"
            self.say(f"{over} e[({self.offsets[k]}+i)*T+t] = {text};")
        array = "c->{name}[{{k}}]+n*c->batch*{{s}}"
        add = f"add_tile(e+{{o}}*T, {array.format(name='rhs')}, 1, from, c->batch, {{s}});"
        store = f"store_tile({array.format(name='into')}, e+{{o}}*T, from, c->batch, {{s}});"
        self.say(f"if (c->rhs[0]) {{\n{self.each_part(add)}\n}}")
        self.say(f"if (c->into[0]) {{\n{self.each_part(store)}\n}}\n}}")
        self._after(STEP, totals)
        self.say("{ V *z = x; x = y; y = z; }\n}")
        self.say("for (int64_t tile = 0; tile < tiles; tile++) {")
        store = "store_tile(c->end[{k}]+k*c->batch*{s}, x+(tile*S+{o})*T, tile*L, c->batch, {s});"
        self.say(self.each_part(store) + "\n}\n}")
        self._after(CALL, totals)
        return self.finished()

    def _sums(self, totals: Sequence[Value]) -> None:
        """Declares what a sum over samples is gathered in."""
        for value in totals:
            if value not in self.c.names:
                self.c.names[value] = f"v{len(self.c.names)}"
            name = self.c.names[value]
            if _few(value.op):
                self.c.lanes += value.size
                self.say(f"V {name}_acc[{value.size}]; memset({name}_acc, 0, sizeof {name}_acc);")
            else:
                groups, rows, columns = _product(value.op)
                self.c.common += groups * rows * (columns + 16)
                size = f"{groups * rows}*(({columns}+W-1)/W*W)"
                self.say(f"real {name}_acc[{size}] __attribute__((aligned(64)));")
                self.say(f"memset({name}_acc, 0, sizeof {name}_acc);")

    def _gathered(self, totals: Sequence[Value]) -> None:
        self.say("if (c->collect) {")
        for value in totals:
            assert isinstance(value.op, Total)
            name, few = f"{self.c.names[value]}_acc", _few(value.op)
            for view in value.op.views:
                if isinstance(view.value.op, Dot) and _is_product(view.value):
                    self.c.product_into(name, view.value.op, few)
                else:
                    self.c.sum_into(name, view)
        self.say("}")

    def _samples(self) -> None:
        """Gradients of inputs that samples have of their own."""
        for (role, place), view in self.walks.summed.items():
            if view.value.level < SAMPLE or is_zero(view):
                continue
            name = f"g{place}"
            self.say(f"if (c->{role}_gradient[{place}]) {{ V {name}[{view.size}*T];")
            text = self.c._lifted(view.flat(), True)
            over = f"for (int i = 0; i < {view.size}; i++) for (int t = 0; t < T; t++)"
            self.say(f"{over} {name}[i*T+t] = {text};")
            to = f"c->{role}_gradient[{place}]+n*c->{role}_step[{place}]"
            self.say(f"store_tile({to}, {name}, from, c->batch, {view.size}); }}")

    def _after(self, level: int, totals: Sequence[Value]) -> None:
        """What follows from sums over samples, at the end of a step or of the call."""
        mine = {
            key: view
            for key, view in self.walks.summed.items()
            if view.value.level < SAMPLE and view.value.level == level and not is_zero(view)
        }
        if not mine:
            return
        self.say("if (c->collect) {")
        known = set(self.done)
        for value in totals:
            if value.level != level:
                continue
            name = self.c.names[value]
            self.c.array("real", name, value.size, False)
            if _few(value.op):
                self.say(f"for (int i = 0; i < {value.size}; i++) {name}[i] = hsum({name}_acc[i]);")
            else:
                groups, rows, columns = _product(value.op)
                width = f"(({columns}+W-1)/W*W)"
                over = f"for (int r = 0; r < {groups * rows}; r++) for (int q = 0; q < {columns}; q++)"
                self.say(f"{over} {name}[r*{columns}+q] = {name}_acc[r*{width}+q];")
            self.done.add(value)
        self.values(list(mine.values()), level, after=True)
        for (role, place), view in mine.items():
            step = f"+n*c->{role}_step[{place}]" if role == "own" else ""
            self.declare_constants([view.value])
            text, sign = self.c.element(view.flat(), "i"), "=" if role == "own" else "+="
            self.say(f"if (c->{role}_gradient[{place}]) {{ real *g = c->{role}_gradient[{place}]{step};")
            self.say(f"for (int i = 0; i < {view.size}; i++) g[i] {sign} {text}; }}")
        self.say("}")
        for value in self.done - known:  # their arrays end with the block
            self.done.discard(value)


def _is_product(value: Value) -> bool:
    return isinstance(value.op, Dot) and all(v.value.level == SAMPLE for v in value.op.views)


def _leaves(op: object) -> list[View]:
    """What a sum over samples needs in arrays."""
    assert isinstance(op, Total)
    found: list[View] = []
    for view in op.views:
        inside = _is_product(view.value)
        found += view.value.op.views if inside else (view,)
    return found


def _product(op: object) -> tuple[int, int, int]:
    """Of a product over samples: G, P, Q."""
    assert isinstance(op, Total)
    product = op.views[0].value.op
    assert isinstance(product, Dot)
    a, b = product.views
    return a.shape[0], a.shape[1], b.shape[2]


def _few(op: object) -> bool:
    """Whether every lane has a sum of its own."""
    assert isinstance(op, Total)
    if not all(_is_product(v.value) for v in op.views) or op.views[0].size <= FEW:
        return True
    return len({_product(Total((v,))) for v in op.views}) > 1
