"""Claims about gradients that explode, and about clipping; thresholds were set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.config.data_options import ImageData
from research.data.digits import load_digits
from research.gauges.numbering import nearest_layer
from research.records.queries import (
    at_best_rate,
    by_seed,
    final_values,
    initial_factors,
    setting_values,
    where,
)
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.mean_field import kappa_0, kappa_1

HE = "He et al. 2015, eq. 14"
PASCANU = "Pascanu, Mikolov, Bengio 2013"
CRITICAL = 2**0.5  # σ_w of rectifiers whose layers keep the size of signal and gradient
FLOAT32_MAX = float(np.finfo(np.float32).max)
CLIP_TOLERANCE = 1e-6
CHANCE_LOSS = math.log(10)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Growth over depth and time, overflow, what clipping does, and where it is not enough."""
    growth = where(runs, {"model.width": 256})
    variances = [sigma**2 for sigma in setting_values(growth, "init.sigma_w")]
    return [
        *[_growth(growth, variance) for variance in variances],
        *[_growth_in_time(runs, gain) for gain in (0.9, 1.0, 1.1)],
        _overflows_where_predicted(runs, 300),
        _overflows_where_predicted(runs, 500),
        _overflows_in_batch(runs),
        _verdict_names_step(runs),
        _clipped_norm(runs),
        _clipped_direction(runs),
        _unclipped_diverges(runs),
        _clipped_trains(runs),
        _layers_share_gradient(runs),
        _share_is_between_limits(runs),
        _deep_does_not_train(runs),
        _deep_trains_with_shortcut(runs),
    ]


def has_variance(run: Run, variance: float) -> bool:
    """Whether the initial weights have σ_w² = ``variance``."""
    return math.isclose(run["init.sigma_w"] ** 2, variance)


def _growth(runs: Sequence[Run], variance: float) -> Claim:
    group = [run for run in runs if has_variance(run, variance)]
    depth = group[0]["model.depth"]
    width = group[0]["model.width"]
    tolerance = 3 * math.sqrt(5 / (width * depth)) + 5 / (2 * width)
    errors = [math.log(factor) - math.log(variance / 2) for factor in initial_factors(group)]
    return claim(
        f"ReLU, σ_w² = {variance:g}, depth {depth}: ln factor of the squared gradient a layer, "
        f"minus ln {variance / 2:g}",
        source=HE,
        expected=f"within ±{tolerance:.3f} = 3·√(5/nL) + 5/2n on every seed",
        values=errors,
        holds=max(map(abs, errors)) <= tolerance,
    )


def select_in_time(runs: Sequence[Run], gain: float) -> list[Run]:
    """The linear recurrent networks whose recurrent weights are orthogonal times ``gain``."""
    return where(runs, {"model.kind": "rnn", "init.gain": gain})


def _growth_in_time(runs: Sequence[Run], gain: float) -> Claim:
    factors = initial_factors(select_in_time(runs, gain))
    errors = [factor / gain**2 - 1 for factor in factors]
    return claim(
        f"linear recurrent network, orthogonal weights times {gain:g}: "
        f"factor of the squared gradient a time step, over {gain**2:.3g}, minus 1",
        source=f"{PASCANU}, §2.1",
        expected="within ±1e-5 on every seed",
        values=errors,
        holds=max(map(abs, errors)) <= 1e-5,
    )


def select_overflow(runs: Sequence[Run], depth: int) -> dict[int, Run]:
    """The runs whose signal overflows, by seed."""
    group = [run for run in where(runs, {"model.depth": depth}) if not has_variance(run, 2)]
    return by_seed(group)


def predicted_layer(run: Run, reference: Run) -> int:
    """The first layer whose output does not fit into float32.

    The greatest of n Gaussian units is √(2 ln 2n) times their root mean square.

    Args:
        run: the run that overflows, for its settings.
        reference: the run of the same seed at σ_w² = 2.
    """
    extreme = math.sqrt(2 * math.log(2 * run["model.width"]))
    return layer_above(run, reference, extreme)


def named_layer(run: Run) -> float:
    """The layer that the verdict names; NaN if it names none."""
    layer = run.info["verdict"]["first_layer"]
    return math.nan if layer is None else float(layer)


def layer_above(
    run: Run,
    reference: Run,
    extreme: float,
) -> int:
    """The first layer where a unit of the output does not fit into float32.

    With the same seed a rectifier network with larger weights has the same gates. So its signal is
    that of the critical network times (σ_w/√2)^(l+1), exactly.

    Args:
        run: the run that overflows, for its settings.
        reference: the run of the same seed at σ_w² = 2.
        extreme: the unit over the root mean square of its layer.
    """
    rms = reference.profiles["activation_rms"][0].astype(float)
    ratio = run["init.sigma_w"] / CRITICAL
    signals = np.arange(len(rms))
    logs = np.log(extreme * rms) + (signals + 1) * math.log(ratio)
    first_signal = int(np.flatnonzero(logs > math.log(FLOAT32_MAX))[0])
    return nearest_layer(first_signal)


