"""What to try, depending on what happened; never what the run already uses.

Each rule looks at the kind of finding, at whether it held at initialisation or came with training,
at the settings and at the number format. A change of the network whose own predicted factor per
layer is bad is not offered.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from research.config.options import Precision
from research.config.schema import OPTIONS, selector_of
from research.diagnosis import findings
from research.diagnosis.depth import BAND
from research.diagnosis.findings import Finding, Remedy
from research.diagnosis.observed import FORGOTTEN, Settings
from research.diagnosis.prediction import factor_with, parse_value, with_change
from research.diagnosis.underflow import NARROW_RANGE

MOST_REMEDIES = 3
KEPT_SHARE = 0.5  # of the band's logarithm that a remedy's own prediction may use
LARGEST_GAIN_CHANGE = 4.0
BISECTIONS = 20
SMALLER_RATE = 10.0
FARTHEST_RATE = 1000.0  # times the present one, unless the usual one is farther away
LARGE_RATE = 0.1  # for activations with slope 1
DECAYED = 0.3  # nats by which weight decay has shrunk the weights
GOOD_UPDATE = 1e-3
USUAL_RATES = {
    "gd": 0.1,
    "sgd": 0.1,
    "adagrad": 0.01,
    "adam": 0.001,
    "adamw": 0.001,
    "rmsprop": 0.001,
    "lion": 0.0001,
}
RATES = ("optimizer.learning_rate", "optimizer.end_value")
USUAL_RANGE = 3.0  # a rate that differs from the usual one by more is suspected first
TINY_RATE = 1 / 30  # of the usual rate, below which some hundred updates hardly change a network
RISEN = 1.5  # times the learning rate at the lowest loss, from which on it is blamed
JUMPED = 1.3  # times the loss of chance
NOTICED_SCALE = 1.2  # a scale of the initial weights that differs by more is named as a cause
SAME_FACTOR = 0.01  # a change of the network that changes the factor by less does nothing

NETWORK_GROUPS = frozenset(("model", "skip", "norm", "activation", "init"))

STABLE_RESNET = "Hayou et al., Stable ResNet, 2021"
HE = "He et al., Delving deep into rectifiers, 2015"
ISOMETRY = "Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014"
CRITICAL = "Schoenholz et al., Deep information propagation, 2017"
GLOROT = "Glorot & Bengio, Understanding the difficulty of training deep networks, 2010"
LAYER_NORM = "Ba et al., Layer normalization, 2016"
IDENTITY = "He et al., Identity mappings in deep residual networks, 2016"
HIGHWAY = "Srivastava et al., Highway networks, 2015"
REZERO = "Bachlechner et al., ReZero, 2020"
EDGE = "Cohen et al., Gradient descent at the edge of stability, 2021"
CLIPPING = "Pascanu et al., On the difficulty of training recurrent networks, 2013"
WARMUP = "Goyal et al., Accurate, large minibatch SGD, 2017"
ADAM = "Kingma & Ba, Adam, 2015"
DYING = "Lu et al., Dying ReLU and initialization, 2019"
LOSS_SCALING = "Micikevicius et al., Mixed precision training, 2018"
BFLOAT16 = "Kalamkar et al., A study of bfloat16 for deep learning training, 2019"
FLOAT8 = "Micikevicius et al., FP8 formats for deep learning, 2022"
FLOAT4 = "Chmiel et al., FP4 all the way: fully quantized training of LLMs, 2025"
LARS = "You et al., Large batch training of convolutional networks, 2017"
NOISE = "Bishop, Training with noise is equivalent to Tikhonov regularization, 1995"
DROPOUT = "Srivastava et al., Dropout, 2014"
COSINE = "Loshchilov & Hutter, SGDR, 2017"
DECAY = "Krogh & Hertz, A simple weight decay can improve generalization, 1992"


@dataclass(frozen=True)
class Situation:
    """What advice depends on.

    Attributes:
        finding: what was found.
        settings: the run's configuration by dotted path.
        start: the first measured step.
        others: the names of the other kinds that were found.
        initial_others: those of them that held at the first step already.
        quantity: of a divergence, what was not finite first.
        was_healthy: whether the gradient over depth was healthy at the first measured step.
    """

    finding: Finding
    settings: Settings
    start: int = 0
    others: Sequence[str] = ()
    initial_others: Sequence[str] = ()
    quantity: str = ""
    was_healthy: bool = True

    @property
    def is_initial(self) -> bool:
        """Whether it held before the first update, so that the initialisation is the cause."""
        return self.finding.first_step == self.start

    def blames_network(self, kind: findings.Kind) -> bool:
        """Whether another kind was found that the network explains, and not the updates."""
        if kind.name not in self.others:
            return False
        return kind.name in self.initial_others or not keeps_gradient(self.settings, "")

    @property
    def has_skips(self) -> bool:
        """Whether the network has shortcuts."""
        return self.settings.get("skip.kind", "none") != "none"

    @functools.cached_property
    def critical(self) -> Remedy | None:
        """The critical scale of the initial weights, as ``critical_gain`` has it."""
        return critical_gain(self.settings)

    @property
    def depth(self) -> int:
        """The layers of the network."""
        return int(self.settings.get("model.depth") or 1)

    @property
    def is_narrow(self) -> bool:
        """Whether the number format has a narrow range."""
        return self.settings.get("precision.kind") in NARROW_RANGE


@dataclass(frozen=True)
class Advice:
    """The likely cause in words, and what to try."""

    cause: str
    remedies: Iterator[Remedy]


def advise(situation: Situation, advised: Sequence[Remedy] = ()) -> Finding:
    """The finding with its cause and at most three remedies.

    A finding of an earlier part of the run, and a note, get none. A change that contradicts one
    that is advised already is left out.

    Args:
        situation: the finding and what its advice depends on.
        advised: what findings before this one advise.
    """
    finding = situation.finding
    rule = RULES.get(finding.kind)
    is_over = finding.last_step is not None and finding.kind is not findings.SPIKE
    if rule is None or is_over or finding.severity is findings.Severity.note:
        return finding
    advice = _advise_single_layer(situation) or rule(situation)
    remedies = []
    blames_rate = False
    for offered in advice.remedies:
        remedy = with_usual_rate(offered, situation.settings)
        is_new = not is_set(remedy.change, situation.settings) and remedy not in remedies
        if is_new and not contradicts(remedy, [*advised, *remedies], situation.settings):
            remedies.append(remedy)
            blames_rate = blames_rate or remedy != offered
        if len(remedies) == MOST_REMEDIES:
            break
    cause = advice.cause
    if blames_rate:
        rate = peak_rate(situation.settings)
        cause = f"{cause}, and a learning rate of {rate:g} teaches no network anything"
    return dataclasses.replace(finding, cause=cause, remedies=remedies)


def _advise_single_layer(situation: Situation) -> Advice | None:
    """Advice where the layer that causes a finding is the one that ``init.layer`` names."""
    settings = situation.settings
    layer = settings.get("init.layer")
    gain = settings.get("init.layer_gain")
    if layer is None or layer != situation.finding.origin or not situation.is_initial:
        return None
    cause = f"The initial weights of layer {layer} are multiplied by {gain:g}"
    return Advice(cause, iter([Remedy("init.layer_gain=1", HE)]))


def with_usual_rate(remedy: Remedy, settings: Settings) -> Remedy:
    """A change of the network, together with the usual learning rate where the present one is tiny.

    Whatever the network is, it cannot learn at such a rate.

    Args:
        remedy: the change; one of the updates stays as it is.
        settings: the run's configuration by dotted path.
    """
    rate = peak_rate(settings)
    usual = _usual_rate(settings)
    changes_network = _groups_of(remedy) <= NETWORK_GROUPS
    if rate >= TINY_RATE * usual or not changes_network:
        return remedy
    change = f"{remedy.change} optimizer.learning_rate={usual:g}"
    return dataclasses.replace(remedy, change=change)


def contradicts(remedy: Remedy, advised: Sequence[Remedy], settings: Settings) -> bool:
    """Whether a change raises a number that another one lowers, or the other way round.

    Args:
        remedy: the change.
        advised: the other changes.
        settings: the run's configuration by dotted path.
    """
    is_raised = _raised_numbers(remedy, settings)
    for other in advised:
        is_raised_by_other = _raised_numbers(other, settings)
        for path in is_raised.keys() & is_raised_by_other.keys():
            if is_raised[path] != is_raised_by_other[path]:
                return True
    return False


def _raised_numbers(remedy: Remedy, settings: Settings) -> dict[str, bool]:
    """Whether each number that a change sets becomes larger, by the path of the setting.

    The learning rates of two optimizers say nothing of each other, so a change of the optimizer
    neither raises nor lowers its numbers. Of a schedule, the greatest learning rate counts.
    """
    overrides = dict(word.split("=", 1) for word in remedy.change.split() if "=" in word)
    if "optimizer" in overrides:
        return {}
    is_raised = {}
    for path, value in overrides.items():
        now = settings.get(path)
        new: Any = parse_value(value)
        if path in RATES:
            path = "optimizer.learning_rate"
            now = peak_rate(settings)
            new = peak_rate(with_change(settings, remedy.change))
        if _is_number(now) and _is_number(new) and new != now:
            is_raised[path] = new > now
    return is_raised


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_set(change: str, settings: Settings) -> bool:
    """Whether a run already has all overrides of a change; a phrase is never set."""
    for override in change.split():
        path, _, value = override.partition("=")
        if path in OPTIONS:
            path = f"{path}.{selector_of(path)}"
        if not value or not _has_value(settings.get(path), value):
            return False
    return True


def _has_value(current: object, value: str) -> bool:
    if isinstance(current, bool):
        return str(current).lower() == value
    if isinstance(current, int | float):
        try:
            return math.isclose(current, float(value))
        except ValueError:
            return False
    return str(current) == value


def keeps_gradient(settings: Settings, change: str) -> bool:
    """Whether theory expects a healthy gradient over depth after a change, or says nothing.

    Args:
        settings: the run's configuration by dotted path.
        change: overrides, separated by spaces.
    """
    factor = factor_with(settings, change)
    if factor is None:
        return True
    if factor <= 0 or not math.isfinite(factor):
        return False
    depth = int(settings.get("model.depth") or 1)
    return abs(depth * math.log(factor)) <= KEPT_SHARE * math.log(BAND)


def _groups_of(remedy: Remedy) -> set[str]:
    """The groups of settings that a remedy changes."""
    groups = set()
    for override in remedy.change.split():
        path, _, _ = override.partition("=")
        group, _, _ = path.partition(".")
        groups.add(group)
    return groups


def _value_of(remedy: Remedy) -> float:
    """The number that a remedy sets its only setting to."""
    _, _, value = remedy.change.partition("=")
    return float(value)


def critical_gain(settings: Settings) -> Remedy | None:
    """The scale of the initial weights at which theory expects a factor of 1 a layer.

    None where theory has no prediction, or where the scale would have to change a lot.
    """
    path = _scale_path(settings)
    if path is None:
        return None
    now = float(settings[path])
    low = now / LARGEST_GAIN_CHANGE
    high = now * LARGEST_GAIN_CHANGE
    vanishes_at_low = now > 0 and _log_factor(settings, path, low) < 0
    if not vanishes_at_low or not _log_factor(settings, path, high) > 0:
        return None
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if _log_factor(settings, path, middle) < 0:
            low = middle
        else:
            high = middle
    change = f"{path}={high:.3g}"
    if not keeps_gradient(settings, change):
        return None
    return Remedy(change, CRITICAL, note=f"now {now:g}")


def _scale_path(settings: Settings) -> str | None:
    for path in ("init.sigma_w", "init.gain"):
        if settings.get(path) is not None:
            return path
    return None


def _log_factor(
    settings: Settings,
    path: str,
    value: float,
) -> float:
    """The logarithm of the factor a layer that is predicted for a value; NaN without theory."""
    factor = factor_with(settings, f"{path}={value!r}")
    return math.log(factor) if factor else math.nan


def _network_changes(situation: Situation) -> Iterator[Remedy]:
    """Changes of the network that theory expects to carry the gradient over depth."""
    settings = situation.settings
    before = factor_with(settings)
    for remedy in _candidate_changes(situation):
        after = factor_with(settings, remedy.change)
        is_init = remedy.change.startswith("init")
        if is_init and before and after and abs(after / before - 1) < SAME_FACTOR:
            continue
        if keeps_gradient(settings, remedy.change):
            yield remedy


def _candidate_changes(situation: Situation) -> Iterator[Remedy]:
    settings = situation.settings
    activation = settings.get("activation.kind")
    if not situation.has_skips:
        if settings.get("norm.kind") == "batch":
            yield Remedy("skip=identity", IDENTITY)
        yield Remedy("skip=inv_sqrt_depth", STABLE_RESNET)
    gains_from_he = activation == "relu" and not is_set("init=he", settings)
    critical = situation.critical
    if gains_from_he:
        yield Remedy("init=he", HE)
    elif critical is not None:
        yield critical
    if activation in ("tanh", "linear"):
        yield Remedy("init=orthogonal", ISOMETRY)
    if activation == "sigmoid":
        yield _tanh_for_sigmoid(settings)
    if settings.get("norm.kind") == "none":
        yield Remedy("norm=layer", LAYER_NORM)


def _tanh_for_sigmoid(settings: Settings) -> Remedy:
    """Tanh, whose slope is up to four times a sigmoid's, so that a large rate has to be smaller."""
    rate = settings.get("optimizer.learning_rate") or 0.0
    change = "activation=tanh"
    if rate > LARGE_RATE:
        change += f" optimizer.learning_rate={rate / SMALLER_RATE:g}"
    return Remedy(change, GLOROT)


