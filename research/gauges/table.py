"""Everything that a run measures, declared once.

``GAUGES`` are measured inside the step, one value for each layer. A gauge says when it is measured,
where, how the parts of several devices are combined, and what it means. The program's slots, the
all-reduce, the columns of ``profiles.parquet``, the trackers' keys and the reference page follow
from the table, so a new gauge is one entry here, together with the function that measures it.

``METRICS`` are the numbers of a step as a whole. ``EXPONENT_GAUGES`` and ``DIAGNOSTICS`` are
measured on an interval, outside the step.

The functions import JAX when they are called, so that records can read the table without it.
"""

import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from research.config.options import Level

if TYPE_CHECKING:
    from jax import Array

LEVELS = (Level.off, Level.norms, Level.full)


class Entries(enum.Enum):
    """What the entries of a gauge stand for."""

    LAYERS = "[N]"
    """One entry for each layer."""
    SIGNALS = "[N+1]"
    """One entry for the input of layer 0 and one for the output of each layer."""


class Site(enum.Enum):
    """Where a gauge is measured."""

    BACKWARD = "the gradient that arrives at a probe"
    FORWARD = "a layer's input or output"
    NONLINEARITY = "the input of a nonlinearity"
    GRADIENT = "the gradient of a layer's parameters"
    UPDATE = "a layer's parameters before and after the update"
    ATTENTION = "the scores and weights of an attention layer"
    TOKENS = "a layer's input or output that holds a vector for each token"
    PROJECTION = "the gradient of an attention layer's parameters"


OF_TRANSFORMERS = (Site.ATTENTION, Site.TOKENS, Site.PROJECTION)


class Reduction(enum.Enum):
    """How the values of devices that share a batch are combined."""

    NORM = "square root of the sum of squares"
    RMS = "square root of the mean of squares"
    MEAN = "mean"
    MAX = "maximum"
    NONE = "every device has the value of the whole batch"


@dataclass(frozen=True)
class Gauge:
    """A quantity that is measured inside the step, for every layer.

    Attributes:
        name: its column in ``profiles.parquet``.
        meaning: one line for the reference page.
        entries: whether it has an entry for each layer, or for each signal between layers.
        level: the least level of ``measure`` that measures it.
        site: where it is measured.
        reduction: how the values of several devices are combined.
        measure: computes one entry from what its site offers; None where the probe itself does.
        tracked: whether trackers get it: numbers that summarise the layers, and single layers.
    """

    name: str
    meaning: str
    entries: Entries
    level: Level
    site: Site
    reduction: Reduction = Reduction.NONE
    measure: "Callable[..., Array] | None" = None
    tracked: bool = False

    def is_measured(self, level: Level) -> bool:
        """Whether a step at this level measures it."""
        return LEVELS.index(level) >= LEVELS.index(self.level)

    @property
    def of_transformers(self) -> bool:
        """Whether only transformers have it."""
        return self.site in OF_TRANSFORMERS

    def length(self, layers: int) -> int:
        """Its number of entries in a network of N layers."""
        return layers + 1 if self.entries is Entries.SIGNALS else layers


def _root_mean_square(h: "Array", active_share: "float | Array") -> "Array":
    import jax.numpy as jnp

    from research.gauges.norms import accumulator, euclidean

    dtype = accumulator(h.dtype)
    return euclidean(h, jnp.sqrt(h.size * active_share).astype(dtype))


def _mean(h: "Array", active_share: "float | Array") -> "Array":
    import jax.numpy as jnp

    from research.gauges.norms import accumulator

    return jnp.mean(h, dtype=accumulator(h.dtype)) / active_share


def _variation(h: "Array", active_share: "float | Array") -> "Array":
    """The mean square of h minus its mean over the examples (axis 0), over that of h."""
    import jax.numpy as jnp

    from research.gauges.norms import accumulator, nonzero_or_one
    from research.parallel.collectives import batch_axis_size, pmax, psum_tree

    del active_share  # both mean squares are over the same elements
    h = h.astype(accumulator(h.dtype))
    h = h / nonzero_or_one(pmax(jnp.max(jnp.abs(h))))
    num_devices = batch_axis_size()
    mean = psum_tree(jnp.mean(h, axis=0, keepdims=True)) / num_devices
    varying = jnp.mean((h - mean) ** 2)
    total = jnp.mean(h**2)
    varying, total = psum_tree(jnp.stack([varying, total]))
    return varying / nonzero_or_one(total)