def _overflows_where_predicted(runs: Sequence[Run], depth: int) -> Claim:
    references = select_references(runs, depth)
    differences = []
    for seed, run in select_overflow(runs, depth).items():
        differences.append(named_layer(run) - predicted_layer(run, references[seed]))
    variance = select_overflow(runs, depth).popitem()[1]["init.sigma_w"] ** 2
    return claim(
        f"ReLU, σ_w² = {variance:g}, depth {depth}, float32: layer that the verdict names minus "
        "the layer where the signal of the critical network, scaled, exceeds 3.4e38",
        source=f"{HE}; IEEE 754",
        expected="within ±1 on every seed",
        values=differences,
        holds=all(abs(difference) <= 1 for difference in differences),
    )


def select_references(runs: Sequence[Run], depth: int) -> dict[int, Run]:
    """The critical runs and those whose signal overflows, by seed."""
    deep = where(runs, {"model.depth": depth})
    return by_seed([run for run in deep if has_variance(run, 2)])


def read_digits() -> np.ndarray:
    """The training digits as the network reads them, [n, 64]."""
    digits = load_digits(ImageData())
    return digits.standardization.apply(digits.x)


def greatest_size(batch_size: int) -> float:
    """The norm of the largest digit of a batch over the root mean square of all norms.

    A rectifier network without biases keeps this ratio, as far as its layers are wide.
    """
    norms = np.linalg.norm(read_digits(), axis=1)
    return float(np.quantile(norms, 1 - 1 / batch_size) / np.sqrt(np.mean(norms**2)))


def _overflows_in_batch(runs: Sequence[Run]) -> Claim:
    """The verdict looks at all units of all examples, of which the greatest overflows first.

    The tolerance is one layer, because layers are whole numbers, and three standard deviations of
    the logarithm of the greatest of n Gaussian units, 1.28/(2 ln 2n) (Gumbel 1958).
    """
    differences = []
    tolerances = []
    for depth in (300, 500):
        references = select_references(runs, depth)
        for seed, run in select_overflow(runs, depth).items():
            width = run["model.width"]
            batch_size = run["train.batch_size"]
            of_all_units = math.sqrt(2 * math.log(2 * width * batch_size))
            extreme = greatest_size(batch_size) * of_all_units
            differences.append(named_layer(run) - layer_above(run, references[seed], extreme))
            deviation = 1.28 / (2 * math.log(2 * width))
            growth = math.log(run["init.sigma_w"] / CRITICAL)
            tolerances.append(1 + 3 * deviation / growth)
    return claim(
        "both: layer that the verdict names minus the layer where the greatest unit of the whole "
        "batch exceeds 3.4e38",
        source="Gumbel 1958: the greatest of many Gaussian numbers",
        expected=f"within ±{min(tolerances):.1f} and ±{max(tolerances):.1f} on every seed",
        values=differences,
        holds=bool(np.all(np.abs(differences) <= tolerances)),
    )


def _verdict_names_step(runs: Sequence[Run]) -> Claim:
    steps = []
    for depth in (300, 500):
        for run in select_overflow(runs, depth).values():
            verdict = run.info["verdict"]
            is_named = verdict["kind"] == "diverged"
            steps.append(float(verdict["since_step"]) if is_named else math.nan)
    return claim(
        "the same: step at which the verdict says that the numbers stop being finite",
        source=HE,
        expected="0 on every seed",
        values=steps,
        holds=all(step == 0 for step in steps),
    )


