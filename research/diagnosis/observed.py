"""What a run has measured so far, apart from the gradient over depth, as the detectors read it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from research.gauges.numbering import layer_with_input, layer_with_output
from research.gauges.table import ACTIVATION_RMS, GRAD_NORM, SIGNAL_GRAD

Columns = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]
Profile = Mapping[str, np.ndarray]

LEAST_ROWS = 5  # that a mean over the end of a run takes
SHARE_OF_END = 10  # the end is the last tenth
# Shares of the loss of chance. Both losses are counted from the least possible one.
LEARNED = 0.5  # a run whose loss is below this share of chance learns
FITTED = 0.02  # a run whose loss is below this share of chance has fitted its data
FORGOTTEN = 0.9  # a run at chance whose loss was below this share of it has learned something
# The cross-entropy of chance among three million classes, in nats. The first loss of a network
# whose signal explodes may be far above it, and then fall a lot while nothing is learned.
LARGEST_CHANCE_LOSS = 15.0


# The gauges in the order in which a number that is not finite is looked for.
QUANTITIES = {
    ACTIVATION_RMS.name: "activation",
    SIGNAL_GRAD.name: "gradient",
    GRAD_NORM.name: "parameter gradient",
}
EMBEDDING = "the embedding"
HEAD = "the head"


class Divergence(NamedTuple):
    """The first number that is not finite.

    Attributes:
        step: its step.
        layer: the layer that computed it; None where that is not known, or no layer.
        quantity: ``activation``, ``gradient`` or ``parameter gradient``; empty if not known.
        part: ``EMBEDDING`` or ``HEAD``, where one of them computed it.
    """

    step: int
    layer: int | None = None
    quantity: str = ""
    part: str = ""


def find_divergence(step: int, profile: Mapping[str, np.ndarray]) -> Divergence:
    """Which number of a step first stopped being finite, and which layer computed it.

    It is the first activation in forward order, else the first gradient in backward order.

    Args:
        step: the step.
        profile: its gauges, each [N] or [N+1].
    """
    for gauge, quantity in QUANTITIES.items():
        values = profile.get(gauge, np.zeros(0))
        entries = np.flatnonzero(~np.isfinite(values))
        if not len(entries):
            continue
        first = int(entries[0])
        last = int(entries[-1])
        if quantity == "activation":
            layer = layer_with_output(first)
            return Divergence(step, layer, quantity, EMBEDDING if layer is None else "")
        if quantity == "gradient":
            layer = layer_with_input(last, len(profile[gauge]) - 1)
            return Divergence(step, layer, quantity, HEAD if layer is None else "")
        return Divergence(step, last, quantity)
    return Divergence(step)


@dataclass(frozen=True)
class Theory:
    """What mean-field theory predicts at initialisation.

    Attributes:
        factor: the factor on the squared gradient per layer.
        margin: by how much 95 % of networks of this width may differ from it.
        is_unstable: whether the fixed point of the signal's variance is unstable, so that the
            finite width of the first layer alone can change the factor.
    """

    factor: float
    margin: float = 0.0
    is_unstable: bool = False


@dataclass(frozen=True)
class Inputs:
    """The arguments of a loss that are not its parameters, such as the batch.

    Attributes:
        step: the first step at which they are as below.
        largest: their largest magnitude; infinite if one of them is not finite.
    """

    step: int
    largest: float


@dataclass(frozen=True)
class Observed:
    """The measurements of a run so far.

    Attributes:
        metrics: columns over all steps, ``step`` among them. Missing values are masked.
        profiles: gauges over the measured steps, ``step`` among them.
        exponents: what the number format lost, by the step at which it was counted.
        sharpness: the greatest eigenvalue of the Hessian by step.
        format_: the narrowest format that signals and gradients pass through.
        chance_loss: the loss of the best constant prediction; None where it is not known.
        least_loss: the least possible training loss, which is not 0 with label smoothing.
        class_entropy: the loss of the best constant prediction without label smoothing; None where
            it is ``chance_loss``.
        signal_elements: the numbers of a signal h_l over the batch; None where it is not known.
        layer_parameters: the parameters of a layer; None where they are not known.
        input_mean_square: the mean square of the training inputs; None where it is not known.
        bad_inputs: the inputs of a loop that are all zero, or not finite from a step on; None where
            there are none.
    """

    metrics: Columns = field(default_factory=dict)
    profiles: Columns = field(default_factory=dict)
    exponents: Mapping[int, Profile] = field(default_factory=dict)
    sharpness: Mapping[int, float] = field(default_factory=dict)
    format_: str = "float32"
    chance_loss: float | None = None
    least_loss: float = 0.0
    class_entropy: float | None = None
    signal_elements: int | None = None
    layer_parameters: int | None = None
    input_mean_square: float | None = None
    bad_inputs: Inputs | None = None

    @property
    def num_steps(self) -> int:
        """The steps of the run so far."""
        steps = self.metrics.get("step", np.zeros(0, int))
        return int(steps[-1]) + 1 if len(steps) else 0

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps at which a metric has a finite value, and these values, both [T]."""
        column = self.metrics.get(name)
        if column is None or not len(column):
            return np.zeros(0, int), np.zeros(0)
        masked = np.ma.asarray(column, dtype=np.float64)
        values = np.ma.filled(masked, np.nan)
        is_known = np.isfinite(values)
        steps = np.asarray(self.metrics["step"])
        return steps[is_known], values[is_known]

    def end_of(self, name: str) -> float | None:
        """The mean of a metric over the last tenth of its values; None without values."""
        _, values = self.series(name)
        if not len(values):
            return None
        return float(np.mean(values[-end_rows(len(values)) :]))

    def steps_at_end(self, name: str) -> int:
        """How many steps the last tenth of a metric's values spans; 0 without values."""
        steps, _ = self.series(name)
        if not len(steps):
            return 0
        first = steps[-end_rows(len(steps))]
        return int(steps[-1] - first) + 1

    def value_at(self, name: str, step: int) -> float | None:
        """The mean of a metric over some steps around ``step``; None without values."""
        steps, values = self.series(name)
        if not len(values):
            return None
        row = int(np.searchsorted(steps, step))
        first = max(0, min(row, len(values) - 1) - LEAST_ROWS)
        return float(np.mean(values[first : row + LEAST_ROWS + 1]))

    @property
    def reference_loss(self) -> float | None:
        """The loss of chance; where it is not known, that of the first step."""
        if self.chance_loss is not None:
            return self.chance_loss
        return self.first_loss

    @property
    def chance_accuracy(self) -> float:
        """exp(−H) of the entropy H of the classes, which the accuracy of chance is not below.

        0 where the loss of chance is not known.
        """
        entropy = self.chance_loss if self.class_entropy is None else self.class_entropy
        return 0.0 if entropy is None else math.exp(-entropy)

    @property
    def first_loss(self) -> float | None:
        """The training loss of the first step; None without losses."""
        _, values = self.series("train_loss")
        return float(values[0]) if len(values) else None

    @property
    def loss_without_learning(self) -> float | None:
        """The training loss of a network that has learned nothing; None where it is not known.

        It is the loss of chance. Where that is not known, it is the loss of the first step, unless
        this is larger than that of chance can be.
        """
        loss = self.reference_loss
        if loss is None or loss <= self.least_loss:
            return None
        is_plausible = self.chance_loss is not None or loss <= LARGEST_CHANCE_LOSS
        return loss if is_plausible else None

    def is_fitted(self, step: int | None = None) -> bool:
        """Whether the training data are fitted, at the end or around a step."""
        return self._share_of_loss_without_learning(step) <= FITTED

    def has_learned(self) -> bool:
        """Whether the training loss at the end is half of that without learning, or less.

        False where it is not known what the loss is without learning.
        """
        return self._share_of_loss_without_learning() <= LEARNED

    def _share_of_loss_without_learning(self, step: int | None = None) -> float:
        """The training loss at the end or around a step, as a share; NaN if unknown.

        Both losses are counted from the least possible one.
        """
        reference = self.loss_without_learning
        loss = self.end_of("train_loss") if step is None else self.value_at("train_loss", step)
        if loss is None or reference is None:
            return math.nan
        return (loss - self.least_loss) / (reference - self.least_loss)

    def unsmoothed(self, loss: float) -> float:
        """The loss without label smoothing that is the same share of that of chance as ``loss``.

        Args:
            loss: a training loss, with the label smoothing of the run.
        """
        if not self.least_loss or self.chance_loss is None or self.class_entropy is None:
            return loss
        learnable = self.chance_loss - self.least_loss
        return (loss - self.least_loss) / learnable * self.class_entropy

    def last_rows(self, gauge: str) -> np.ndarray | None:
        """The mean of a gauge over the last tenth of the measured steps, [layers]."""
        values = self.profiles.get(gauge)
        if values is None or not len(values):
            return None
        rows = np.asarray(values, np.float64)
        return rows[-end_rows(len(rows)) :].mean(axis=0)


