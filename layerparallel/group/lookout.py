"""What the ranks tell each other about themselves in the store they share, and what follows from it."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch.distributed import DistNetworkError
from torch.distributed.distributed_c10d import Store

from .processes import ENDED, STOPPED, Process

NEIGHBOURS = 16
"""Ranks that one rank looks after: those that follow it."""
NONE, LEFT = b"-", b"left"


@dataclass(frozen=True)
class Patience:
    """How long, in seconds.

    Attributes:
        beat: between signs of life.
        silence: until a rank that gives none counts as failed.
        grace: from then on until a process is ended whose main thread has not heard of it.
        cleanup: and if it has, for what it does then.
    """

    beat: float = 0.5
    silence: float = 8.0
    grace: float = 2.0
    cleanup: float = 4.0

    @property
    def limit(self) -> float:
        """After which all ranks have ended."""
        return self.silence + 2 * self.beat + self.grace + self.cleanup


@dataclass(frozen=True)
class Verdict:
    """The rank that failed, or None; what is known of it; whether it is to be killed."""

    rank: int | None
    text: str
    kill: bool = False


class Lookout:
    """Gives signs of life of this rank and looks for those of others, in a thread of its own.

    The first rank that finds another one dead, stopped or silent writes so into the store, and all
    others read it there.

    Args:
        store: a connection of this lookout alone: others may block theirs.
        rank, world: of this process among all; every one of them makes a lookout.
        keeper: the rank whose process keeps the store, if it is one of them.

    Attributes:
        verdict: what has happened; `found` is set once there is one.
        asked: set this if a message has failed, so that to have left counts as failing.
        hurry: set this to look more often.
    """

    def __init__(
        self, store: Store, rank: int, world: int, keeper: int | None, patience: Patience
    ) -> None:
        self.rank, self.world, self.keeper, self.patience = rank, world, keeper, patience
        self.verdict: Verdict | None = None
        self.found = threading.Event()
        self.asked = self.hurry = False
        self._store = store
        self._judging, self._telling = threading.Lock(), threading.Lock()
        self._told = False
        self._left: set[int] = set()
        self._count = 0
        store.set(f"who/{rank}", json.dumps(asdict(Process.own())))
        store.compare_set("verdict", "", NONE.decode())
        self._beat()
        store.wait([f"beat/{r}" for r in range(world)])  # the others may still be on their way
        store.set_timeout(timedelta(seconds=2 * patience.silence))
        told = store.multi_get([f"who/{r}" for r in range(world)])
        self._who = [Process(**json.loads(value)) for value in told]
        now = time.monotonic()
        looked_after = [(rank + 1 + k) % world for k in range(min(world - 1, NEIGHBOURS))]
        self._seen: dict[int, tuple[bytes, float]] = dict.fromkeys(looked_after, (b"", now))
        self._looked = now
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout for ranks", daemon=True)
        self._thread.start()

    def declare(self, rank: int, text: str, kill: bool = False) -> None:
        """That a rank has failed; of all verdicts the first counts.

        Raises:
            RuntimeError: the store does not answer.
        """
        verdict = Verdict(rank, f"Rank {rank} ({self._who[rank]}) {text}", kill)
        kept = self._store.compare_set("verdict", NONE.decode(), json.dumps(asdict(verdict)))
        self._read(kept)

    def check_store(self) -> None:
        """Without the store, which may not answer for ever, nothing is known of anybody."""
        keeper = self._who[self.keeper] if self.keeper not in (None, self.rank) else None
        state = keeper.condition() if keeper is not None and keeper.near else ""
        silent = time.monotonic() - self._looked
        if silent <= self.patience.silence + 2 * self.patience.beat and state != ENDED:
            return
        how = {ENDED: "has ended", STOPPED: "was stopped"}.get(state, "does not answer")
        store = "the store that the ranks share"
        if keeper is None:
            self._judge(Verdict(None, f"{store.capitalize()} {how}"))
        else:
            text = f"Rank {self.keeper} ({keeper}), which keeps {store}, {how}"
            self._judge(Verdict(self.keeper, text, kill=True))

    def linger(self) -> None:
        """The rank that keeps the store ends after all others have read there why."""
        deadline = time.monotonic() + self.patience.grace
        with contextlib.suppress(RuntimeError):
            while self.keeper == self.rank and time.monotonic() < deadline:
                if self._store.add("told", 0) >= self.world - 1:
                    return
                time.sleep(self.patience.beat / 20)

    def leave(self) -> None:
        """This rank is done; the one that keeps the store waits until all others are."""
        self._over.set()
        self._thread.join(self.patience.silence)
        if self.verdict is not None or self._thread.is_alive():
            return
        try:
            self._store.set(f"beat/{self.rank}", LEFT.decode())
            while self.keeper == self.rank and self.verdict is None and not self._deserted():
                time.sleep(self.patience.beat / 5)
        except RuntimeError:
            return

    def _deserted(self) -> bool:
        self._look()
        beats = self._store.multi_get([f"beat/{r}" for r in range(self.world)])
        return all(beat == LEFT for beat in beats)

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.wait(self.patience.beat / (10 if self.hurry else 1)):
            self.check_store()
            if self.verdict is not None:
                return
            try:
                self._beat()
                self._look()
            except DistNetworkError:  # a connection that has broken stays so
                self._looked = -math.inf
            except RuntimeError:  # no answer in time: check_store finds out, once it has lasted
                continue

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"beat/{self.rank}", str(self._count))

    def _look(self) -> None:
        *beats, verdict = self._store.multi_get([*(f"beat/{r}" for r in self._seen), "verdict"])
        if verdict != NONE:
            self._read(verdict)
            return
        now = time.monotonic()
        if now - self._looked > self.patience.silence / 2:  # it was this process that stood still
            self._seen = {r: (beat, now) for r, (beat, _) in self._seen.items()}
        self._looked = now
        for rank, beat in zip(list(self._seen), beats, strict=True):
            if beat == LEFT:
                self._left.add(rank)
            elif self._who[rank].near and self._who[rank].condition() == ENDED:
                if self._store.get(f"beat/{rank}") != LEFT:
                    self.declare(rank, "ended without an exception, as a killed process does")
            elif beat != self._seen[rank][0]:
                self._seen[rank] = beat, now
            elif now - self._seen[rank][1] > self.patience.silence:
                stopped = self._who[rank].near and self._who[rank].condition() == STOPPED
                silent = f"sent no sign of life for {self.patience.silence:g} s"
                self.declare(rank, "was stopped and " * stopped + silent, kill=True)
        if self.asked and self._left and self.verdict is None:
            self.declare(min(self._left), "had left before the others were done")

    def _read(self, text: bytes) -> None:
        """A verdict out of the store; who ends because of it has said that it knows."""
        verdict = Verdict(**json.loads(text))
        with self._telling:
            if not self._told and verdict.rank != self.rank:
                self._told = True
                self._store.add("told", 1)
        self._judge(verdict)

    def _judge(self, verdict: Verdict) -> None:
        """The first verdict counts."""
        with self._judging:
            if self.verdict is not None:
                return
            self.verdict = verdict
        if verdict.kill and verdict.rank is not None and verdict.rank != self.rank:
            self._who[verdict.rank].kill()  # it holds up whoever is to start all of them again
        self.found.set()