def _clipped_norm(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in select_clipped(runs, "global_norm"):
        norm = float(run.inspections["clipped_norm"][0])
        ratios.append(norm / run["optimizer.clip_threshold"])
    return claim(
        "clipped by global norm: norm of the gradient over the threshold",
        source=f"{PASCANU}, Algorithm 1",
        expected="≤ 1 + 1e-6 on every seed",
        values=ratios,
        holds=max(ratios) <= 1 + CLIP_TOLERANCE,
    )


def select_clipped(runs: Sequence[Run], clip: str) -> list[Run]:
    """The runs whose gradient was compared before and after clipping."""
    return where(runs, {"measure.inspect": ["clipping"], "optimizer.clip": clip})


def _clipped_direction(runs: Sequence[Run]) -> Claim:
    cosines = []
    for run in select_clipped(runs, "global_norm"):
        cosines.append(float(run.inspections["clipping_cosine"][0]))
    return claim(
        "clipped by global norm: cosine between the gradient before and after",
        source=f"{PASCANU}, Algorithm 1",
        expected="1 ± 1e-6 on every seed",
        values=cosines,
        holds=max(abs(1 - cosine) for cosine in cosines) <= CLIP_TOLERANCE,
    )


def select_moderate(runs: Sequence[Run], clip: str) -> list[Run]:
    """The plain networks of depth 10 that were trained, clipped or not."""
    return where(runs, {"model.depth": 10, "optimizer.clip": clip})


def _unclipped_diverges(runs: Sequence[Run]) -> Claim:
    losses = final_values(select_moderate(runs, "none"), "train_loss")
    return claim(
        "σ_w² = 4, depth 10, not clipped: final training loss (infinite where the run diverged)",
        source=PASCANU,
        expected=f"≥ {CHANCE_LOSS:.4g}, that of guessing, on every seed",
        values=losses,
        holds=min(losses) >= CHANCE_LOSS,
    )


def _clipped_trains(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_moderate(runs, "global_norm"), "train_accuracy")
    return claim_on_every_seed(
        "the same learning rate, clipped by global norm: training accuracy",
        source=PASCANU,
        values=accuracies,
        above=0.8,
    )


def select_deep(runs: Sequence[Run], skip: str) -> list[Run]:
    """The clipped networks of depth 64, at their best learning rate."""
    group = where(runs, {"model.depth": 64, "model.kind": "mlp", "skip.kind": skip})
    return at_best_rate(group)


def first_half_share(run: Run) -> float:
    """The share of the squared gradient that the first half of the layers has, at step 0."""
    squares = run.profiles["grad_norm"][0].astype(float) ** 2
    half = len(squares) // 2
    return float(squares[:half].sum() / squares.sum())


def _layers_share_gradient(runs: Sequence[Run]) -> Claim:
    shares = [first_half_share(run) for run in select_deep(runs, "none")]
    return claim(
        "σ_w² = 4, depth 64, no shortcuts: share of the squared gradient of the parameters in the "
        "first 32 layers",
        source="Euler: ⟨W_l, ∂L/∂W_l⟩ is the same for every l",
        expected="0.5 ± 0.1 on every seed",
        values=shares,
        holds=max(abs(share - 0.5) for share in shares) <= 0.1,
    )


def share_of_wide_layers(depth: int, cosine: float) -> float:
    """The same share in an infinitely wide network whose examples have one cosine at its input.

    The squared gradient of a layer's weights is the mean, over pairs of examples, of the product of
    two cosines: of the signals that come in, which follow c ← κ₁(c) from layer to layer, and of the
    gradients that come back, which each layer multiplies by κ₀(c) (Cho & Saul 2009).

    Args:
        depth: the number of layers, of which the first half is meant.
        cosine: that of two inputs of the first layer.
    """
    signals = []
    slopes = []
    for _ in range(depth):
        slopes.append(kappa_0(cosine))
        cosine = kappa_1(cosine)
        signals.append(cosine)
    gradients = np.cumprod([1.0, *slopes[:0:-1]])[::-1]
    squares = np.array(signals) * gradients
    return float(squares[: depth // 2].sum() / squares.sum())


def mean_cosine() -> float:
    """The mean cosine of two different digits."""
    rows = read_digits()
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    total = np.sum(directions.sum(axis=0) ** 2)
    num_rows = len(rows)
    return float((total - num_rows) / (num_rows * (num_rows - 1)))


def _share_is_between_limits(runs: Sequence[Run]) -> Claim:
    group = select_deep(runs, "none")
    low = share_of_wide_layers(group[0]["model.depth"], mean_cosine())
    shares = [first_half_share(run) for run in group]
    return claim(
        "the same share, 64 layers of 64 units",
        source="Cho & Saul 2009; narrow layers make examples alike sooner",
        expected=f"{low:.2f} (infinitely wide) to 0.5 (all examples alike) on every seed",
        values=shares,
        holds=low <= min(shares) and max(shares) <= 0.5,
    )


def _deep_does_not_train(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_deep(runs, "none"), "train_accuracy")
    return claim_on_every_seed(
        "σ_w² = 4, depth 64, no shortcuts, clipped, best of three learning rates: "
        "training accuracy",
        source=PASCANU,
        values=accuracies,
        below=0.5,
    )


def _deep_trains_with_shortcut(runs: Sequence[Run]) -> Claim:
    accuracies = final_values(select_deep(runs, "inv_sqrt_depth"), "train_accuracy")
    return claim_on_every_seed(
        "the same with shortcuts and branches scaled by 1/√depth: training accuracy",
        source="Hayou et al. 2021",
        values=accuracies,
        above=0.9,
    )
