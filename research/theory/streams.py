"""What a product of mixing matrices does to several residual streams."""

from dataclasses import dataclass

import numpy as np

Matrices = np.ndarray  # [N, n, n]


@dataclass(frozen=True)
class CompositeGain:
    """How much the product of all layers' matrices can enlarge or lose.

    Attributes:
        forward: greatest sum of |elements| of a row: of a signal's largest stream.
        backward: greatest sum of |elements| of a column: of a gradient's largest stream.
        least: smallest sum of |elements| of a column. It shows attenuation, which the others hide.
        spectral: greatest singular value.
    """

    forward: float
    backward: float
    least: float
    spectral: float


def composite_gain(matrices: Matrices) -> CompositeGain:
    """The gain of M_N … M_1, for matrices M_l [N, n, n] in forward order.

    A product of doubly stochastic matrices is doubly stochastic. All four numbers are then 1,
    however many layers there are. A product of N random matrices grows or falls exponentially.

    References:
        Xie et al., mHC: manifold-constrained hyper-connections, 2025, §3.1 (gain) and §4.1.
    """
    product = np.eye(matrices.shape[-1])
    for matrix in np.asarray(matrices, float):
        product = matrix @ product
    sizes = np.abs(product)
    return CompositeGain(
        forward=float(sizes.sum(axis=1).max()),
        backward=float(sizes.sum(axis=0).max()),
        least=float(sizes.sum(axis=0).min()),
        spectral=float(np.linalg.svd(product, compute_uv=False)[0]),
    )


def random_mixing_growth(streams: int, noise: float) -> float:
    """The factor a layer of E‖M_N … M_1 x‖² for M = I + noise·G with Gaussian G: 1 + n·noise².

    Args:
        streams: n.
        noise: the standard deviation of the elements that are added to I.
    """
    return 1 + streams * noise**2
