"""Claims about the loss as a function of the weights; their thresholds were set before the runs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

LI = "Li et al. 2018"
GOODFELLOW = "Goodfellow, Vinyals, Saxe 2015"
SAGUN = "Sagun, Bottou, LeCun 2017"
DAUPHIN = "Dauphin et al. 2014"
CHOROMANSKA = "Choromanska et al. 2015"
PLAIN = "none"
RESIDUAL = "inv_sqrt_depth"
TRAINED = -1  # which inspection
SLACK = 1e-4  # a rise of the loss that does not count, in nats
NEAR_ZERO = 0.01  # an eigenvalue below this share of the greatest one belongs to the bulk
NEGATIVE = 1e-4  # one below minus this share of the greatest one is negative beyond rounding


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Surfaces, straight lines, the Hessian's spectrum, a saddle, and many minima."""
    return [
        _gorge(runs, 0.5, 10),
        _gorge(runs, 1.0, 100),
        _walls(runs),
        _downhill(runs),
        _ridge(runs),
        _bulk(runs),
        _bulk_grows(runs),
        _fewer_negative(runs),
        _negative_sum_follows_error(runs),
        _negative_falls_with_loss(runs),
        _plateau(runs),
        _saddle_curves_both_ways(runs),
        _saddle_losses(runs),
        _minima_are_equally_good(runs),
        _minima_are_apart(runs),
    ]


def select_surface(
    runs: Sequence[Run],
    skip: str,
    depth: int,
) -> list[Run]:
    """The runs whose surface was measured, of one depth, with or without shortcuts."""
    inspected = ["loss_surface", "interpolation"]
    settings = {"skip.kind": skip, "model.depth": depth, "measure.inspect": inspected}
    return where(runs, settings)


def select_minima(runs: Sequence[Run]) -> list[Run]:
    """The ten runs that differ in nothing but their seed, whose weights were recorded."""
    return where(runs, {"measure.inspect": ["parameters"]})


def loss_at(run: Run, distance: float) -> float:
    """The mean loss at a distance on the four lines through the trained weights, both ways."""
    coordinates = run.inspections["surface_coordinate"][TRAINED]
    lines = run.inspections["line_loss"][TRAINED]
    at_distance = np.isclose(np.abs(coordinates), distance)
    return float(np.mean(lines[:, at_distance]))


def _gorge(
    runs: Sequence[Run],
    distance: float,
    factor: float,
) -> Claim:
    plain = by_seed(select_surface(runs, PLAIN, 20))
    residual = by_seed(select_surface(runs, RESIDUAL, 20))
    ratios = []
    for seed, run in plain.items():
        ratios.append(loss_at(run, distance) / loss_at(residual[seed], distance))
    return claim_on_every_seed(
        f"20 layers, {distance:g} × the norm of each filter away: "
        "mean loss without over with shortcuts",
        source=f"{LI}, Fig. 1 and 5",
        values=ratios,
        at_least=factor,
    )


def _walls(runs: Sequence[Run]) -> Claim:
    """At a distance α a layer's weights have 1 + α² times their variance, without shortcuts.

    So 20 layers, the embedding and the head multiply the outputs by (1 + α²)^11. Where all answers
    are wrong the loss is proportional to the outputs. The logarithm of their norm has the standard
    deviation ½·√(5·22/n) in layers of n units, and the loss is the mean of four lines.
    """
    ratios = []
    tolerance = 1.0
    for run in select_surface(runs, PLAIN, 20):
        num_maps = run["model.depth"] + 2
        expected = (2 / 1.25) ** (num_maps / 2)
        deviation = 0.5 * math.sqrt(5 * num_maps / run["model.width"])
        tolerance = math.exp(3 * deviation / math.sqrt(4))
        ratios.append(loss_at(run, 1.0) / loss_at(run, 0.5) / expected)
    return claim(
        "20 layers without shortcuts: loss 1 × the norm of each filter away over that 0.5 × away, "
        "over (2/1.25)^11 = 176",
        source="He et al. 2015: the variance of a layer's outputs",
        expected=f"1 within a factor {tolerance:.1f} = exp(3·½√(5·22/n)/√4) on every seed",
        values=ratios,
        holds=1 / tolerance <= min(ratios) and max(ratios) <= tolerance,
    )


