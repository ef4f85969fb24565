"""How inexact a gradient is, and what tells you so.

For 1 to 4 cycles: the residuals that every solve reports, the convergence factor, and the error of
the gradient against the exact one. Then weights on which the iteration diverges: the guard notices,
propagates that batch serially, warns and counts it.
"""

import warnings

import torch
from torch import nn

import layerparallel as lp
from layerparallel.solvers.measure import compare, gradients


def network(initial: str, T: float, solver: lp.MGRIT) -> lp.Network:
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(8, "relu"), depth=128, T=T, initial=initial)  # type: ignore[arg-type]
    return lp.Network(nn.Linear(2, 8), body, nn.Linear(8, 5), solver=solver)


def main(cycles: int = 4) -> tuple[list[float], list[float], int]:
    x, y = torch.randn(64, 2), torch.randint(0, 5, (64,))

    def gradient(net: lp.Network) -> dict[str, torch.Tensor]:
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        return gradients(net)

    net = network("smooth", 5.0, lp.MGRIT(coarsening=8))
    with net.solved_by(lp.Serial()):
        exact = gradient(net)
    errors, residuals = [], []
    print("cycles  forward residual  factor  gradient error  cosine")
    for k in range(1, cycles + 1):
        net.solver = lp.MGRIT(coarsening=8, forward_cycles=k, adjoint_cycles=k)
        error = compare(gradient(net), exact, depth=128)
        solution = net.solution
        assert solution is not None
        factor = solution.convergence_factor  # None before the second cycle
        print(
            f"{k:6}  {solution.relative_residual:16.1e}  {'-' if factor is None else f'{factor:.3f}':>6}"
            f"  {error.relative:14.1e}  {error.cosine:.6f}"
        )
        errors.append(error.relative)
        residuals.append(solution.relative_residual)

    rough = network(
        "independent", 128.0, lp.MGRIT(coarsening=8)
    )  # h = 1, layers that have nothing in common
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient(rough)
    print(f"rough weights: {rough.fallbacks} solves done serially instead; the first warning says")
    print(f"  {caught[0].message}" if caught else "  nothing")
    return errors, residuals, rough.fallbacks


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
