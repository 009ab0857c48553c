"""Which findings of ``diagnose.stop`` can end a run, and at which steps this is decided."""

from collections.abc import Iterator

from research.config.compatibility import Conflict, raise_first
from research.config.options import Level, LossScaling, ModelKind, PrecisionKind
from research.config.schema import Config, flatten
from research.diagnosis import findings
from research.diagnosis.observed import LEAST_ROWS
from research.diagnosis.training_findings import LEAST_STEPS
from research.diagnosis.underflow import NARROW_RANGE, has_own_scale

DECISIONS = 20  # in a run, whether it is stopped
LEAST_INTERVAL = 10  # steps between two of them
LEAST_STEPS_OF = {  # kinds that need more steps than one
    findings.OVERFLOW.name: LEAST_ROWS,
    findings.NOT_LEARNING.name: LEAST_STEPS,
    findings.SLOW_DIVERGENCE.name: LEAST_STEPS,
}
WITHOUT_LOSS = (PrecisionKind.float32, PrecisionKind.float64)  # formats that remove nothing


def stop_interval(steps: int) -> int:
    """Steps between two decisions whether a run of so many steps is stopped."""
    return max(LEAST_INTERVAL, -(-steps // DECISIONS))


def check_stop(config: Config) -> None:
    """Checks that the findings that end the run are found with its options.

    Raises:
        ValueError: one of them is never found.
    """
    if config.diagnose.stop:
        raise_first(_never_found(config))


def check_stop_length(config: Config, steps: int) -> None:
    """Checks that the findings that end the run can do so before its last step.

    Args:
        config: the run.
        steps: how many steps it has.

    Raises:
        ValueError: one of them ends only longer runs.
    """
    interval = stop_interval(steps)
    for kind in config.diagnose.stop:
        least = LEAST_STEPS_OF.get(kind, 1)
        first = -(-least // interval) * interval
        # Numbers that are not finite end a run at any step.
        if first >= steps and kind != findings.DIVERGED.name:
            conflict = Conflict(
                path="diagnose.stop",
                valid=f"without {kind} in a run of {steps} steps",
                got=", ".join(config.diagnose.stop),
                reason=f"it ends a run after {first} steps at the earliest",
            )
            raise ValueError(str(conflict))


def _never_found(config: Config) -> Iterator[Conflict]:
    stop = config.diagnose.stop
    precision = config.precision
    if findings.OVERFLOW.name in stop and precision.loss_scaling is LossScaling.none:
        yield Conflict(
            path="precision.loss_scaling",
            valid="static or dynamic",
            got=precision.loss_scaling.name,
            reason="diagnose.stop=[overflow] needs a loss scale",
        )
    has_scale = has_own_scale(flatten(config))
    if findings.FORWARD_UNDERFLOW.name in stop and has_scale:
        yield Conflict(
            path="diagnose.stop",
            valid="without forward_underflow",
            got=", ".join(stop),
            reason=f"precision={precision.kind.name} scales each array or block here",
        )
    if findings.UNDERFLOW.name in stop:
        yield from _uncounted(config, has_scale=has_scale)


def _uncounted(config: Config, *, has_scale: bool) -> Iterator[Conflict]:
    """Options with which nothing says how much of a gradient the number format removes."""
    precision = config.precision
    level = config.measure.level
    if precision.kind in WITHOUT_LOSS:
        yield Conflict(
            path="precision",
            valid="a narrower format",
            got=precision.kind.name,
            reason="diagnose.stop=[underflow] compares it with float32",
        )
    is_narrow_mlp = precision.kind.name in NARROW_RANGE and config.model.kind is ModelKind.mlp
    is_estimated = is_narrow_mlp and not has_scale
    if level is not Level.full and not is_estimated:
        yield Conflict(
            path="measure",
            valid="full",
            got=level.name,
            reason="diagnose.stop=[underflow] needs the gauge signal_lost",
        )
    if getattr(precision, "stochastic_gradients", False):
        yield Conflict(
            path="precision.stochastic_gradients",
            valid="false",
            got="true",
            reason="what is rounded stochastically is not lost on average",
        )