def peak_rate(settings: Settings) -> float:
    """The greatest learning rate of a run: the last one of a schedule that rises, else the first.

    Args:
        settings: the run's configuration by dotted path.
    """
    return float(settings.get(_path_of_peak(settings)) or 0.0)


def _rate_in_words(settings: Settings) -> str:
    """``a learning rate of 0.1``; where a schedule changes it, ``of up to``."""
    is_constant = settings.get("optimizer.schedule", "constant") == "constant"
    bound = "" if is_constant else "up to "
    return f"a learning rate of {bound}{peak_rate(settings):g}"


def _path_of_peak(settings: Settings) -> str:
    path, end_path = RATES
    first = settings.get(path) or 0.0
    last = settings.get(end_path) or 0.0
    return end_path if last > first else path


def _smaller_rate(settings: Settings) -> Iterator[Remedy]:
    rate = peak_rate(settings)
    if rate > 0:
        # A rate that is far above the usual one goes down to it at once.
        smaller = min(rate / SMALLER_RATE, _usual_rate(settings))
        if rate <= SMALLER_RATE * _usual_rate(settings):
            smaller = rate / SMALLER_RATE
        change = f"{_path_of_peak(settings)}={smaller:.3g}"
        yield Remedy(change, EDGE, note=f"now {rate:g}")