def _correlation(h: "Array", active_share: "float | Array") -> "Array":
    """The mean over pairs of examples (axis 0) of the cosine between them; NaN for one example."""
    import jax.numpy as jnp

    from research.gauges.norms import accumulator, nonzero_or_one
    from research.parallel.collectives import batch_axis_size, psum_tree

    del active_share  # units without a value are zero
    rows = h.reshape(len(h), -1).astype(accumulator(h.dtype))
    rows = rows / nonzero_or_one(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
    squares = jnp.sum(rows**2, axis=1, keepdims=True)
    rows = rows / jnp.sqrt(nonzero_or_one(squares))
    num_examples = len(rows) * batch_axis_size()
    total, with_itself = psum_tree((jnp.sum(rows, axis=0), jnp.sum(rows**2)))
    pairs = num_examples * (num_examples - 1)
    return (
        (jnp.sum(total**2) - with_itself) / pairs if pairs else jnp.full_like(with_itself, jnp.nan)
    )


FLAT = 0.05  # slopes below this fraction of the greatest slope count as flat


def _saturated(
    nonlinearity: Any,
    z: "Array",
    unit_mask: "Array | None",
) -> "Array":
    """The fraction of elements whose slope |φ'(z)| is flat."""
    import jax.numpy as jnp

    is_flat = jnp.abs(nonlinearity.slope(z)) < FLAT * nonlinearity.greatest_slope()
    element_mask = None
    if unit_mask is not None:
        units_last = (1,) * (z.ndim - 1) + (-1,)
        element_mask = jnp.broadcast_to(unit_mask.reshape(units_last), z.shape)
    return jnp.mean(is_flat, dtype=jnp.float32, where=element_mask)


def _dead(
    nonlinearity: Any,
    z: "Array",
    unit_mask: "Array | None",
) -> "Array":
    """The fraction of units (last axis) with φ(z) = 0 on the whole batch."""
    import jax.numpy as jnp

    from research.parallel.collectives import all_true

    all_but_units = tuple(range(z.ndim - 1))
    is_dead = all_true(jnp.all(nonlinearity(z) == 0, axis=all_but_units))
    return jnp.mean(is_dead, dtype=jnp.float32, where=unit_mask)


def _gradient_norm(blocks: Any) -> "Array":
    """The norm for each block of a tree whose leaves have a leading axis of blocks."""
    from research.gauges.norms import tree_euclidean

    return tree_euclidean(blocks, batch_axes=1)


def _weight_norm(weight: "Array", update: "Array") -> "Array":
    del update
    return weight


def _update_norm(weight: "Array", update: "Array") -> "Array":
    del weight
    return update


def _update_ratio(weight: "Array", update: "Array") -> "Array":
    """NaN where the weights are all zero."""
    import jax.numpy as jnp

    from research.gauges.norms import nonzero_or_one

    ratio = update / nonzero_or_one(weight)
    return jnp.where(weight > 0, ratio, jnp.nan)


def _attention_entropy(
    scores: "Array",
    weights: "Array",
    token_mask: "Array | None",
) -> "Array":
    """−Σ p ln p of each position's weights p, mean over positions, heads and examples."""
    import jax.numpy as jnp

    del scores
    logarithms = jnp.log(jnp.where(weights > 0, weights, 1))
    entropies = -jnp.sum(weights * logarithms, axis=-1)
    if token_mask is None:
        return jnp.mean(entropies)
    counts = token_mask[:, None].astype(entropies.dtype)
    sums = jnp.sum(entropies * counts, axis=-1)
    text_means = sums / jnp.sum(counts, axis=-1)
    return jnp.mean(text_means)


def _attention_logit(
    scores: "Array",
    weights: "Array",
    token_mask: "Array | None",
) -> "Array":
    """The greatest score of a position for one that it may attend to; −∞ marks the others."""
    import jax.numpy as jnp

    del weights
    if token_mask is not None:
        scores = jnp.where(token_mask[:, None, :, None], scores, -jnp.inf)
    return jnp.max(scores)


def _token_residual(h: "Array", token_mask: "Array | None") -> "Array":
    import jax.numpy as jnp

    from research.gauges.norms import accumulator
    from research.gauges.probes import token_spread

    if token_mask is None:
        token_mask = jnp.ones(h.shape[:2], bool)
    return token_spread(h.astype(accumulator(h.dtype)), token_mask)


def _projection_norm(name: str, blocks: Any) -> "Array":
    """The norm for each block of the gradient of one projection; NaN where there is none."""
    import jax
    import jax.numpy as jnp

    from research.gauges.norms import tree_euclidean

    branch = blocks["branch"]
    if name in branch:
        return tree_euclidean(branch[name]["kernel"], batch_axes=1)
    leaf = jax.tree.leaves(blocks)[0]
    return jnp.full(len(leaf), jnp.nan, leaf.dtype)


SIGNAL_GRAD = Gauge(
    "signal_grad",
    "‖∂L/∂h‖ of each signal, L the mean loss of the batch: entry 0 at the input of layer 0, entry "
    "l + 1 at the output of layer l. The loss scale is divided out.",
    Entries.SIGNALS,
    Level.norms,
    Site.BACKWARD,
    Reduction.NORM,
)
BRANCH_GRAD = Gauge(
    "branch_grad",
    "Norm of the part of ∂L/∂h at a layer's input that returns through the layer's branch.",
    Entries.LAYERS,
    Level.full,
    Site.BACKWARD,
    Reduction.NORM,
)
SKIP_GRAD = Gauge(
    "skip_grad",
    "Norm of the part of ∂L/∂h at a layer's input that returns through the layer's shortcut.",
    Entries.LAYERS,
    Level.full,
    Site.BACKWARD,
    Reduction.NORM,
)
GRAD_NORM = Gauge(
    "grad_norm",
    "‖∂L/∂θ‖ over all parameters of the layer, L the mean loss of the batch. Biases, gates and the "
    "parameters of norms are among them; embedding and head belong to no layer. Before clipping, "
    "and with the loss scale divided out.",
    Entries.LAYERS,
    Level.norms,
    Site.GRADIENT,
    Reduction.NONE,
    _gradient_norm,
    tracked=True,
)
ACTIVATION_RMS = Gauge(
    "activation_rms",
    "Root mean square of the forward signal over its elements and the examples of the batch.",
    Entries.SIGNALS,
    Level.norms,
    Site.FORWARD,
    Reduction.RMS,
    _root_mean_square,
)
ACTIVATION_MEAN = Gauge(
    "activation_mean",
    "Mean of the forward signal over its elements and the examples of the batch.",
    Entries.SIGNALS,
    Level.norms,
    Site.FORWARD,
    Reduction.MEAN,
    _mean,
)
SIGNAL_VARIATION = Gauge(
    "signal_variation",
    "Share of the forward signal's mean square that differs between the examples of the batch.",
    Entries.SIGNALS,
    Level.full,
    Site.FORWARD,
    Reduction.NONE,
    _variation,
)
SIGNAL_CORRELATION = Gauge(
    "signal_correlation",
    "Mean cosine between the forward signals of two examples of the batch. NaN for a batch of one; "
    "a signal of zeros counts as 0.",
    Entries.SIGNALS,
    Level.full,
    Site.FORWARD,
    Reduction.NONE,
    _correlation,
)
SATURATED = Gauge(
    "saturated",
    f"Fraction of elements, over units and examples of the batch, where the absolute slope of the "
    f"activation function is below {FLAT} of its greatest: about 0.5 for ReLU.",
    Entries.LAYERS,
    Level.full,
    Site.NONLINEARITY,
    Reduction.MEAN,
    _saturated,
)
DEAD = Gauge(
    "dead",
    "Fraction of units whose activation is zero for all examples of the batch.",
    Entries.LAYERS,
    Level.full,
    Site.NONLINEARITY,
    Reduction.MEAN,
    _dead,
)
WEIGHT_NORM = Gauge(
    "weight_norm",
    "‖θ‖ over all parameters of the layer, before the update.",
    Entries.LAYERS,
    Level.full,
    Site.UPDATE,
    measure=_weight_norm,
)
UPDATE_NORM = Gauge(
    "update_norm",
    "‖Δθ‖ of the step's update over all parameters of the layer, as stored, so it holds what the "
    "number format let through.",
    Entries.LAYERS,
    Level.full,
    Site.UPDATE,
    measure=_update_norm,
)
UPDATE_RATIO = Gauge(
    "update_ratio",
    "update_norm over weight_norm: ‖Δθ‖/‖θ‖, with the parameters θ before the update. NaN where "
    "they are all zero.",
    Entries.LAYERS,
    Level.full,
    Site.UPDATE,
    measure=_update_ratio,
)

ATTENTION_ENTROPY = Gauge(
    "attention_entropy",
    "Entropy in nats of the positions that a position attends to, mean over positions, heads and "
    "examples: ln T where it attends to all T alike. NaN in feed-forward layers, as all gauges of "
    "attention.",
    Entries.LAYERS,
    Level.full,
    Site.ATTENTION,
    Reduction.MEAN,
    _attention_entropy,
)
ATTENTION_LOGIT = Gauge(
    "attention_logit",
    "Greatest score qᵀk/√K of a position for one that it may attend to, as the softmax reads it, "
    "over positions, heads and the examples of the batch.",
    Entries.LAYERS,
    Level.full,
    Site.ATTENTION,
    Reduction.MAX,
    _attention_logit,
)
TOKEN_RESIDUAL = Gauge(
    "token_residual",
    "‖h − mean over tokens‖/‖h‖ of each signal, mean over examples: 0 where all tokens are alike.",
    Entries.SIGNALS,
    Level.full,
    Site.TOKENS,
    Reduction.MEAN,
    _token_residual,
)
QUERY_GRAD = Gauge(
    "query_grad",
    "‖∂L/∂W_q‖ of the query weights of an attention layer, before clipping and with the loss scale "
    "divided out, as grad_norm.",
    Entries.LAYERS,
    Level.full,
    Site.PROJECTION,
    measure=functools.partial(_projection_norm, "query"),
)
VALUE_GRAD = Gauge(
    "value_grad",
    "‖∂L/∂W_v‖ of the value weights of an attention layer, as query_grad.",
    Entries.LAYERS,
    Level.full,
    Site.PROJECTION,
    measure=functools.partial(_projection_norm, "value"),
)

GAUGES = (
    SIGNAL_GRAD,
    BRANCH_GRAD,
    SKIP_GRAD,
    GRAD_NORM,
    ACTIVATION_RMS,
    ACTIVATION_MEAN,
    SIGNAL_VARIATION,
    SIGNAL_CORRELATION,
    SATURATED,
    DEAD,
    WEIGHT_NORM,
    UPDATE_NORM,
    UPDATE_RATIO,
    ATTENTION_ENTROPY,
    ATTENTION_LOGIT,
    TOKEN_RESIDUAL,
    QUERY_GRAD,
    VALUE_GRAD,
)


def trim_profile(profile: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The entries of a network's layers, where arrays have room for more of them.

    Args:
        profile: arrays by gauge, with the entries on the last axis.
        layers: the layers N of the network.
    """
    trimmed = {}
    for gauge in GAUGES:
        if gauge.name in profile:
            trimmed[gauge.name] = profile[gauge.name][..., : gauge.length(layers)]
    return trimmed


def gauges_at(site: Site, level: Level) -> Iterator[Gauge]:
    """The gauges that a step at this level measures at a site."""
    for gauge in GAUGES:
        if gauge.site is site and gauge.is_measured(level):
            yield gauge


def measure_at(
    site: Site,
    level: Level,
    *arguments: Any,
) -> "dict[str, Array]":
    """What the gauges of a site measure, by name.

    Args:
        site: where.
        level: the level of the step.
        *arguments: what the gauges' functions take at this site.
    """
    measured = {}
    for gauge in gauges_at(site, level):
        assert gauge.measure is not None
        measured[gauge.name] = gauge.measure(*arguments)
    return measured


def not_measured_at(
    site: Site,
    level: Level,
    dtype: Any,
) -> "dict[str, Array]":
    """NaN for the gauges of a site, by name, of a layer in which they have no meaning.

    Args:
        site: where.
        level: the level of the step.
        dtype: the number format of the values.
    """
    import jax.numpy as jnp

    return {gauge.name: jnp.full((), jnp.nan, dtype) for gauge in gauges_at(site, level)}


class MetricSource(enum.Enum):
    """When a metric has a value."""

    STEP = "every step"
    """From the step itself."""
    MEASURED_STEP = "measured steps"
    """From the gauges."""
    EVALUATION = "steps with an evaluation"
    """From the evaluation split."""
    HOST = "every step, computed on the host"
    """From the number of the step."""


@dataclass(frozen=True)
class Metric:
    """A number of a step as a whole.

    Attributes:
        name: its column in ``metrics.parquet``.
        meaning: one line for the reference page.
        key: its name in trackers.
        source: when it has a value.
        is_final: whether ``run.json`` has its final value: the mean over the last epoch, or the
            last evaluation.
    """

    name: str
    meaning: str
    key: str
    source: MetricSource = MetricSource.STEP
    is_final: bool = False


METRICS = (
    Metric(
        "train_loss",
        "Mean training loss of the step's batch before the update, with label smoothing; in nats "
        "for cross-entropy, for mse half the squared distance to the target.",
        "train/loss",
        is_final=True,
    ),
    Metric(
        "train_accuracy",
        "Accuracy on the step's batch, before the update.",
        "train/accuracy",
        is_final=True,
    ),
    Metric(
        "learning_rate",
        "Learning rate of the step, also where it was skipped; without the factor of "
        "model.parametrization on hidden weights.",
        "train/learning_rate",
    ),
    Metric(
        "loss_scale",
        "Factor on the loss in the backward pass.",
        "train/loss_scale",
    ),
    Metric(
        "skipped",
        "Whether the step left the weights as they were.",
        "train/skipped",
    ),
    Metric(
        "epoch",
        "Passes over the training examples before the step: its number over the steps of an epoch.",
        "train/epoch",
        MetricSource.HOST,
    ),
    Metric(
        "eval_loss",
        "Mean loss on the evaluation split after the step's update, without label smoothing.",
        "eval/loss",
        MetricSource.EVALUATION,
        is_final=True,
    ),
    Metric(
        "eval_accuracy",
        "Accuracy on the evaluation split after the step's update.",
        "eval/accuracy",
        MetricSource.EVALUATION,
        is_final=True,
    ),
    Metric(
        "grad_norm",
        "Norm of the gradient of all parameters, embedding and head among them: before clipping, "
        "and with the loss scale divided out.",
        "grad_norm/total",
        MetricSource.MEASURED_STEP,
    ),
)


def metric_names(source: MetricSource) -> list[str]:
    """The metrics that have a value at the same steps."""
    return [metric.name for metric in METRICS if metric.source is source]


@dataclass(frozen=True)
class Diagnostic:
    """A quantity that is measured on an interval, outside the step.

    Attributes:
        name: its column, in ``profiles.parquet`` for exponents and else in ``inspections.parquet``.
        meaning: one line for the reference page.
        shape: its shape, in the package's axis letters.
        inspection: the entry of ``measure.inspect`` that asks for it; empty for exponents, which
            ``measure=full`` counts.
        tracked: whether trackers get it: a number as ``inspect/NAME``, a profile as numbers that
            summarise it, such as ``NAME/max``.
    """

    name: str
    meaning: str
    shape: str
    inspection: str = ""
    tracked: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it is a single number rather than one for each layer."""
        return self.shape == "[]"

    @property
    def has_layers(self) -> bool:
        """Whether it is one number for each layer or for each signal."""
        return self.shape in ("[N]", "[N+1]")


INPUT_OF_BRANCH = (
    "the input of the layer's branch (after the norm before it, if there is one, and before any "
    "activation function)"
)


def _exponent_gauges() -> Iterator[Diagnostic]:
    """The same gauges of gradients, backward and of parameters, and of activations and weights."""
    for name, entries, what in (
        ("signal", "N+1", "the backward signal ∂L/∂h"),
        ("grad", "N", "the gradient of the layer's parameters"),
        ("activation", "N", INPUT_OF_BRANCH),
        ("weight", "N", "the layer's matrices (in the format of the products)"),
    ):
        shape = f"[{entries}]"
        histogram = f"[{entries}, bins]"
        elements = f"Fraction of the elements of {what}"
        is_gradient = name in ("signal", "grad")
        scaled = ", times the loss scale" if is_gradient else ""
        yield Diagnostic(f"{name}_zero", f"{elements} that are zero.", shape, tracked=is_gradient)
        yield Diagnostic(f"{name}_subnormal", f"{elements} that are subnormal.", shape)
        yield Diagnostic(f"{name}_nonfinite", f"{elements} that are not finite.", shape)
        yield Diagnostic(
            f"{name}_exponent",
            f"Histogram of ⌊log₂|element|⌋ of {what}, as fractions{scaled}.",
            histogram,
        )
        yield Diagnostic(
            f"{name}_exponent_float32",
            "The same in float32 with a loss scale of 1.",
            histogram,
        )
        yield Diagnostic(
            f"{name}_lost",
            f"Of the nonzero elements of {what} in float32, the fraction that is zero in the run's "
            "format.",
            shape,
            tracked=is_gradient,
        )


EXPONENT_GAUGES = tuple(_exponent_gauges())

# At most so many training examples, the first ones in stored order, are what a diagnostic is of.
MAX_SHARPNESS_EXAMPLES = 1024  # in whole batches, except for full batches
MAX_LANDSCAPE_EXAMPLES = 512  # that the loss around the weights is averaged over
MAX_COMPARED_EXAMPLES = 256  # whose gradients are compared or recorded one by one
MAX_PROBED_EXAMPLES = 2048  # of each split, that a linear probe is fitted to and tested on
MAX_TEXTS = 64  # whose tokens are looked at one by one


def first_examples(count: int | str, what: str = "training examples") -> str:
    """The first examples of the training data, or of another split, in words.

    Args:
        count: how many; a text if that depends on the run.
        what: what they are.
    """
    number = count if isinstance(count, str) else f"{count:,}"
    return f"the first {number} {what} in stored order"


OF_FIRST_BATCH = first_examples("train.batch_size")
OF_SHARPNESS = (
    f"{first_examples(MAX_SHARPNESS_EXAMPLES)}, as many whole batches of train.batch_size as these "
    "hold, one at least (optimizer=gd: all training examples)"
)
OF_LANDSCAPE = first_examples(MAX_LANDSCAPE_EXAMPLES)
OF_COMPARED = first_examples(MAX_COMPARED_EXAMPLES)
OF_PROBES = first_examples(MAX_PROBED_EXAMPLES)
OF_TEXTS = first_examples(MAX_TEXTS, "training texts")
DIAGNOSTICS = (
    Diagnostic(
        "sharpness",
        f"Greatest eigenvalue of the Hessian of the training loss of {OF_SHARPNESS}; by Lanczos' "
        "method.",
        "[]",
        "sharpness",
        tracked=True,
    ),
    Diagnostic(
        "sharpness_bound",
        "Greatest possible distance of the sharpness from an eigenvalue of the same Hessian.",
        "[]",
        "sharpness",
        tracked=True,
    ),
    Diagnostic(
        "preconditioned_sharpness",
        f"Greatest eigenvalue of P^(-½) H P^(-½), with the Hessian H of the training loss of "
        f"{OF_SHARPNESS}. P is the diagonal matrix by which the next update would divide if its "
        "gradient were that of these examples, clipped as in a step (adam, adamw, rmsprop, "
        "adagrad).",
        "[]",
        "preconditioned_sharpness",
        tracked=True,
    ),
    Diagnostic(
        "preconditioned_sharpness_bound",
        "Greatest possible distance of the preconditioned sharpness from an eigenvalue of the same "
        "matrix.",
        "[]",
        "preconditioned_sharpness",
        tracked=True,
    ),
    Diagnostic(
        "jacobian_spectrum",
        "Singular values of J = ∂h_N/∂h_0 at the first stored training example (mlp); in "
        "evaluation.",
        "[D]",
        "jacobian_spectrum",
    ),
    Diagnostic(
        "jacobian_distance", "Greatest |J − I| of the entries of J.", "[]", "jacobian_spectrum"
    ),
    Diagnostic(
        "gradient_correlation",
        f"Mean cosine between the gradients ∂⟨v, h_N⟩/∂h_l of two of {OF_COMPARED}, with one "
        "random v.",
        "[N+1]",
        "gradient_correlation",
        tracked=True,
    ),
    Diagnostic(
        "input_gradient",
        f"Gradient of the first output with respect to each of {OF_COMPARED}.",
        "[K, inputs]",
        "input_gradient",
    ),
    Diagnostic(
        "output_change",
        f"Root mean square of the change of the outputs for {OF_FIRST_BATCH} by one step of "
        "gradient descent on weights and token vectors (biases, norms' parameters and learned "
        "scales stay), with the gradient of these examples' loss and the rate "
        "optimizer.learning_rate.",
        "[]",
        "output_change",
    ),
    Diagnostic(
        "difference_step",
        f"Step sizes of numerical derivatives of the loss of {OF_FIRST_BATCH}, along a random "
        "direction as long as the vector of all parameters.",
        "[H]",
        "difference_errors",
    ),
    Diagnostic(
        "forward_difference_error",
        f"Relative error of the forward difference of the loss of {OF_FIRST_BATCH}, for each step "
        "size.",
        "[H]",
        "difference_errors",
    ),
    Diagnostic(
        "central_difference_error",
        f"Relative error of the central difference of the loss of {OF_FIRST_BATCH}, for each step "
        "size.",
        "[H]",
        "difference_errors",
    ),
    Diagnostic(
        "mode_error",
        "Relative difference between derivatives in forward and in reverse mode of the loss of "
        f"{OF_FIRST_BATCH}.",
        "[]",
        "difference_errors",
    ),
    Diagnostic(
        "scale_derivative",
        f"⟨W, ∂L/∂W⟩ of each layer's weight matrices W, with the loss L of {OF_FIRST_BATCH}.",
        "[N]",
        "scale_derivative",
    ),
    Diagnostic(
        "output_scale_derivative",
        f"⟨f, ∂L/∂f⟩ of the outputs f for {OF_FIRST_BATCH}.",
        "[]",
        "scale_derivative",
    ),
    Diagnostic(
        "layer_cosine",
        f"Cosine of a layer's weight matrices W and ∂L/∂W, with the loss L of {OF_FIRST_BATCH}.",
        "[N]",
        "scale_invariance",
    ),
    Diagnostic(
        "unit_cosine",
        "Greatest |cosine| of one unit's incoming weights and their part of the gradient of the "
        f"loss of {OF_FIRST_BATCH}.",
        "[N]",
        "scale_invariance",
    ),
    Diagnostic(
        "rescaling_error",
        "‖2g(2W) − g(W)‖/‖g(W)‖, where the weight matrices W of all layers, but not of embedding "
        f"and head, are doubled at once: g = ∂L/∂W with the loss L of {OF_FIRST_BATCH}.",
        "[N]",
        "scale_invariance",
    ),
    Diagnostic(
        "balance",
        "‖w_in‖² + b² − ‖w_out‖² of each unit; gradient flow conserves it in plain rectifier "
        "networks (mlp).",
        "[N+1, D]",
        "balance",
    ),
    Diagnostic(
        "parameters",
        "All parameters in the order of their paths: a point of the path of training.",
        "[P]",
        "parameters",
    ),
    Diagnostic(
        "parameter_gradient",
        "Gradient of the loss of the next step's batch with respect to all parameters, before "
        "clipping and weight decay.",
        "[P]",
        "parameters",
    ),
    Diagnostic(
        "fitted_input",
        "An even grid over the range of the training inputs, as the network reads them: 1025 "
        "points of one number, 33 × 33 of two.",
        "[K, inputs]",
        "fitted_function",
    ),
    Diagnostic(
        "fitted_output",
        "Outputs of the network at these points; in evaluation.",
        "[K, outputs]",
        "fitted_function",
    ),
    Diagnostic(
        "variance_batch_size",
        "Batch sizes whose gradients are compared: 1, 2, 4, … 256.",
        "[K]",
        "gradient_variance",
    ),
    Diagnostic(
        "gradient_variance",
        "Mean over 64 random batches of ‖g_B − g‖², with g_B the gradient of a batch that is drawn "
        f"with replacement from {OF_COMPARED}, and g that of all of these.",
        "[K]",
        "gradient_variance",
    ),
    Diagnostic(
        "masked_output_mean",
        "Mean of the outputs for the first stored training example over 10⁴ random masks (dropout, "
        "random skips).",
        "[C]",
        "masked_outputs",
    ),
    Diagnostic("masked_output_error", "Standard error of that mean.", "[C]", "masked_outputs"),
    Diagnostic(
        "unmasked_output",
        "The outputs for the first stored training example without masks; in evaluation.",
        "[C]",
        "masked_outputs",
    ),
    Diagnostic(
        "probe_error",
        f"Share of {OF_PROBES} that a linear probe puts into a wrong class. It is fitted to these, "
        "and reads each signal as the head would read it.",
        "[N+1]",
        "probes",
        tracked=True,
    ),
    Diagnostic(
        "probe_eval_error",
        f"Share of {first_examples(MAX_PROBED_EXAMPLES, 'evaluation examples')} that a linear "
        "probe of each signal, fitted to as many training examples, puts into a wrong class; NaN "
        "where examples are streamed.",
        "[N+1]",
        "probes",
        tracked=True,
    ),
    Diagnostic(
        "class_spread",
        f"Variance within classes over that between them of {OF_PROBES}, of each signal as the "
        "head would read it.",
        "[N+1]",
        "probes",
        tracked=True,
    ),
    Diagnostic(
        "representation",
        f"First two principal components of each signal of {OF_COMPARED}, as the head would read "
        "it.",
        "[N+1, K, 2]",
        "representations",
    ),
    Diagnostic("representation_class", "Their classes.", "[K]", "representations"),
    Diagnostic(
        "feature_maps",
        "The signals of the first stored training example: what each layer makes of it (mlp, cnn); "
        "in evaluation.",
        "[N+1, …]",
        "feature_maps",
    ),
    Diagnostic(
        "shown_example",
        "The first stored training example as the network reads it.",
        "[…]",
        "feature_maps",
    ),
    Diagnostic(
        "surface_coordinate",
        "Coordinates of the loss surface, in units of the norm of each filter.",
        "[A]",
        "loss_surface",
    ),
    Diagnostic(
        "surface_loss",
        f"Training loss of {OF_LANDSCAPE}, on a plane of two random filter-normalised directions.",
        "[A, A]",
        "loss_surface",
    ),
    Diagnostic(
        "line_loss",
        f"Training loss of {OF_LANDSCAPE}, along four more random filter-normalised directions.",
        "[4, A]",
        "loss_surface",
    ),
    Diagnostic(
        "interpolation_loss",
        f"Training loss of {OF_LANDSCAPE}, at 26 points on the straight line from the initial to "
        "the present weights.",
        "[A]",
        "interpolation",
    ),
    Diagnostic(
        "coordinate_change",
        f"Root mean square of the change of each signal of {OF_FIRST_BATCH} since initialisation; "
        "in evaluation.",
        "[N+1]",
        "coordinate_change",
        tracked=True,
    ),
    Diagnostic(
        "output_coordinate_change",
        f"Root mean square of the change of the outputs for {OF_FIRST_BATCH} since initialisation; "
        "in evaluation.",
        "[]",
        "coordinate_change",
        tracked=True,
    ),
    Diagnostic(
        "hessian_eigenvalues",
        f"Eigenvalues of the Hessian of the training loss of {OF_LANDSCAPE}; by Lanczos' method.",
        "[m]",
        "hessian_spectrum",
    ),
    Diagnostic(
        "hessian_weights",
        "The share of all eigenvalues that each of them stands for.",
        "[m]",
        "hessian_spectrum",
    ),
    Diagnostic(
        "saddle_loss",
        f"Training loss of {OF_LANDSCAPE}, on the plane of the directions of least and greatest "
        "curvature, at distances from −1 to 1.",
        "[A, A]",
        "hessian_spectrum",
    ),
    Diagnostic(
        "token_spread",
        "Norm of a text's token vectors minus their mean over that of the vectors, of each signal: "
        f"mean over {OF_TEXTS}.",
        "[N+1]",
        "tokens",
        tracked=True,
    ),
    Diagnostic(
        "token_gradient",
        "Norm of the gradient of a text's loss with respect to each token's vector, of "
        f"{OF_TEXTS}.",
        "[K, T]",
        "tokens",
    ),
    Diagnostic("token_mask", f"1 at tokens, 0 at padding, of {OF_TEXTS}.", "[K, T]", "tokens"),
    Diagnostic(
        "padding_effect",
        f"Greatest change of an output for {OF_TEXTS} where random numbers replace the padding.",
        "[]",
        "tokens",
    ),
    Diagnostic(
        "stream_mixing",
        "Matrix by which each layer mixes n residual streams, as it is used (hyper, mhc).",
        "[N, n, n]",
        "stream_mixing",
    ),
    Diagnostic(
        "unclipped_norm",
        f"Norm of the gradient of the loss of {OF_FIRST_BATCH}, before clipping. The gradient of "
        "the step's own batch is grad_norm.",
        "[]",
        "clipping",
    ),
    Diagnostic(
        "clipped_norm",
        f"Norm of the gradient of the loss of {OF_FIRST_BATCH}, after clipping.",
        "[]",
        "clipping",
    ),
    Diagnostic(
        "clipping_cosine",
        f"Cosine of the gradient of the loss of {OF_FIRST_BATCH} before and after clipping.",
        "[]",
        "clipping",
    ),
    Diagnostic(
        "exact_gradient_norm",
        "Norm of the gradient of the loss of the next step's batch in float32.",
        "[]",
        "quantization_noise",
    ),
    Diagnostic(
        "quantized_gradient_norm",
        "Norm of the mean of 32 gradients of the next step's batch that the run's format rounds at "
        "random.",
        "[]",
        "quantization_noise",
        tracked=True,
    ),
    Diagnostic(
        "quantization_noise",
        "Root of the mean squared distance of 32 gradients of the next step's batch, which the "
        "run's format rounds at random, from their mean.",
        "[]",
        "quantization_noise",
        tracked=True,
    ),
    Diagnostic(
        "quantization_bias",
        "Distance of the mean of such gradients of the next step's batch from the one in float32.",
        "[]",
        "quantization_noise",
    ),
    Diagnostic(
        "noisy_step_share",
        "By how much a step of the best size along the gradient with this noise lowers the loss of "
        "the next step's batch, over what a step along the gradient does.",
        "[]",
        "quantization_noise",
    ),
)


TRACKED_GAUGES = tuple(gauge for gauge in GAUGES if gauge.tracked)
TRACKED_DIAGNOSTICS = tuple(
    diagnostic for diagnostic in (*EXPONENT_GAUGES, *DIAGNOSTICS) if diagnostic.tracked
)


def _names_of_signals() -> frozenset[str]:
    names = []
    for gauge in GAUGES:
        if gauge.entries is Entries.SIGNALS:
            names.append(gauge.name)
    for diagnostic in (*EXPONENT_GAUGES, *DIAGNOSTICS):
        if diagnostic.shape.startswith("[N+1"):
            names.append(diagnostic.name)
    return frozenset(names)


OF_SIGNALS = _names_of_signals()
"""The columns of a record with an entry for each signal [N+1]; others have one for each layer."""