def end_rows(count: int) -> int:
    """How many of ``count`` rows are the end: a tenth of them, and some."""
    return min(count, max(LEAST_ROWS, count // SHARE_OF_END))


@dataclass(frozen=True)
class LossBounds:
    """What the training loss of a run is compared with.

    Attributes:
        chance: the loss of the best constant prediction; None where it is not known.
        least: the least possible loss.
        class_entropy: the loss of the best constant prediction without label smoothing; None where
            it is not known.
    """

    chance: float | None = None
    least: float = 0.0
    class_entropy: float | None = None


def loss_bounds(
    counts: Sequence[int] | None,
    classes: int,
    label_smoothing: float = 0.0,
) -> LossBounds:
    """The cross-entropy of chance and the least possible one, in nats.

    With label smoothing s, the target of an example of class k among C is
    t_k = (1 − s)·onehot(k) + s/C. The loss −Σ t_k·ln q of a prediction q is the entropy H(t_k) plus
    the relative entropy of t_k and q. So it is at least H(t_k), which is the same for all k. A
    constant prediction q has the mean loss −Σ t·ln q, with the mean target t = (1 − s)·p + s/C and
    the frequencies p of the classes. It is least for q = t, where it is H(t). Without label
    smoothing, these losses are 0 and the entropy of the classes.

    Args:
        counts: training targets of each class; None if they are not known.
        classes: the classes C.
        label_smoothing: s.

    References:
        Szegedy et al., Rethinking the Inception architecture for computer vision, 2016, eq. 3.
    """
    one_hot = [1, *[0] * (classes - 1)]
    least = _target_entropy(one_hot, label_smoothing)
    class_entropy = _target_entropy(counts or [], 0.0)
    if not counts or not class_entropy:
        return LossBounds(least=least)
    chance = _target_entropy(counts, label_smoothing)
    return LossBounds(chance, least, class_entropy)


def _target_entropy(counts: Sequence[int], label_smoothing: float) -> float:
    """The entropy of the mean target in nats, of classes that occur ``counts`` times."""
    total = sum(counts)
    if not total:
        return 0.0
    entropy = 0.0
    for count in counts:
        frequency = (1 - label_smoothing) * (count / total) + label_smoothing / len(counts)
        if frequency:
            entropy -= frequency * math.log(frequency)
    return entropy