def _smaller_steps(settings: Settings) -> Iterator[Remedy]:
    """Smaller updates: the rate, clipping, and a warm-up."""
    yield from _smaller_rate(settings)
    if settings.get("optimizer.clip", "none") == "none":
        yield Remedy("optimizer.clip=global_norm", CLIPPING)
    if settings.get("optimizer.schedule", "constant") == "constant":
        yield Remedy("optimizer.schedule=warmup optimizer.warmup_steps=100", WARMUP)


def _depth_in_words(situation: Situation) -> str:
    if situation.has_skips:
        return f"Depth {situation.depth} with skip={situation.settings['skip.kind']}"
    return f"Depth {situation.depth} without skip connections"


def _network_in_words(situation: Situation) -> str:
    """The depth, and the scale of the initial weights where it is not the critical one."""
    settings = situation.settings
    text = _depth_in_words(situation)
    critical = None if situation.has_skips else situation.critical
    if critical is None:
        return text
    path, _, value = critical.change.partition("=")
    now = float(settings[path])
    if abs(math.log(now / float(value))) < math.log(NOTICED_SCALE):
        return text
    return f"{text}, and {path} is {now:g} instead of {value}"


def _onset_in_words(situation: Situation) -> str:
    return (
        f"The first step was healthy, so not the initialisation but the updates until step "
        f"{situation.finding.first_step} are to blame"
    )


