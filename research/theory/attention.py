"""What theory says of attention with random weights, at initialisation."""

import math


def attention_entropy(length: int, score_variance: float) -> float:
    """The mean entropy in nats of a softmax over T independent Gaussian scores of variance s².

    With Z = Σ exp(x), the entropy is ln Z − Σ p·x. Gaussian integration by parts gives
    E Σ p·x = s²·(1 − E Σ p²). To first order in 1/T, E ln Z = ln T + s²/2 − (e^{s²} − 1)/(2T)
    and E Σ p² = e^{s²}/T. So the entropy is ln T − s²/2 + (2s²·e^{s²} − e^{s²} + 1)/(2T). It holds
    where the last term is small: s² well below ln T. Beyond 2·ln T one position has all the weight
    (Derrida's random energy model).

    Args:
        length: T, how many positions can be attended to.
        score_variance: s², the variance of a score qᵀk/√K.

    References:
        Derrida, Random-energy model, 1981. Giorlandino & Goldt, Two failure modes of deep
        transformers and how to avoid them, 2025.
    """
    growth = math.exp(score_variance)
    correction = (2 * score_variance * growth - growth + 1) / (2 * length)
    return math.log(length) - score_variance / 2 + correction


def initial_score_variance(
    mean_square: float,
    query_variance: float,
    key_variance: float,
) -> float:
    """The variance of a score qᵀk/√K of two independent tokens whose weights are independent.

    With elements of variance ``mean_square`` a query's have σ_q²·mean_square, and a sum of K
    products over √K keeps the product of the variances of query and key.

    Args:
        mean_square: mean square of an element of the tokens' vectors.
        query_variance: σ_q², D times the variance of a query weight.
        key_variance: σ_k², D times the variance of a key weight.
    """
    return query_variance * mean_square * key_variance * mean_square
