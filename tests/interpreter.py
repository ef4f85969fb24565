"""A program evaluated by PyTorch, operation by operation: the reference of every emitter."""

import torch

from layerparallel.chains.native.program import Constant, Dot, Gather, Input, Map, Reduce, Total

UNARY = {
    "neg": torch.neg,
    "number": lambda a: a.double(),
    "not": torch.logical_not,
    "relu": torch.relu,
}
OTHER = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
    "where": torch.where,
}


def evaluate(views, given):
    """Views of values, (B, *shape), from the inputs: {(role, place): (B, size)}."""
    known = {}

    def of(view):
        return value(view.value)[:, view.index]

    def value(v):
        if v not in known:
            known[v] = compute(v)
        return known[v]

    def compute(v):
        op = v.op
        if isinstance(op, Input):
            return given[op.role, op.place]
        if isinstance(op, Constant):
            some = next(iter(given.values()))
            return some.new_tensor(op.numbers).expand(some.shape[0], -1)
        parts = [of(a) for a in op.views]
        match op:
            case Map(function):
                call = UNARY.get(function) or OTHER.get(function) or getattr(torch, function)
                return call(*parts)
            case Dot():
                return torch.matmul(*parts).flatten(1)
            case Reduce(function):
                return {"sum": parts[0].sum(-1), "max": parts[0].amax(-1), "min": parts[0].amin(-1)}[
                    function
                ]
            case Gather(_, places):
                out = parts[0].new_zeros(parts[0].shape[0], v.size)
                for part, where in zip(parts, places, strict=True):
                    out[:, where] = part
                return out
            case Total():
                return torch.stack(parts).sum((0, 1))[None].expand(parts[0].shape[0], -1)

    return [of(v) for v in views]