def _advise_vanishing(situation: Situation) -> Advice:
    settings = situation.settings
    if not situation.is_initial:
        return _advise_after_onset(situation)
    if situation.has_skips:
        return _advise_damped_shortcut(situation)
    cause = _network_in_words(situation)
    if settings.get("activation.kind") == "sigmoid":
        cause += ", and a sigmoid's slope is at most 1/4"
    return Advice(cause, _network_changes(situation))


def _advise_after_onset(situation: Situation) -> Advice:
    """Advice on a network that was healthy at first, but perhaps only just."""
    if keeps_gradient(situation.settings, ""):
        return Advice(_onset_in_words(situation), _after_onset(situation))
    depth = _depth_in_words(situation)
    step = situation.finding.first_step
    if situation.was_healthy:
        cause = f"{depth} was healthy at the start, and the updates up to step {step} ended that"
    else:
        cause = (
            f"{depth} carries the gradient badly from the start, and the updates up to step {step} "
            "made it worse"
        )
    return Advice(cause, _for_network_and_rate(situation))


def _after_onset(situation: Situation) -> Iterator[Remedy]:
    """Remedies for updates that spoil a healthy network."""
    settings = situation.settings
    rate = peak_rate(settings)
    decay = settings.get("optimizer.weight_decay") or 0.0
    steps = situation.finding.first_step or 0
    if rate * decay * steps > DECAYED:
        yield Remedy("optimizer.weight_decay=0", DECAY, note=f"now {decay:g}")
    yield from _smaller_steps(settings)


