"""How clearly a layer shows the classes: linear probes, spread within classes, and maps.

The functions take features [K, D], one row for each of K examples, and class labels [K].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.gauges.norms import nonzero_or_one

RIDGE = 1e-3  # penalty of a probe, as a multiple of the features' mean variance
Features = Float[Array, "K D"]
Labels = Int[Array, " K"]
Scalar = Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """A linear classifier: the class of x is the greatest entry of (x − mean)·W + offset.

    Attributes:
        mean: the mean of the features that it was fitted to [D].
        weights: W [D, C].
        offset: the share of each class [C].
    """

    mean: Array
    weights: Array
    offset: Array

    def error(self, features: Features, labels: Labels) -> Scalar:
        """The fraction of the examples that it puts into a wrong class."""
        centred = features - self.mean[None]
        scores = centred @ self.weights + self.offset[None]
        is_wrong = jnp.argmax(scores, axis=1) != labels
        return jnp.mean(is_wrong, dtype=features.dtype)


def fit_probe(
    features: Features,
    labels: Labels,
    classes: int,
) -> Probe:
    """Ridge regression of one-hot labels on features.

    With centred features X and centred one-hot labels Y it solves (XᵀX/K + λ·I)·W = XᵀY/K, where λ
    is ``RIDGE`` times the mean of the features' variances. So the probe does not depend on the
    scale of the features. Cost: K·D² + D³ multiplications.

    Args:
        features: what the probe reads.
        labels: the class of each example.
        classes: the number of classes C.

    References:
        Alain, Bengio, Understanding intermediate layers using linear classifier probes, 2016.
    """
    mean = jnp.mean(features, axis=0)
    centred = features - mean[None]
    one_hot = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    shares = jnp.mean(one_hot, axis=0)
    covariance = centred.T @ centred / len(features)
    width = covariance.shape[0]
    penalty = RIDGE * nonzero_or_one(jnp.trace(covariance) / width)
    cross = centred.T @ (one_hot - shares[None]) / len(features)
    identity = jnp.eye(width, dtype=features.dtype)
    regularised = covariance + penalty * identity
    weights = jax.scipy.linalg.solve(regularised, cross, assume_a="pos")
    return Probe(mean, weights, shares)


def class_spread(
    features: Features,
    labels: Labels,
    classes: int,
) -> Scalar:
    """The variance within classes over the variance between the classes' means.

    Both are sums over the features: Σ_k ‖x_k − m_c(k)‖² over Σ_k ‖m_c(k) − m‖², with the mean m_c
    of each class and the mean m of all examples. It is small where the classes are separate
    clusters. Cost: K·D·C multiplications.

    Args:
        features: the examples.
        labels: the class of each example.
        classes: the number of classes C.

    References:
        Fisher, The use of multiple measurements in taxonomic problems, 1936.
    """
    one_hot = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    counts = jnp.sum(one_hot, axis=0)
    sums = one_hot.T @ features
    means = sums / nonzero_or_one(counts)[:, None]
    class_means = one_hot @ means  # of the class of each example
    within = jnp.sum((features - class_means) ** 2)
    mean = jnp.mean(features, axis=0)
    between = jnp.sum((class_means - mean[None]) ** 2)
    return within / nonzero_or_one(between)


def token_spread(h: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Scalar:
    """How much the tokens of a text differ: ‖h − mean over tokens‖/‖h‖, mean over texts.

    It is between 0, where all tokens have the same vector, and 1. Cost: B·T·D additions.

    Args:
        h: a vector for each position.
        mask: which positions hold a token; the others do not count.

    References:
        Dong, Cordonnier, Loukas, Attention is not all you need, 2021, §2.1.
    """
    weights = mask[..., None].astype(h.dtype)
    counts = jnp.sum(weights, axis=1, keepdims=True)
    total = jnp.sum(h * weights, axis=1, keepdims=True)
    mean = total / nonzero_or_one(counts)
    deviations = (h - mean) * weights
    deviation_norms = jnp.linalg.norm(deviations, axis=(1, 2))
    norms = jnp.linalg.norm(h * weights, axis=(1, 2))
    return jnp.mean(deviation_norms / nonzero_or_one(norms))


def principal_plane(features: Features) -> Float[Array, "K 2"]:
    """The examples' coordinates on the two directions of greatest variance.

    Coordinates are in units of the features. Each axis points to where its farthest example lies,
    so that the result does not depend on the signs that a solver chooses. Cost: a singular value
    decomposition of [K, D].

    References:
        Pearson, On lines and planes of closest fit, 1901.
    """
    mean = jnp.mean(features, axis=0)
    centred = features - mean[None]
    left, values, _ = jnp.linalg.svd(centred, full_matrices=False)
    coordinates = left[:, :2] * values[None, :2]
    farthest = jnp.argmax(jnp.abs(coordinates), axis=0)
    axes = jnp.arange(coordinates.shape[1])
    signs = jnp.sign(coordinates[farthest, axes])
    return coordinates * signs[None]
