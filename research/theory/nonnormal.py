"""Powers of matrices that are not normal: they grow at first, whatever their eigenvalues are."""

import math

import numpy as np


def power_growth(
    steps: int,
    *,
    spectral_radius: float,
    nonnormality: float,
    width: int,
) -> np.ndarray:
    """E‖Wᵗx‖²/‖x‖² for t = 0..steps, with W = Q(ρI + νU)Qᵀ of ``init=schur``.

    It is Σ_k C(t,k)² ρ^{2(t−k)} ν^{2k} C(n,k+1)/n^{k+1}, for E‖Uᵏ‖² counts chains of k+1
    rising indices. For ν = 0 it is ρ^{2t}. Otherwise it may rise before it falls: a linear
    recurrent network carries a signal, and its gradient, further than its eigenvalues say.

    Args:
        steps: the greatest power.
        spectral_radius: ρ.
        nonnormality: ν.
        width: n, the rows of the matrix.

    Returns:
        The factors [steps + 1] of the squared norm.

    References:
        Trefethen & Embree, Spectra and pseudospectra, 2005. Kerg et al., Non-normal recurrent
        neural network (nnRNN), 2019.
    """
    factors = []
    for power in range(steps + 1):
        total = 0.0
        for jumps in range(min(power, width - 1) + 1):
            chains = math.comb(width, jumps + 1) / width ** (jumps + 1)
            stays = spectral_radius ** (power - jumps)
            size = math.comb(power, jumps) * stays * nonnormality**jumps
            total += size * size * chains
        factors.append(total)
    return np.array(factors)
