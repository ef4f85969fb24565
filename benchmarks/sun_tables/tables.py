"""Tables 1 to 5 of Sun et al. 2021, A Practical Layer-Parallel Training Algorithm for Residual Networks.

All figures in this file are published ones; none was measured here. What the tables do not say: tables 3
and 4 are of K = 3 (their 1:4 rows are those of tables 1 and 2). Memory is in GiB, of 50,000 samples in
float32. Table 1's 1.44 for DS-P, K = 3, should probably read 1.14, a quarter of 4.58.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Method = Literal["serial", "penalty", "augmented"]
RATIOS = (Fraction(1, 4), Fraction(2, 3), Fraction(3, 2), Fraction(4, 1))


@dataclass(frozen=True)
class Row:
    """One method in one table, and what was published of it; None where the table has nothing.

    Args:
        table: its number.
        method: serial, penalty or augmented Lagrangian (AL).
        stages: K.
        down: whether the auxiliary variables are downsampled 2x2 (DS).
        ratio: gamma_H = n/m, serial epochs for every parallel one (SPH); None for parallel alone.
        images_augmented: of a serial row; parallel epochs are without, the serial ones of a hybrid with.
        memory: GiB of auxiliary variables and multipliers.
        score: test accuracy in percent; in table 5 the test loss.
        speedup: serial time over this method's, per epoch.
        share: of the epochs; below 1 in rows of our own, of serial training cut short.
    """

    table: int
    method: Method
    stages: int = 1
    down: bool = False
    ratio: Fraction | None = None
    images_augmented: bool = False
    memory: float | None = None
    score: float | None = None
    speedup: float | None = None
    share: float = 1.0

    @property
    def label(self) -> str:
        """As the paper writes it."""
        if self.method == "serial":
            cut = "" if self.share == 1 else f", {self.share:.0%} of the epochs"
            return ("Serial with DA" if self.images_augmented else "Serial w/o DA") + cut
        parts = (["DS"] if self.down else []) + (["SPH"] if self.ratio is not None else [])
        long = "Penalty" if not parts else "P"
        parts.append("AL" if self.method == "augmented" else long)
        gamma = "" if self.ratio is None else f", {self.ratio.numerator}:{self.ratio.denominator}"
        return f"{'-'.join(parts)} (K = {self.stages}{gamma})"


def _pair(
    row: Row, penalty: tuple[float | None, ...], lagrangian: tuple[float | None, ...]
) -> list[Row]:
    """The two methods of a line: (memory, score, speedup) of each."""
    found = []
    for method, figures in (("penalty", penalty), ("augmented", lagrangian)):
        memory, score, speedup = figures
        found.append(replace(row, method=method, memory=memory, score=score, speedup=speedup))
    return found


def _classification(
    table: int,
    stages: int,
    figures: dict[tuple[bool, bool], tuple[tuple[float, ...], tuple[float, ...]]],
) -> list[Row]:
    """Rows of table 1 or 2 by (down, hybrid)."""
    found = []
    for (down, hybrid), (penalty, lagrangian) in figures.items():
        row = Row(table, "penalty", stages, down, RATIOS[0] if hybrid else None)
        found += _pair(row, penalty, lagrangian)
    return found


def _ratios(table: int, figures: dict[bool, tuple[tuple[float, float, float, float], ...]]) -> list[Row]:
    """Rows of table 3 or 4 by downsampling: of every ratio (speedup, score) of either method."""
    found = []
    for down, lines in figures.items():
        for ratio, (speed_p, score_p, speed_al, score_al) in zip(RATIOS, lines, strict=True):
            row = Row(table, "penalty", 3, down, ratio)
            found += _pair(row, (None, score_p, speed_p), (None, score_al, speed_al))
    return found


def _serial(table: int, score: float, images_augmented: bool = True) -> Row:
    return Row(table, "serial", images_augmented=images_augmented, score=score)


PLAIN, DS, SPH, DS_SPH = (False, False), (True, False), (False, True), (True, True)

TABLE_1 = [
    _serial(1, 86.4, False),
    _serial(1, 93.7),
    *_classification(
        1,
        2,
        {
            PLAIN: ((1.53, 85.0, 1.41), (3.05, 85.7, 1.36)),
            DS: ((0.38, 84.2, 1.53), (0.57, 84.1, 1.42)),
            SPH: ((1.53, 91.8, 1.30), (3.05, 91.8, 1.27)),
            DS_SPH: ((0.38, 91.8, 1.38), (0.57, 91.6, 1.31)),
        },
    ),
    *_classification(
        1,
        3,
        {
            PLAIN: ((4.58, 84.5, 1.56), (9.12, 85.2, 1.49)),
            DS: ((1.44, 83.7, 1.69), (2.29, 83.7, 1.58)),
            SPH: ((4.58, 91.3, 1.40), (9.12, 91.4, 1.35)),
            DS_SPH: ((1.44, 91.8, 1.48), (2.29, 91.5, 1.41)),
        },
    ),
]
"""ResNet-110 on CIFAR-10."""

TABLE_2 = [
    _serial(2, 66.53, False),
    _serial(2, 80.71),
    *_classification(
        2,
        3,
        {
            PLAIN: ((45.77, 64.91, 1.89), (91.55, 64.80, 1.67)),
            DS: ((11.44, 61.06, 2.19), (22.89, 60.84, 1.92)),
            SPH: ((45.77, 75.25, 1.52), (91.55, 76.25, 1.42)),
            DS_SPH: ((11.44, 76.23, 1.76), (22.89, 76.84, 1.62)),
        },
    ),
]
"""WideResNet-40-10 on CIFAR-100."""

TABLE_3 = [
    *_ratios(
        3,
        {
            False: (
                (1.40, 91.25, 1.35, 91.38),
                (1.27, 92.36, 1.24, 92.64),
                (1.16, 92.85, 1.14, 93.13),
                (1.07, 93.18, 1.07, 93.75),
            ),
            True: (
                (1.48, 91.75, 1.41, 91.54),
                (1.32, 92.79, 1.28, 92.58),
                (1.19, 93.58, 1.17, 93.11),
                (1.08, 93.62, 1.08, 93.66),
            ),
        },
    ),
    _serial(3, 93.70),
]
"""ResNet-110 on CIFAR-10, by hybrid ratio."""

TABLE_4 = [
    *_ratios(
        4,
        {
            False: (
                (1.52, 75.25, 1.42, 76.25),
                (1.34, 78.02, 1.28, 78.32),
                (1.21, 79.40, 1.17, 79.63),
                (1.09, 80.00, 1.08, 80.67),
            ),
            True: (
                (1.76, 76.23, 1.62, 76.84),
                (1.48, 78.34, 1.40, 78.08),
                (1.28, 80.22, 1.24, 79.97),
                (1.12, 80.69, 1.11, 80.37),
            ),
        },
    ),
    _serial(4, 80.70),
]
"""WideResNet-40-10 on CIFAR-100, by hybrid ratio."""

TABLE_5 = [
    _serial(5, 0.126, False),
    *_pair(Row(5, "penalty", 3), (None, 0.149, 2.33), (None, 0.129, 2.18)),
    *_pair(Row(5, "penalty", 3, True), (None, 0.160, 2.41), (None, 0.137, 2.25)),
    *_pair(Row(5, "penalty", 3, True, RATIOS[0]), (None, 0.127, 1.88), (None, 0.128, 1.80)),
]
"""ResNet-VAE, encoder ResNet-110, on MNIST: test loss."""

TITLES = {
    1: "Table 1: ResNet-110 on CIFAR-10",
    2: "Table 2: WideResNet-40-10 on CIFAR-100",
    3: "Table 3: ResNet-110 on CIFAR-10, by hybrid ratio",
    4: "Table 4: WideResNet-40-10 on CIFAR-100, by hybrid ratio",
    5: "Table 5: ResNet-VAE on MNIST, test loss",
}
TABLES = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5}
ROWS = [row for rows in TABLES.values() for row in rows]


def parallel_speedup(row: Row) -> float | None:
    """The published rho_K of a hybrid row: the speed-up of the same method without serial epochs.

    Table 3 has none of its own, so table 1 is asked, and table 2 for table 4.
    """
    source = {3: 1, 4: 2}.get(row.table, row.table)
    for other in TABLES[source]:
        same = (other.method, other.stages, other.down) == (row.method, row.stages, row.down)
        if same and other.ratio is None:
            return other.speedup
    return None
