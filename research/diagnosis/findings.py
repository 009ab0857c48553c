"""Findings: what is wrong with a run, each with its evidence. The table of kinds is declared here.

The order of ``KINDS`` is the order in which findings are named: a kind that explains others comes
before them. The documentation, the colours of tables and the settings that stop a run follow from
the table.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LayerRange = tuple[int, int]  # the first and the last layer


class Severity(enum.Enum):
    """How much a finding matters."""

    note = 0
    """Worth knowing; nothing is wrong."""
    warning = 1
    """Training may suffer, or suffered for a while."""
    severe = 2
    """The run cannot train as it is. The verdict is named after the first severe finding."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        name: as in ``run.json``.
        title: the first words of its sentence.
        meaning: one line for the documentation.
        severity: how much it matters, unless the finding says otherwise.
        source: where the criterion comes from.
    """

    name: str
    title: str
    meaning: str
    severity: Severity
    source: str


INPUTS = Kind(
    "inputs",
    "Inputs",
    "The training inputs are constant or not finite; under `fathom.watch`, the arguments of the "
    "loss other than its parameters are all zero, or not finite when numbers stop being finite.",
    Severity.severe,
    "mean square of the inputs",
)
DIVERGED = Kind(
    "diverged",
    "Diverged",
    "Numbers stop being finite, at a step, in a layer: activations, gradients or parameters first.",
    Severity.severe,
    "IEEE 754",
)
FORWARD_UNDERFLOW = Kind(
    "forward_underflow",
    "Forward underflow",
    "The forward signal of the upper layers is below the smallest numbers of the format.",
    Severity.severe,
    "Micikevicius et al., Mixed precision training, 2018",
)
UNDERFLOW = Kind(
    "underflow",
    "Underflow",
    "The number format, not the network, turned more than a tenth of a layer's gradient to zero.",
    Severity.severe,
    "Micikevicius et al., Mixed precision training, 2018",
)
OVERFLOW = Kind(
    "overflow",
    "Overflow",
    "The gradient times the loss scale is not finite at most of the last steps, which are skipped.",
    Severity.severe,
    "Micikevicius et al., Mixed precision training, 2018",
)
DEAD = Kind(
    "dead",
    "Dead",
    "The gradient is exactly zero, from the last layer or from a layer on.",
    Severity.severe,
    "Lu et al., Dying ReLU and initialization, 2019",
)
VANISHING = Kind(
    "vanishing",
    "Vanishing",
    "Layers get less than 1/10⁴ of the squared gradient of the last layer.",
    Severity.severe,
    "Schoenholz et al., Deep information propagation, 2017",
)
EXPLODING = Kind(
    "exploding",
    "Exploding",
    "Layers get more than 10⁴ times the squared gradient of the last layer; a warning where the "
    "run learns all the same.",
    Severity.severe,
    "Schoenholz et al., Deep information propagation, 2017",
)
COLLAPSED = Kind(
    "collapsed",
    "Collapsed",
    "The last layer hardly tells examples apart: less than 10⁻⁴ of its signal differs "
    "(`measure=full`).",
    Severity.severe,
    "Poole et al., Exponential expressivity, 2016; Dong et al., Attention is not all you need, "
    "2021",
)
NOT_LEARNING = Kind(
    "not_learning",
    "Not learning",
    "After 100 steps or more, the training loss is still that of chance.",
    Severity.severe,
    "loss of the best constant prediction",
)
SLOW_DIVERGENCE = Kind(
    "slow_divergence",
    "Slow divergence",
    "The training loss fell, and later rose without a jump by more than half of what it had fallen "
    "below that of chance.",
    Severity.severe,
    "Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, 2023",
)
DEAD_UNITS = Kind(
    "dead_units",
    "Dead units",
    "More than three quarters of a layer's units are zero for every example (`measure=full`).",
    Severity.warning,
    "Lu et al., Dying ReLU and initialization, 2019",
)
SATURATED = Kind(
    "saturated",
    "Saturated",
    "More than 80 % of a layer's elements (units × examples) are on the flat part of a bounded "
    "activation (`measure=full`).",
    Severity.warning,
    "Glorot & Bengio, Understanding the difficulty of training deep networks, 2010",
)
UPDATE_RATIO = Kind(
    "update_ratio",
    "Update ratio",
    "A step changes the weights of half of the layers by more than 10 % of their norm, of all "
    "layers by less than 10⁻⁶ of it, or of a layer not at all although it gets a gradient "
    "(`measure=full`).",
    Severity.warning,
    "You et al., Large batch training of convolutional networks, 2017",
)
HIDDEN_GRADIENT = Kind(
    "hidden_gradient",
    "Hidden gradient",
    "The gradient of layers is smaller than the optimizer's ε, which then sets their step.",
    Severity.warning,
    "Kingma & Ba, Adam, 2015, section 2",
)
SPIKE = Kind(
    "spike",
    "Loss spike",
    "The training loss jumps far above the losses before; severe where it has not come back.",
    Severity.warning,
    "Chowdhery et al., PaLM, 2022, section 5.1",
)
OVERFITTING = Kind(
    "overfitting",
    "Overfitting",
    "The held-out loss rose by 15 % above its minimum, and the training loss is below half of it.",
    Severity.warning,
    "Prechelt, Early stopping, 1998",
)
EDGE_OF_STABILITY = Kind(
    "edge_of_stability",
    "Edge of stability",
    "The measured sharpness is within 20 % of the largest that the learning rate allows.",
    Severity.note,
    "Cohen et al., Gradient descent at the edge of stability, 2021",
)
FITTED = Kind(
    "fitted",
    "Fitted",
    "The training data are fitted, and gradients are small because the loss is.",
    Severity.note,
    "training loss against that of chance",
)
NOT_MEASURED = Kind(
    "not_measured",
    "Not measured",
    "The number format has a narrow range, and nothing says what it loses.",
    Severity.note,
    "smallest number of the format",
)
SUMMED = Kind(
    "summed",
    "Summed over a loop",
    "Layers in a loop, such as a recurrent cell, were measured as sums over its iterations, so "
    "what fades or grows from one to the next is not seen (`fathom.watch`).",
    Severity.note,
    "loops of the traced loss",
)

KINDS = (
    INPUTS,
    DIVERGED,
    FORWARD_UNDERFLOW,
    UNDERFLOW,
    OVERFLOW,
    DEAD,
    VANISHING,
    EXPLODING,
    COLLAPSED,
    NOT_LEARNING,
    SLOW_DIVERGENCE,
    DEAD_UNITS,
    SATURATED,
    UPDATE_RATIO,
    HIDDEN_GRADIENT,
    SPIKE,
    OVERFITTING,
    EDGE_OF_STABILITY,
    FITTED,
    NOT_MEASURED,
    SUMMED,
)
EVENTS = (SPIKE,)  # kinds that are over at once
HEALTHY = "healthy"


@dataclass(frozen=True)
class Remedy:
    """Something to try.

    Attributes:
        change: overrides for the command line, such as ``skip=inv_sqrt_depth``; a phrase where no
            setting does it.
        source: why it should help.
        note: what to say behind the first setting, such as its present value.
    """

    change: str
    source: str
    note: str = ""

    @property
    def is_setting(self) -> bool:
        """Whether the change can be typed on the command line."""
        return "=" in self.change

    @property
    def words(self) -> str:
        """The change for a sentence: several settings are joined by ``and``."""
        return " and ".join(self.change.split()) if self.is_setting else self.change

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        if not self.is_setting:
            return f"{self.change}{note}"
        first, *others = self.change.split()
        return " and ".join([f"{first}{note}", *others])


@dataclass(frozen=True)
class Finding:
    """Something that was found in a run.

    Attributes:
        kind: what it is.
        severity: how much it matters.
        text: the explanation in words, without the kind.
        first_step: the step from which on it holds.
        last_step: the last step at which it holds; None where it lasts until the end.
        layers: where it holds: ranges of layers, counted from 0, in ascending order.
        evidence: numbers by name.
        cause: why, in words; empty where it is not known.
        remedies: what to try, the most promising first.
        origin: the layer that alone causes it; None where no single layer does.
    """

    kind: Kind
    severity: Severity
    text: str
    first_step: int | None = None
    last_step: int | None = None
    layers: Sequence[LayerRange] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""
    remedies: Sequence[Remedy] = ()
    origin: int | None = None

    @property
    def is_severe(self) -> bool:
        """Whether the verdict may be named after it."""
        return self.severity is Severity.severe

    @property
    def sentence(self) -> str:
        """The finding in words, without advice."""
        is_over = self.last_step is not None and self.kind not in EVENTS
        title = f"{self.kind.title} until step {self.last_step}" if is_over else self.kind.title
        return f"{title}: {self.text}"

    @property
    def advice(self) -> str:
        """The cause and what to try, in words; empty without remedies."""
        if not self.remedies:
            return ""
        changes = [str(remedy) for remedy in self.remedies]
        tries = f"try {join_choices(changes)}."
        return f"{self.cause}: {tries}" if self.cause else f"{tries[:1].upper()}{tries[1:]}"

    def as_dict(self) -> dict[str, Any]:
        """The entry of ``run.json``."""
        remedies = []
        for remedy in self.remedies:
            entry = {"change": remedy.change, "source": remedy.source}
            remedies.append(entry)
        return {
            "kind": self.kind.name,
            "severity": self.severity.name,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "layers": [list(layers) for layers in self.layers],
            "origin": self.origin,
            "evidence": dict(self.evidence),
            "sentence": self.sentence,
            "source": self.kind.source,
            "advice": self.advice,
            "remedies": remedies,
        }


def order_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, then in the order of ``KINDS``."""

    def sort_key(finding: Finding) -> tuple[int, int]:
        return -finding.severity.value, KINDS.index(finding.kind)

    return sorted(findings, key=sort_key)


def join_choices(choices: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    *others, last = choices
    if not others:
        return last
    return f"{', '.join(others)} or {last}"