def _advise_damped_shortcut(situation: Situation) -> Advice:
    kind = situation.settings.get("skip.kind")
    cause = "The shortcut is multiplied by a factor below 1 in each layer"
    return Advice(cause, _better_shortcuts(kind, situation))


def _better_shortcuts(kind: object, situation: Situation) -> Iterator[Remedy]:
    settings = situation.settings
    candidates = []
    if kind == "scaled":
        candidates.append(Remedy("skip.shortcut_scale=1", IDENTITY))
    if kind in ("highway", "gated"):
        bias = -2 - math.log(situation.depth)
        candidates.append(Remedy(f"skip.gate_bias={bias:.3g}", HIGHWAY))
    candidates.append(Remedy("skip=identity", IDENTITY))
    candidates.append(Remedy("skip=inv_sqrt_depth", STABLE_RESNET))
    for remedy in candidates:
        if keeps_gradient(settings, remedy.change):
            yield remedy


def _advise_exploding(situation: Situation) -> Advice:
    settings = situation.settings
    if not situation.is_initial:
        return _advise_after_onset(situation)
    if situation.has_skips:
        remedies = iter(
            [Remedy("skip=inv_sqrt_depth", STABLE_RESNET), Remedy("skip=rezero", REZERO)]
        )
        return Advice("Unscaled branches add up with depth", remedies)
    cause = _network_in_words(situation)
    if settings.get("norm.kind") == "batch":
        cause += ", and batch norm multiplies the squared gradient by 1.2 to 1.5 a layer"
    return Advice(cause, _network_changes(situation))


def _advise_dead(situation: Situation) -> Advice:
    settings = situation.settings
    if settings.get("init.kind") == "zeros":
        return Advice("All weights are initialised to 0", iter([Remedy("init=he", HE)]))
    path = _scale_path(settings)
    if path is not None and settings[path] == 0:
        return Advice("All weights are initialised to 0", iter([Remedy(f"{path}=1", HE)]))
    return Advice(_silence_in_words(situation), _livelier_units(situation))


def _silence_in_words(situation: Situation) -> str:
    """Since when units are zero, and at which learning rate they became so."""
    if situation.is_initial:
        return "The units are zero from the start"
    rate = _rate_in_words(situation.settings)
    step = situation.finding.first_step
    return f"The updates up to step {step} at {rate} have silenced the units"


def _livelier_units(situation: Situation) -> Iterator[Remedy]:
    settings = situation.settings
    if not situation.is_initial:
        yield from _smaller_rate(settings)
    yield Remedy("activation=elu", DYING)
    if not situation.has_skips:
        yield Remedy("skip=inv_sqrt_depth", STABLE_RESNET)
    yield Remedy("norm=layer", LAYER_NORM)


def _advise_overflow(situation: Situation) -> Advice:
    cause = "The loss scale is too large for the number format"
    return Advice(cause, _smaller_loss_scale(situation))


def _smaller_loss_scale(situation: Situation) -> Iterator[Remedy]:
    settings = situation.settings
    yield Remedy("precision.loss_scaling=dynamic", LOSS_SCALING)
    scale = settings.get("precision.loss_scale")
    if settings.get("precision.loss_scaling") != "none" and scale:
        smaller = min(scale / 1024, Precision.loss_scale)
        yield Remedy(f"precision.loss_scale={smaller:g}", LOSS_SCALING, note=f"now {scale:g}")
    yield Remedy("precision=mixed_bfloat16", BFLOAT16)


def _advise_diverged(situation: Situation) -> Advice:
    settings = situation.settings
    format_ = str(settings.get("precision.kind")).removeprefix("mixed_")
    if situation.quantity == "activation" and situation.is_narrow:
        cause = _network_in_words(situation)
        return Advice(cause, _against_forward_overflow(situation))
    if findings.OVERFLOW.name in situation.others:
        return _advise_overflow(situation)
    if situation.is_initial:
        if situation.is_narrow:
            cause = f"The gradient exceeded the largest {format_} number"
            return Advice(cause, _more_room_for_gradients(situation))
        cause = "The initial weights are too large for this depth"
        return Advice(cause, _against_initial_overflow(situation))
    if situation.blames_network(findings.EXPLODING):
        return Advice(_depth_in_words(situation), _for_network_and_rate(situation))
    if situation.blames_network(findings.VANISHING):
        cause = "The gradient vanished, and what was left of it moved the last layers too far"
        return Advice(cause, _for_network_and_rate(situation))
    if situation.is_narrow and settings.get("precision.loss_scaling") != "dynamic":
        cause = (
            f"The steps are too large at {_rate_in_words(settings)}, or the gradient exceeded the "
            f"largest {format_} number"
        )
        scaling = Remedy("precision.loss_scaling=dynamic", LOSS_SCALING)
        return Advice(cause, iter([scaling, *_smaller_steps(settings)]))
    cause = f"The steps are too large at {_rate_in_words(settings)}"
    return Advice(cause, _smaller_steps(settings))


