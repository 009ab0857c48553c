"""Thresholds of rank collapse, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.attention import attention_entropy, initial_score_variance

DONG = "Dong, Cordonnier, Loukas 2021"
NOCI = "Noci et al. 2022"
DEPTH = 12
ENTROPY_TOLERANCE = 0.03


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How alike tokens become, what attention then does, and what reaches its weights."""
    plain = where(runs, {"skip.kind": "none"})
    residual = where(runs, {"skip.kind": "identity"})
    return [
        _collapses(plain),
        _collapses_doubly_exponentially(plain),
        _stays_apart(residual),
        _first_entropy(runs),
        _attends_to_all(plain),
        _query_gradient_vanishes(plain, depth=4, threshold=0.01),
        _query_gradient_vanishes(plain, depth=DEPTH, threshold=1e-6),
        _query_gradient_remains(residual),
        _attends_to_one(residual),
    ]


def residuals(runs: Sequence[Run]) -> np.ndarray:
    """‖h − mean over tokens‖/‖h‖ at the N+1 signals of the deepest networks [seeds, N+1]."""
    return initial_profiles(where(runs, {"model.depth": DEPTH}), "token_residual")


def first_entropy(run: Run) -> float:
    """The entropy that theory gives the first layer, in nats."""
    tokens = run["data.shape"][0]
    mean_square = float(run.profiles["activation_rms"][0, 0]) ** 2
    return attention_entropy(tokens, initial_score_variance(mean_square, 1.0, 1.0))


def query_over_value(runs: Sequence[Run], depth: int) -> list[float]:
    """The gradient of the last layer's query weights over that of its value weights, by seed."""
    group = where(runs, {"model.depth": depth})
    query = initial_profiles(group, "query_grad")[:, -1]
    value = initial_profiles(group, "value_grad")[:, -1]
    return (query / value).tolist()


def _collapses(runs: Sequence[Run]) -> Claim:
    values = residuals(runs)[:, 3].tolist()
    return claim(
        "without shortcuts, after 3 layers: difference of the tokens as a share of their length",
        source=f"{DONG}, Theorem 2.2",
        expected="≤ 1e-4 on every seed",
        values=values,
        holds=max(values) <= 1e-4,
    )


def _collapses_doubly_exponentially(runs: Sequence[Run]) -> Claim:
    """Without a factor in front of it, an exponential decay gives 3/2."""
    logs = np.log(residuals(runs))
    values = (logs[:, 3] / logs[:, 2]).tolist()
    return claim(
        "without shortcuts: logarithm of that share after layer 3 over that after layer 2",
        source=f"{DONG}, Theorem 2.2",
        expected="2.5 to 5 on every seed; 1.5 would be exponential",
        values=values,
        holds=min(values) >= 2.5 and max(values) <= 5,
    )


def _stays_apart(runs: Sequence[Run]) -> Claim:
    values = residuals(runs)[:, DEPTH].tolist()
    return claim_on_every_seed(
        f"with shortcuts, after {DEPTH} layers: difference of the tokens as a share of their "
        "length",
        source=f"{DONG}, §4",
        values=values,
        at_least=0.05,
    )


def _first_entropy(runs: Sequence[Run]) -> Claim:
    errors = []
    for run in where(runs, {"model.depth": DEPTH}):
        measured = float(run.profiles["attention_entropy"][0, 0])
        errors.append(measured / first_entropy(run) - 1)
    return claim(
        "first layer: entropy of attention over ln T − s²/2 + finite-T term, minus 1, with the "
        "variance s² of the scores from that of the tokens",
        source="random energy model, Derrida 1981",
        expected=f"within ±{ENTROPY_TOLERANCE:g} on every seed",
        values=errors,
        holds=max(map(abs, errors)) <= ENTROPY_TOLERANCE,
    )


def _attends_to_all(runs: Sequence[Run]) -> Claim:
    tokens = runs[0]["data.shape"][0]
    entropies = initial_profiles(where(runs, {"model.depth": DEPTH}), "attention_entropy")
    missing = (1 - entropies[:, 3:].min(axis=1) / math.log(tokens)).tolist()
    return claim(
        "without shortcuts, from the fourth layer on: 1 − entropy of attention over ln T, "
        "worst layer",
        source=f"{NOCI}, §3",
        expected="≤ 1e-6 on every seed: all tokens get the same weight",
        values=missing,
        holds=max(missing) <= 1e-6,
    )


def _query_gradient_vanishes(
    runs: Sequence[Run],
    *,
    depth: int,
    threshold: float,
) -> Claim:
    values = query_over_value(runs, depth)
    return claim_on_every_seed(
        f"without shortcuts, {depth} layers: ‖∂L/∂W_q‖ over ‖∂L/∂W_v‖ in the last layer",
        source=f"{NOCI}, Theorem 3.2",
        values=values,
        at_most=threshold,
    )


def _query_gradient_remains(runs: Sequence[Run]) -> Claim:
    values = query_over_value(runs, 4)
    return claim_on_every_seed(
        "with shortcuts, 4 layers: ‖∂L/∂W_q‖ over ‖∂L/∂W_v‖ in the last layer",
        source=f"{NOCI}, §4",
        values=values,
        at_least=0.1,
    )


def _attends_to_one(runs: Sequence[Run]) -> Claim:
    """Without norms the stream grows, and the scores with its square: the other failure."""
    entropies = initial_profiles(where(runs, {"model.depth": DEPTH}), "attention_entropy")
    values = entropies[:, -1].tolist()
    return claim(
        f"with shortcuts and no norm, layer {DEPTH}: entropy of attention in nats",
        source="Giorlandino & Goldt 2025",
        expected="≤ 0.5 on every seed: each token attends to one other",
        values=values,
        holds=max(values) <= 0.5,
    )
