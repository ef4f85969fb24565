"""The coefficients in layerparallel/chains/native/c/functions.h: python dev/functions.py prints them.

Fits of polynomials and of quotients P / Q of two, by least squares whose weights move to the largest
errors. Errors are in units in the last place of the function itself. Coefficients are rounded to 32 bits
one by one, and those that are left are fitted again. It needs numpy and mpmath, which the development
environment has. `--search SECONDS` tries common factors of P and Q at random, which change how
coefficients and sums of them are rounded, and prints every one that is better than those before it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Name = tuple[str, int]
"""Of a coefficient: "p" or "q", and its power."""
mpmath.mp.dps = 40


def unit(values: Array) -> Array:
    """A unit in the last place of 32-bit numbers."""
    return 2.0 ** (np.floor(np.log2(np.abs(values))) - 23)


def between(low: float, high: float, count: int = 500) -> Array:
    """Points that lie closer at both ends."""
    return (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(count) + 0.5) / count)


@dataclass(frozen=True)
class Problem:
    """P(x) / Q(x) for y(x), where an error of y counts `scale` units.

    Args:
        p, q: degrees; Q is 1 where its degree is 0.
        fixed: coefficients that are known.
    """

    x: Array
    y: Array
    scale: Array
    p: int
    q: int = 0
    fixed: Mapping[Name, float] = field(default_factory=lambda: {("q", 0): 1.0})

    @property
    def names(self) -> list[Name]:
        """In the order in which they are rounded."""
        return [*(("q", k) for k in range(self.q, -1, -1)), *(("p", k) for k in range(self.p, -1, -1))]

    def fitted(self, fixed: Mapping[Name, float], rounds: int) -> tuple[float, dict[Name, float]]:
        """The largest error in units, and the coefficients that have it."""
        free = [name for name in self.names if name not in fixed]

        def column(name: Name) -> Array:
            return self.x ** name[1] * (1.0 if name[0] == "p" else -self.y)

        known = -sum((fixed[name] * column(name) for name in fixed), np.zeros_like(self.x))
        weights, bottom = np.ones_like(self.x), np.ones_like(self.x)
        best, found = np.inf, dict(fixed)
        for _ in range(rounds):
            rows = np.sqrt(weights) * self.scale / np.abs(bottom)
            coefficients = dict(fixed)
            if free:
                matrix = np.stack([column(name) for name in free], 1) * rows[:, None]
                size = np.abs(matrix).max(0)
                solved = np.linalg.lstsq(matrix / size, known * rows, rcond=1e-17)[0] / size
                coefficients.update(zip(free, map(float, solved), strict=True))
            top = sum(coefficients["p", k] * self.x**k for k in range(self.p + 1))
            bottom = sum(coefficients["q", k] * self.x**k for k in range(self.q + 1))
            errors = np.abs(top / bottom - self.y) * self.scale
            if errors.max() < best:
                best, found = float(errors.max()), coefficients
            weights *= errors / errors.max() + 1e-3
            weights /= weights.mean()
        return best, found

    def rounded(self) -> tuple[float, dict[Name, float]]:
        """The largest error in units, and coefficients of 32 bits."""
        fixed = {name: float(np.float32(value)) for name, value in self.fixed.items()}
        error, found = self.fitted(fixed, 25)
        for name in self.names:
            if name not in fixed:
                fixed[name] = float(np.float32(found[name]))
                error, found = self.fitted(fixed, 6)
        return error, found


def exponential() -> Problem:
    """(exp(r) - 1 - r) / r^2, in units of exp(r) - 1."""
    r = between(-np.log(2) / 2, np.log(2) / 2)
    y = np.array([float((mpmath.expm1(v) - v) / mpmath.mpf(v) ** 2) for v in r])
    return Problem(r, y, r**2 / unit(np.expm1(r)), 4, fixed={("q", 0): 1.0, ("p", 0): 0.5})


def logarithm() -> Problem:
    """(log(1 + f) - f + f^2 / 2) / f^3, in units of log(1 + f)."""
    f = between(np.sqrt(0.5) - 1, np.sqrt(2) - 1)
    y = [float((mpmath.log1p(v) - v + mpmath.mpf(v) ** 2 / 2) / mpmath.mpf(v) ** 3) for v in f]
    return Problem(f, np.array(y), np.abs(f**3) / unit(np.log1p(f)), 8)


@dataclass(frozen=True)
class Odd:
    """An odd function as x P(x^2) / Q(x^2) up to `end`; behind it 1 in place of what is larger.

    Args:
        degree: of P and Q.
        factor: constant of Q, found by `search`.
        same: P has the same constant.
    """

    of: Callable[[float], float]
    end: float
    degree: int
    factor: float
    same: bool = False

    def problem(self, factor: float) -> Problem:
        x = between(0, self.end)
        f = self.values(x)
        fixed = {("q", 0): factor, **({("p", 0): factor} if self.same else {})}
        return Problem(x**2, f / x, x / unit(f), self.degree, self.degree, fixed)

    def values(self, x: Array) -> Array:
        return np.array([self.of(v) for v in x])

    def computed(self, c: Mapping[Name, float], x: NDArray[np.float32]) -> Array:
        """As functions.h has it, with fused multiplications and additions."""
        y = x * x
        y2 = y * y
        p, q = (horner_of_pairs([c[n, k] for k in range(self.degree + 1)], y, y2) for n in "pq")
        return np.minimum(x * (p / q), np.float32(1)).astype(np.float64)

    def search(self, seconds: float) -> None:
        random, end = np.random.default_rng(0), time.monotonic() + seconds
        x = random.uniform(0.02 * self.end, self.end, 600_000).astype(np.float32)
        exact, best = self.values(x.astype(np.float64)), np.inf
        while time.monotonic() < end:
            factor = float(np.float32(random.uniform(1, 2)))
            _, found = self.problem(factor).rounded()
            error = float((np.abs(self.computed(found, x) - exact) / unit(exact)).max())
            if error < best:
                best = error
                print(f"factor {factor:.9g}: {error:.2f} ulp")


def horner_of_pairs(
    c: list[float], y: NDArray[np.float32], y2: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(c0 + c1 y) + y2 ((c2 + c3 y) + y2 (c4 + c5 y))."""

    def fused(a: NDArray[np.float32], b: NDArray[np.float32], c: object) -> NDArray[np.float32]:
        return (a.astype(np.float64) * b + c).astype(np.float32)  # type: ignore[operator]

    c = [*c, 0.0] if len(c) % 2 else c
    out = np.zeros_like(y)
    for low, high in zip(c[-2::-2], c[::-2], strict=True):
        out = fused(out, y2, fused(np.full_like(y, high), y, low))
    return out


ODD = {
    "tanh": Odd(math.tanh, 9.0, 4, 1.06769764, same=True),
    "erf": Odd(math.erf, 3.92, 5, 1.1426003),
}


def main() -> None:
    """Prints the coefficients."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--search", type=float, default=0.0, help="seconds for each quotient")
    seconds = parser.parse_args().search
    if seconds:
        for name, odd in ODD.items():
            print(name)
            odd.search(seconds)
        return
    log2 = mpmath.log(2)
    first = mpmath.floor(log2 * 2**16) / 2**16  # times a whole number below 256 it is exact
    for name, value in {"1 / log(2)": 1 / log2, "log(2)": first, "its rest": log2 - first}.items():
        print(f"{name}: {np.float32(float(value)):.9g}")
    problems = {"exp": exponential(), "log": logarithm()}
    problems |= {name: odd.problem(odd.factor) for name, odd in ODD.items()}
    for name, problem in problems.items():
        error, found = problem.rounded()
        print(f"{name}: within {error:.2f} ulp")
        for part in ("p", "q") if problem.q else ("p",):
            print(f"  {part}:", *(f"{found[n, k]:.9g}" for n, k in problem.names if n == part))


if __name__ == "__main__":
    main()