def _against_forward_overflow(situation: Situation) -> Iterator[Remedy]:
    if str(situation.settings.get("precision.kind")).startswith("float8"):
        yield Remedy("precision.tensor_scale=true", FLOAT8)
    if keeps_gradient(situation.settings, ""):
        yield Remedy("precision=mixed_bfloat16", BFLOAT16)
    yield from _smaller_weights(situation)
    if not situation.is_initial:
        yield from _smaller_rate(situation.settings)


def _against_initial_overflow(situation: Situation) -> Iterator[Remedy]:
    yield from _smaller_weights(situation)
    yield Remedy("norm=layer", LAYER_NORM)


def _smaller_weights(situation: Situation) -> Iterator[Remedy]:
    """Initial weights of a critical scale, else of half their scale, or scaled branches."""
    settings = situation.settings
    path = _scale_path(settings)
    if path is not None and settings[path] > 0:
        critical = critical_gain(settings)
        now = float(settings[path])
        if critical is not None and _value_of(critical) < 0.99 * now:
            yield critical
        elif now > 2:
            yield Remedy(f"{path}=1", HE, note=f"now {now:g}")
        else:
            yield Remedy(f"{path}={now / 2:g}", HE, note=f"now {now:g}")
    yield Remedy("skip=inv_sqrt_depth", STABLE_RESNET)


def _for_network_and_rate(situation: Situation) -> Iterator[Remedy]:
    """The network first, then the rate."""
    if situation.has_skips:
        yield Remedy("skip=inv_sqrt_depth", STABLE_RESNET)
    else:
        yield from list(_network_changes(situation))[:2]
    yield from _smaller_rate(situation.settings)


def _advise_underflow(situation: Situation) -> Advice:
    if not keeps_gradient(situation.settings, ""):
        cause = f"{_depth_in_words(situation)} leaves a gradient that the number format loses"
        return Advice(cause, _network_then_format(situation))
    cause = "The gradient is too small for the number format"
    return Advice(cause, _more_room_for_gradients(situation))


def _network_then_format(situation: Situation) -> Iterator[Remedy]:
    """The network first: a loss scale moves all layers, not one layer relative to another."""
    if situation.has_skips:
        kind = situation.settings.get("skip.kind")
        yield from list(_better_shortcuts(kind, situation))[:2]
    else:
        yield from list(_network_changes(situation))[:2]
    yield from _more_room_for_gradients(situation)


def _more_room_for_gradients(situation: Situation) -> Iterator[Remedy]:
    """What gives a gradient more room before it underflows or overflows."""
    settings = situation.settings
    scaling = Remedy("precision.loss_scaling=dynamic", LOSS_SCALING)
    if settings.get("precision.stochastic_gradients") is False:
        yield Remedy("precision.stochastic_gradients=true", FLOAT4)
        yield Remedy("precision=mixed_bfloat16", BFLOAT16)
    elif not str(settings.get("precision.kind")).startswith("float8"):
        yield scaling
        yield Remedy("precision=mixed_bfloat16", BFLOAT16)
    elif settings.get("precision.tensor_scale"):
        yield Remedy("precision=float8_e5m2", FLOAT8)
    else:
        yield Remedy("precision.tensor_scale=true", FLOAT8)
        yield scaling


def _advise_forward_underflow(situation: Situation) -> Advice:
    cause = "The signal shrinks from layer to layer until the format cannot hold it"
    return Advice(cause, _stronger_signal(situation))


def _stronger_signal(situation: Situation) -> Iterator[Remedy]:
    yield from list(_network_changes(situation))[:2]
    yield Remedy("precision=mixed_bfloat16", BFLOAT16)


def _advise_collapsed(situation: Situation) -> Advice:
    cause = f"{_depth_in_words(situation)} maps all examples to the same signal"
    return Advice(cause, _network_changes(situation))