def greatest_rise(losses: np.ndarray) -> float:
    """The greatest rise of the loss from one point of a line to the next, in nats."""
    return float(max(0.0, np.max(np.diff(losses))))


def _downhill(runs: Sequence[Run]) -> Claim:
    rises = []
    for run in select_surface(runs, PLAIN, 4):
        rises.append(greatest_rise(run.inspections["interpolation_loss"][TRAINED]))
    num_monotone = sum(rise <= SLACK for rise in rises)
    return claim(
        "4 layers: greatest rise between neighbours of 26 points on the line from the initial to "
        "the trained weights, in nats",
        source=f"{GOODFELLOW}, Fig. 1",
        expected=f"≤ {SLACK:g} on at least 4 of 5 seeds",
        values=rises,
        holds=num_monotone >= 4,
    )


def _ridge(runs: Sequence[Run]) -> Claim:
    from research.runner.landscape import losses_between

    group = select_minima(runs)[:6]
    ratios = []
    for first, second in zip(group, group[1:], strict=False):
        losses = losses_between(first.directory, second.directory)
        ends = (losses[0] + losses[-1]) / 2
        ratios.append(float(losses.max() / ends))
    return claim(
        "4 layers: greatest loss on the line between two solutions over the loss at its ends",
        source=f"{GOODFELLOW}, Fig. 4",
        expected="≥ 10 on every pair",
        values=ratios,
        holds=min(ratios) >= 10,
    )


def select_curvature(runs: Sequence[Run]) -> list[Run]:
    """The small networks whose whole Hessian was decomposed."""
    return where(runs, {"model.width": 12})


def bulk_share(run: Run, moment: int) -> float:
    """The share of eigenvalues below 1 % of the greatest one in magnitude."""
    values = run.inspections["hessian_eigenvalues"][moment]
    weights = run.inspections["hessian_weights"][moment]
    return float(np.sum(weights[np.abs(values) < NEAR_ZERO * values.max()]))


def negative_shares(run: Run) -> np.ndarray:
    """The share of negative eigenvalues at each inspected step."""
    values = run.inspections["hessian_eigenvalues"]
    weights = run.inspections["hessian_weights"]
    is_negative = values < -NEGATIVE * values.max(axis=1, keepdims=True)
    return np.sum(weights * is_negative, axis=1)


def _bulk(runs: Sequence[Run]) -> Claim:
    shares = [bulk_share(run, TRAINED) for run in select_curvature(runs)]
    return claim_on_every_seed(
        "1066 weights, trained: share of Hessian eigenvalues below 1 % of the greatest",
        source=f"{SAGUN}, Fig. 1",
        values=shares,
        at_least=0.8,
    )


def _bulk_grows(runs: Sequence[Run]) -> Claim:
    growths = []
    for run in select_curvature(runs):
        growths.append(bulk_share(run, TRAINED) - bulk_share(run, 0))
    return claim_on_every_seed(
        "the same share, trained minus initial",
        source=SAGUN,
        values=growths,
        above=0,
    )


