"""Checks the settings that were written on the command line, beyond their values.

A default that has no effect is no mistake, but a setting that somebody wrote and that has no effect
is one, even where it was written with its default.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType

from research.config import schema
from research.config.compatibility import Conflict, raise_first
from research.config.data_options import StreamedImages
from research.config.fields import settings_of, written
from research.config.options import (
    WARMUPS,
    FullyConnected,
    InitKind,
    Level,
    Measure,
    MeasureFull,
    ModelKind,
    NormKind,
    Optimizer,
    OptimizerKind,
    Placement,
    ResNet,
    Schedule,
    Skip,
    SkipKind,
    StreamSkip,
    Transformer,
)
from research.config.validation import describe_missing_effect

EXPONENTIALS = (Schedule.exponential, Schedule.warmup_exponential)

# Intervals in steps whose multiples are measured, step 0 among them.
MEASURED_INTERVALS = ("measure.every", "measure.inspect_every", "measure.exponents_every")

Given = Mapping[str, Any]  # values by dotted path
NOTHING: Given = {}


def check_overrides(
    overrides: Sequence[str],
    choices: Mapping[str, str | None],
    config: schema.Config,
    *,
    in_file: Given = NOTHING,
    is_sweep: bool = False,
) -> None:
    """Checks the overrides of a run.

    Args:
        overrides: those of the command line, or of a job of a sweep; none of Hydra's own.
        choices: the name of the option of each group.
        config: the configuration that they gave.
        in_file: the values that the experiment's file sets.
        is_sweep: whether the run is a job of a sweep, in which zero may be one of several values.

    Raises:
        ValueError: one of them deletes what every run has, or has no effect.
    """
    parsed = [_parse(word) for word in overrides]
    _check_deletions(parsed)
    given = {**in_file, **_given_settings(parsed)}
    _check_switches(given)
    _check_duration(given, choices, config)
    _check_effects(given, config)
    raise_first(_without_effect(given, config))
    raise_first(_zero_conflicts(given, config, is_sweep=is_sweep))
    raise_first(_interval_conflicts(given, config.measure))


def describe_long_intervals(
    overrides: Sequence[str],
    config: schema.Config,
    steps: int,
) -> list[str]:
    """A line for each interval between measurements or evaluations that is as long as the run.

    Args:
        overrides: those of the command line.
        config: the configuration that they gave.
        steps: how many steps the run has.
    """
    given = _given_settings([_parse(word) for word in overrides])
    lines = []
    for item in schema.iter_fields(config):
        is_given = item.path in MEASURED_INTERVALS and item.path in given
        if is_given and item.value >= steps > 1:
            lines.append(
                f"{item.path}={item.value} measures the first step alone, because the run has "
                f"{steps} steps"
            )
    interval = config.train.eval_every
    if "train.eval_every" in given and interval is not None and interval > steps:
        lines.append(
            f"train.eval_every={interval} evaluates at the end alone, because the run has "
            f"{steps} step{'' if steps == 1 else 's'}"
        )
    return lines


def find_given(overrides: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """Those of some settings that were written on the command line.

    Args:
        overrides: those of the command line.
        paths: the settings.
    """
    given = _given_settings([_parse(word) for word in overrides])
    return tuple(path for path in paths if path in given)


def check_length(
    overrides: Sequence[str],
    choices: Mapping[str, str | None],
    config: schema.Config,
    steps: int,
    *,
    in_file: Given = NOTHING,
) -> None:
    """Checks the overrides of a run that begin to act at a later step than it has.

    Args:
        overrides: see ``check_overrides``, as for the other arguments.
        choices: the name of the option of each group.
        config: the configuration that they gave.
        steps: how many steps the run has.
        in_file: the values that the experiment's file sets.

    Raises:
        ValueError: one of them has no effect in so many steps.
    """
    if choices.get("debug") is None:  # which shortens any run
        given = {**in_file, **_given_settings([_parse(word) for word in overrides])}
        raise_first(_late_conflicts(given, config, steps))


@functools.cache
def _parse(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _check_deletions(overrides: Sequence[Override]) -> None:
    for override in overrides:
        path = override.key_or_group
        if override.type is OverrideType.DEL and hasattr(schema.Config, path):
            raise ValueError(f"{path} cannot be deleted; leave it out, and it has its default")


def _given_settings(overrides: Sequence[Override]) -> dict[str, Any]:
    """The values that were written, by dotted path; ``model={depth:3}`` is ``model.depth=3``."""
    given = {}
    for override in overrides:
        if override.type is OverrideType.DEL:
            continue
        value = override.value()
        if isinstance(value, dict):
            for name, inner in value.items():
                given[f"{override.key_or_group}.{name}"] = inner
        else:
            given[override.key_or_group] = value
    return given


def _check_switches(given: Given) -> None:
    """OmegaConf takes every number but 0 for true."""
    switches = schema.paths_of_type(bool)
    for path, value in given.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if path in switches and is_number and value not in (0, 1):
            raise ValueError(f"{path} must be true or false, got {value}")


def _check_duration(
    given: Given,
    choices: Mapping[str, str | None],
    config: schema.Config,
) -> None:
    """Steps decide over epochs, so that a run is given one of them."""
    steps = config.train.steps
    epochs = config.train.epochs
    if steps is None or choices.get("debug") is not None:
        return
    is_default = epochs == schema.default_of("train.epochs")
    if "train.epochs" in given or (not is_default and "train.steps" not in given):
        raise ValueError(
            f"train.epochs={written(epochs)} has no effect, because train.steps={steps} decides "
            "how long to train: leave one of them out, or set train.steps=null"
        )


def _check_effects(given: Given, config: schema.Config) -> None:
    for path in given:
        group, _, name = path.rpartition(".")
        option = getattr(config, group, None)
        if not schema.is_group(option):
            continue
        declared = dict(settings_of(option)).get(name)
        if declared is not None and not declared.has_effect(option):
            raise ValueError(describe_missing_effect(group, option, name, declared))


def _without_effect(given: Given, config: schema.Config) -> Iterator[Conflict]:
    """Settings that have no effect because of an option of another group."""
    for path, reason in _reasons(config):
        if path in given:
            yield Conflict(
                path=path,
                valid="left out",
                got=written(given[path]),
                reason=reason,
            )


def _zero_conflicts(
    given: Given,
    config: schema.Config,
    *,
    is_sweep: bool,
) -> Iterator[Conflict]:
    """Options that have no effect because a number is zero, or a factor one.

    In a sweep a number that was written is left alone: zero is where its values start.
    """
    optimizer = config.optimizer
    is_decay_chosen = is_sweep and "optimizer.weight_decay" in given
    if "optimizer.decay_mask" in given and not optimizer.weight_decay and not is_decay_chosen:
        yield Conflict(
            path="optimizer.decay_mask",
            valid="left out",
            got=optimizer.decay_mask.name,
            reason="optimizer.weight_decay=0 decays nothing",
        )
    init = config.init
    if init.layer is not None and init.layer_gain == 1 and "init.layer_gain" not in given:
        yield Conflict(
            path="init.layer_gain",
            valid="another number",
            got=written(init.layer_gain),
            reason=f"init.layer={init.layer} is the layer that it acts on",
        )
    for name in ("gain", "sigma_w"):
        is_chosen = is_sweep and f"init.{name}" in given
        if init.layer is not None and getattr(init, name, 1) == 0 and not is_chosen:
            yield Conflict(
                path="init.layer",
                valid="left out",
                got=init.layer,
                reason=f"init.{name}=0 has no weights to multiply",
            )
    is_warmup_chosen = "optimizer.warmup_steps" in given
    has_warmup = optimizer.schedule in WARMUPS
    if has_warmup and not optimizer.warmup_steps and not is_warmup_chosen:
        yield Conflict(
            path="optimizer.warmup_steps",
            valid="≥ 1",
            got=0,
            reason=f"optimizer.schedule={optimizer.schedule.name} has a warm-up",
        )


def _interval_conflicts(given: Given, measure: Measure) -> Iterator[Conflict]:
    """Intervals whose multiples include steps at which there is nothing to record them with."""
    path = "measure.exponents_every"
    if not isinstance(measure, MeasureFull) or path not in given:
        return
    shortest = measure.every
    interval = measure.exponents_every
    if interval % shortest:
        below = interval - interval % shortest
        nearest = [str(number) for number in (below, below + shortest) if number]
        yield Conflict(
            path=path,
            valid=f"a multiple of measure.every={shortest}, such as {' or '.join(nearest)}",
            got=interval,
            reason="exponents are recorded at measured steps",
        )


def _late_conflicts(
    given: Given,
    config: schema.Config,
    steps: int,
) -> Iterator[Conflict]:
    """Settings that begin to act after the last step."""
    yield from _late_schedule_conflicts(given, config.optimizer, steps)
    precision = config.precision
    growth = {"precision.growth_interval", "precision.growth_factor"}
    if growth & given.keys() and precision.growth_interval >= steps:
        yield Conflict(
            path="precision.growth_interval",
            valid=f"< {steps}, the steps of the run",
            got=precision.growth_interval,
            reason="the loss scale grows after so many steps",
        )


def _late_schedule_conflicts(
    given: Given,
    optimizer: Optimizer,
    steps: int,
) -> Iterator[Conflict]:
    """Schedules whose first change of the learning rate comes after the last step."""
    warmup = optimizer.warmup_steps
    longest = steps if optimizer.schedule is Schedule.warmup else steps - 1
    if warmup > longest and "optimizer.warmup_steps" in given:
        yield Conflict(
            path="optimizer.warmup_steps",
            valid=f"≤ {longest} in a run of {steps} steps",
            got=warmup,
            reason="the learning rate does not reach its peak otherwise",
        )
    if optimizer.schedule in EXPONENTIALS and optimizer.staircase:
        interval = optimizer.transition_steps
        is_late = not interval or interval >= steps - warmup
        if is_late and {"optimizer.staircase", "optimizer.transition_steps"} & given.keys():
            yield Conflict(
                path="optimizer.transition_steps",
                valid=f"≥ 1 and < {steps - warmup}, the steps of the run after the warm-up",
                got=interval,
                reason="optimizer.staircase=true changes the learning rate at its multiples only",
            )
    boundaries = optimizer.boundaries
    is_given = {"optimizer.boundaries", "optimizer.decay_factor"} & given.keys()
    is_late = bool(boundaries) and min(boundaries) >= steps
    if optimizer.schedule is Schedule.step and is_given and is_late:
        valid = f"< {steps}, the steps of the run"
        yield Conflict(path="optimizer.boundaries", valid=valid, got=written(boundaries))


def _reasons(config: schema.Config) -> Iterator[tuple[str, str]]:
    """Paths that have no effect in this configuration, and why."""
    if config.optimizer.kind is OptimizerKind.gd:
        yield "train.batch_size", "optimizer=gd uses all training examples in every step"
    if config.measure.level is Level.off:
        yield "diagnose.every", "measure=off leaves nothing to judge"
        yield "tracker.layers", "measure=off measures no layer"
        yield "tracker.every", "measure=off measures no layer"
    is_resnet = isinstance(config.model, ResNet)
    if config.norm.kind is NormKind.none and not is_resnet:
        yield "norm.placement", "without a norm it has an effect only on ResNets"
    is_plain = is_resnet and config.norm.kind is NormKind.none and config.skip.kind is SkipKind.none
    if is_plain and config.norm.placement is Placement.post:
        yield "norm.placement", "without a norm and a shortcut post is the same order as pre"
    if isinstance(config.model, Transformer) and not config.model.expansion:
        yield "activation", "model.expansion=0 leaves out the layers that have one"
    if config.init.kind is InitKind.zeros:
        yield "init.layer", "init=zeros has no weights to multiply"
        yield "init.layer_gain", "init=zeros has no weights to multiply"
    if _has_zero_branches(config):
        reason = "skip=fixup initialises a branch of one weight matrix with zeros"
        yield "init.layer", reason
        yield "init.layer_gain", reason
    if config.skip.kind is SkipKind.mhc and _is_single_stream(config.skip):
        yield "skip.mixing_noise", "a single stream is always mixed with the factor 1"
    skip = config.skip.kind
    if is_resnet and skip is SkipKind.none:
        yield "model.transition", "skip=none has no shortcut"
    if is_resnet and skip is SkipKind.projection:
        yield "model.transition", "skip=projection has a 1×1 projection everywhere"
    if isinstance(config.data, StreamedImages) and config.data.resized_crop:
        yield "data.in_memory_limit", "data.resized_crop=true always streams"


def _has_zero_branches(config: schema.Config) -> bool:
    """Whether all weights of a layer are initially zero, as the last ones of Fixup's branches."""
    model = config.model
    has_one_matrix = isinstance(model, FullyConnected) and model.branch_weights == 1
    is_single = has_one_matrix or model.kind is ModelKind.cnn
    return config.skip.kind is SkipKind.fixup and is_single


def _is_single_stream(skip: Skip) -> bool:
    return isinstance(skip, StreamSkip) and skip.streams == 1