def _advise_not_learning(situation: Situation) -> Advice:
    settings = situation.settings
    rate = peak_rate(settings)
    if rate == 0:
        remedy = Remedy(f"optimizer.learning_rate={_usual_rate(settings):g}", EDGE)
        return Advice("The learning rate is 0", iter([remedy]))
    if findings.SATURATED.name in situation.initial_others:
        cause = "The initial weights are too large, so that the activation is saturated"
        return Advice(cause, _smaller_inputs_at_start(situation))
    if not keeps_gradient(settings, ""):
        cause = (
            f"{_depth_in_words(situation)} carries too little of the gradient to the first layers"
        )
        return Advice(cause, _network_changes(situation))
    if rate < TINY_RATE * _usual_rate(settings):
        return Advice("The updates are too small", _larger_steps(settings))
    evidence = situation.finding.evidence
    if "best_step" in evidence:
        return _advise_lost(situation)
    chance = evidence["chance_loss"] if "chance_loss" in evidence else evidence["first_loss"]
    least = evidence.get("least_loss", 0.0)
    learnable = chance - least
    has_forgotten = evidence["lowest_loss"] - least < FORGOTTEN * learnable
    is_falling = "steps_to_chance" in evidence
    has_jumped = evidence["highest_loss"] - least > JUMPED * learnable and not is_falling
    if has_forgotten or has_jumped or rate > USUAL_RANGE * _usual_rate(settings):
        return Advice("The updates are too large", _smaller_steps(settings))
    if rate < _usual_rate(settings) / USUAL_RANGE:
        return Advice("The updates are too small", _larger_steps(settings))
    return Advice("The updates do not suit the network", _other_optimizer(settings))


def _advise_lost(situation: Situation) -> Advice:
    """Advice on a network that learned, and lost that again: what has changed since then."""
    settings = situation.settings
    evidence = situation.finding.evidence
    step = int(evidence["best_step"])
    rise = describe_risen_rate(situation.finding)
    if rise:
        return Advice(rise, _lower_peak(settings, evidence["best_learning_rate"]))
    decay = settings.get("optimizer.weight_decay") or 0.0
    rate = peak_rate(settings)
    is_usual = rate <= USUAL_RANGE * _usual_rate(settings)
    if is_usual and rate * decay * (situation.finding.first_step or step) > DECAYED:
        cause = f"Weight decay of {decay:g} at {_rate_in_words(settings)} shrinks the weights"
        return Advice(cause, _less_decay(settings))
    cause = f"At {_rate_in_words(settings)} the network stops improving at step {step}"
    return Advice(cause, _falling_rate(settings))


def describe_risen_rate(finding: Finding) -> str:
    """That the learning rate has risen since the loss was lowest; empty where it has not.

    Args:
        finding: what was found about a loss that was lost.
    """
    best = finding.evidence.get("best_learning_rate", math.nan)
    last = finding.evidence.get("last_learning_rate", math.nan)
    if not last > RISEN * best:
        return ""
    step = int(finding.evidence["best_step"])
    return f"The learning rate was {best:.3g} at step {step} and is {last:.3g} at the end"


def _lower_peak(settings: Settings, best: float) -> Iterator[Remedy]:
    """A rate that does not rise beyond the one at which the loss was lowest."""
    path = _path_of_peak(settings)
    falling = f"optimizer.schedule=cosine optimizer.learning_rate={best:.2g}"
    if path != "optimizer.learning_rate":
        falling += f" {path}=0"
    yield Remedy(falling, COSINE)
    yield Remedy(f"{path}={best:.2g}", EDGE, note=f"now {peak_rate(settings):g}")
    yield from _smaller_rate(settings)


def _less_decay(settings: Settings) -> Iterator[Remedy]:
    decay = settings["optimizer.weight_decay"]
    yield Remedy("optimizer.weight_decay=0", DECAY, note=f"now {decay:g}")
    yield from _falling_rate(settings)


def _falling_rate(settings: Settings) -> Iterator[Remedy]:
    yield from _smaller_rate(settings)
    if settings.get("optimizer.schedule", "constant") == "constant":
        yield Remedy("optimizer.schedule=cosine", COSINE)
    if settings.get("optimizer.clip", "none") == "none":
        yield Remedy("optimizer.clip=global_norm", CLIPPING)


def _usual_rate(settings: Settings) -> float:
    """A learning rate at which many networks train with an optimizer."""
    return USUAL_RATES.get(str(settings.get("optimizer.kind")), 0.01)


def _larger_steps(settings: Settings) -> Iterator[Remedy]:
    rate = settings.get("optimizer.learning_rate") or 0.0
    usual = _usual_rate(settings)
    yield Remedy(f"optimizer.learning_rate={usual:g}", EDGE, note=f"now {rate:g}")
    yield from _adaptive_optimizer(settings)