def _fewer_negative(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in select_curvature(runs):
        shares = negative_shares(run)
        ratios.append(float(shares[TRAINED] / shares[0]))
    return claim_on_every_seed(
        "share of negative eigenvalues, trained over initial",
        source=SAGUN,
        values=ratios,
        at_most=0.5,
    )


def negative_sums(run: Run) -> np.ndarray:
    """Minus the sum of the negative eigenvalues at each inspected step, over their number."""
    values = run.inspections["hessian_eigenvalues"]
    weights = run.inspections["hessian_weights"]
    return np.sum(weights * np.maximum(-values, 0), axis=1)


def _negative_sum_follows_error(runs: Sequence[Run]) -> Claim:
    """The Hessian is G + R. G has no negative eigenvalue, and R is linear in the errors p − y.

    The mean of 1 − p is at most 1 − exp(−loss). R also holds second derivatives of the outputs. If
    they change by a factor of three while the error falls by e^2.7, the slope changes by 0.4.
    """
    slopes = []
    for run in select_curvature(runs):
        steps = run.inspections["step"].astype(int)
        errors = 1 - np.exp(-run.metrics["train_loss"][steps])
        slopes.append(float(np.polyfit(np.log(errors), np.log(negative_sums(run)), 1)[0]))
    return claim(
        "along training: slope of the logarithm of the sum of negative eigenvalues over that of "
        "the error 1 − exp(−loss)",
        source=f"{SAGUN}, §3.1: the part of the Hessian that is linear in the errors",
        expected="1 ± 0.4 on every seed",
        values=slopes,
        holds=max(abs(slope - 1) for slope in slopes) <= 0.4,
    )


def _negative_falls_with_loss(runs: Sequence[Run]) -> Claim:
    correlations = []
    for run in select_curvature(runs):
        steps = run.inspections["step"].astype(int)
        losses = run.metrics["train_loss"][steps]
        correlations.append(rank_correlation(losses, negative_shares(run)))
    return claim(
        "along training: rank correlation of the loss and the share of negative eigenvalues",
        source=f"{DAUPHIN}, who look at critical points; these are points of the path",
        expected="≥ 0.8 in the mean over seeds",
        values=correlations,
        holds=float(np.mean(correlations)) >= 0.8,
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two series without ties."""
    ranks = [np.argsort(np.argsort(series)) for series in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def select_saddle(runs: Sequence[Run]) -> Run:
    """The network whose weights start and stay at zero, except for the head's biases."""
    (run,) = where(runs, {"init.kind": "zeros"})
    return run


def _plateau(runs: Sequence[Run]) -> Claim:
    run = select_saddle(runs)
    losses = run.metrics["train_loss"]
    change = float(abs(losses[-1] - losses[-2]))
    return claim(
        "all weights 0: change of the loss by the 101st step of gradient descent, in nats",
        source=f"{DAUPHIN}: a plateau around a saddle",
        expected="≤ 1e-6: the gradient is 0 although the loss is that of guessing",
        values=[change],
        holds=change <= 1e-6 and losses[-1] > 2.2,
    )


def _saddle_curves_both_ways(runs: Sequence[Run]) -> Claim:
    values = select_saddle(runs).inspections["hessian_eigenvalues"][TRAINED]
    balance = float(-values.min() / values.max())
    return claim(
        "there: minus the least over the greatest eigenvalue of the Hessian",
        source="the loss couples the first and the last weights, and is linear in each: ± σ",
        expected="between 0.1 and 10: both signs",
        values=[balance],
        holds=0.1 <= balance <= 10,
    )


def _saddle_losses(runs: Sequence[Run]) -> Claim:
    losses = select_saddle(runs).inspections["saddle_loss"][TRAINED]
    centre = len(losses) // 2
    down = losses[[0, -1], centre] - losses[centre, centre]
    up = losses[centre, [0, -1]] - losses[centre, centre]
    return claim(
        "there: change of the loss one unit along either direction, least curvature both ways, "
        "then greatest curvature both ways",
        source=DAUPHIN,
        expected="below 0, below 0, above 0, above 0",
        values=[*down.tolist(), *up.tolist()],
        holds=bool(down.max() < 0 < up.min()),
    )


def _minima_are_equally_good(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_minima(runs), "eval_accuracy")
    spread = max(accuracies) - min(accuracies)
    return claim(
        "ten solutions from ten seeds: held-out accuracy",
        source=CHOROMANSKA,
        expected="best minus worst ≤ 0.02",
        values=accuracies,
        holds=spread <= 0.02,
    )


def _minima_are_apart(runs: Sequence[Run]) -> Claim:
    weights = [run.inspections["parameters"][TRAINED] for run in select_minima(runs)]
    cosines = []
    for first, second in itertools.combinations(weights, 2):
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        cosines.append(float(cosine))
    return claim(
        "the same: cosine between the weights of two solutions",
        source=CHOROMANSKA,
        expected="< 0.2 for every pair",
        values=cosines,
        holds=max(cosines) < 0.2,
    )
