"""The two-loop recursion of L-BFGS, on inner products alone."""

from __future__ import annotations


def two_loop(gram: list[list[float]], order: list[int], last: int) -> list[float]:
    """Coefficients of the L-BFGS direction ``-H g`` in the basis ``s_0, y_0, s_1, y_1, ..., g``.

    The two-loop recursion (Nocedal, Math. Comp. 35, 1980) needs inner products of these vectors
    and nothing else, so it runs on their Gram matrix in double precision. A layer group then sums
    all of a step's inner products in two messages.

    gram: inner products of the basis vectors; pair k has rows 2k (s) and 2k + 1 (y).
    order: the pairs in use, oldest first. last: row of the gradient g.
    Returns one coefficient per row. The initial matrix is ``(s·y / y·y) I`` of the newest pair.
    """
    rows = [row for k in order for row in (2 * k, 2 * k + 1)] + [last]
    coefficients = [0.0] * len(gram)
    coefficients[last] = -1.0

    def product(row: int) -> float:
        return sum(coefficients[j] * gram[row][j] for j in rows)

    alphas: list[float] = []
    for k in reversed(order):
        alpha = product(2 * k) / gram[2 * k][2 * k + 1]
        coefficients[2 * k + 1] -= alpha
        alphas.append(alpha)
    if order:
        k = order[-1]
        gamma = gram[2 * k][2 * k + 1] / gram[2 * k + 1][2 * k + 1]
        coefficients = [gamma * c for c in coefficients]
    for k, alpha in zip(order, reversed(alphas), strict=True):
        coefficients[2 * k] += alpha - product(2 * k + 1) / gram[2 * k][2 * k + 1]
    return coefficients