def _other_optimizer(settings: Settings) -> Iterator[Remedy]:
    """An adaptive optimizer, and a rate on the other side of the usual one."""
    rate = settings.get("optimizer.learning_rate") or 0.0
    yield from _adaptive_optimizer(settings)
    if peak_rate(settings) >= _usual_rate(settings):
        yield from _smaller_rate(settings)
    else:
        larger = SMALLER_RATE * rate
        yield Remedy(f"optimizer.learning_rate={larger:.3g}", EDGE, note=f"now {rate:g}")


def _adaptive_optimizer(settings: Settings) -> Iterator[Remedy]:
    if settings.get("optimizer.kind") not in ("adam", "adamw", "muon", "lion"):
        yield Remedy("optimizer=adam optimizer.learning_rate=0.001", ADAM)


def _advise_dead_units(situation: Situation) -> Advice:
    return Advice(_silence_in_words(situation), _livelier_units(situation))


def _advise_saturated(situation: Situation) -> Advice:
    return Advice("The inputs of the activation are too large", _smaller_inputs(situation))


def _smaller_inputs(situation: Situation) -> Iterator[Remedy]:
    if situation.is_initial:
        yield from _smaller_inputs_at_start(situation)
    else:
        yield from _smaller_rate(situation.settings)
        yield Remedy("norm=layer", LAYER_NORM)


def _smaller_inputs_at_start(situation: Situation) -> Iterator[Remedy]:
    yield from _smaller_weights(situation)
    yield Remedy("norm=layer", LAYER_NORM)


def _advise_update_ratio(situation: Situation) -> Advice:
    frozen = situation.settings.get("optimizer.frozen_layer")
    if situation.finding.layers:
        thaw = Remedy("optimizer.frozen_layer=null", LARS, note=f"now {frozen}")
        return Advice("The layer is frozen", iter(() if frozen is None else (thaw,)))
    ratio = situation.finding.evidence["median"]
    rate = situation.settings.get("optimizer.learning_rate") or 0.0
    if ratio <= 0 or rate <= 0:
        return Advice("", iter(()))
    usual = _usual_rate(situation.settings)
    least = min(rate / FARTHEST_RATE, usual)
    most = max(rate * FARTHEST_RATE, usual)
    better = min(max(rate * GOOD_UPDATE / ratio, least), most)
    remedy = Remedy(f"optimizer.learning_rate={better:.2g}", LARS, note=f"now {rate:g}")
    return Advice("Updates of about a thousandth of the weights are usual", iter([remedy]))


def _advise_hidden_gradient(situation: Situation) -> Advice:
    smallest = situation.finding.evidence["smallest"]
    power = math.floor(math.log10(smallest)) - 2 if smallest > 0 else -30
    remedy = Remedy(f"optimizer.epsilon=1e{max(-30, power)}", ADAM)
    return Advice("", iter([remedy]))


def _advise_spike(situation: Situation) -> Advice:
    return Advice("A step was too large", _against_spikes(situation.settings))


def _against_spikes(settings: Settings) -> Iterator[Remedy]:
    yield Remedy("optimizer.clip=global_norm", CLIPPING)
    yield from _smaller_rate(settings)


def _advise_overfitting(situation: Situation) -> Advice:
    return Advice("The network learns its training examples by heart", _regularise(situation))


def _regularise(situation: Situation) -> Iterator[Remedy]:
    """More of each regularisation that the run has less of."""
    settings = situation.settings
    choices = (
        ("train.input_noise", 1.0, NOISE),
        ("model.dropout", 0.5, DROPOUT),
        ("optimizer.weight_decay", 0.01, DECAY),
    )
    for path, value, source in choices:
        now = settings.get(path)
        if now is not None and now < value:
            yield Remedy(f"{path}={value:g}", source)


RULES: dict[findings.Kind, Callable[[Situation], Advice]] = {
    findings.DIVERGED: _advise_diverged,
    findings.FORWARD_UNDERFLOW: _advise_forward_underflow,
    findings.UNDERFLOW: _advise_underflow,
    findings.OVERFLOW: _advise_overflow,
    findings.DEAD: _advise_dead,
    findings.VANISHING: _advise_vanishing,
    findings.EXPLODING: _advise_exploding,
    findings.COLLAPSED: _advise_collapsed,
    findings.NOT_LEARNING: _advise_not_learning,
    findings.SLOW_DIVERGENCE: _advise_lost,
    findings.DEAD_UNITS: _advise_dead_units,
    findings.SATURATED: _advise_saturated,
    findings.UPDATE_RATIO: _advise_update_ratio,
    findings.HIDDEN_GRADIENT: _advise_hidden_gradient,
    findings.SPIKE: _advise_spike,
    findings.OVERFITTING: _advise_overfitting,
}
