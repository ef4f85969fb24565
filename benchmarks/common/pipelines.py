"""The same gradient on two processes by other means: pipeline stages, and halves of the batch."""

from __future__ import annotations

import re
from functools import cache

import torch
import torch.distributed as dist
from cases import Case, Gradient, named_gradients
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional

from layerparallel.solvers.measure import Gradients

SCHEDULES = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}


@cache
def _ready() -> None:
    """The first message between two processes connects them; a stage's own must not be the first."""
    dist.barrier()


class Pipeline:
    """One gradient by torch.distributed.pipelining, a stage of half the layers on either rank."""

    def __init__(self, rank: int, case: Case, schedule: str, microbatches: int, closed: bool):
        _ready()
        self.rank, self.case = rank, case
        self.module = case.halves(closed)[rank]
        self.x, self.y = case.data()
        size = case.batch // microbatches
        ends = (case.inputs, case.state, (case.classes,))
        first, last = (torch.zeros(size, *ends[k], requires_grad=k > 0) for k in (rank, rank + 1))
        # without these the stages would be called once on memory that was never written to
        stage = PipelineStage(self.module, rank, 2, torch.device("cpu"), first, last)
        self.schedule = SCHEDULES[schedule](stage, microbatches, loss_fn=functional.cross_entropy)

    def __call__(self) -> None:
        self.module.zero_grad(set_to_none=True)
        if self.rank == 0:
            self.schedule.step(self.x)
        else:
            self.schedule.step(target=self.y, return_outputs=False)

    def found(self) -> Gradients:
        """Under the names of the whole network."""
        return named_halves(self.module, self.rank, self.case)


def named_halves(module: torch.nn.Module, rank: int, case: Case) -> Gradients:
    """The gradient of one half under the names of the whole network."""
    found, first = {}, rank * (case.depth // 2)
    for name, value in named_gradients(module).items():
        layer = re.match(r"body\.(?:body\.)?(\d+)\.(.+)", name)
        found[f"body.{int(layer[1]) + first}.{layer[2]}" if layer else name] = value
    return found


class DataParallel(Gradient):
    """One gradient by halves of the batch, averaged: what there is where the batch can be divided."""

    def __init__(self, rank: int, case: Case):
        x, y = case.data()
        mine = slice(rank, None, 2)
        super().__init__(case.network(), x[mine], y[mine])

    def __call__(self) -> None:
        super().__call__()
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= 2
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))
