"""Measures runs before training: the first update of each, as few programs as possible."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from research.config.number_formats import POLICIES
from research.config.options import (
    CONVOLUTIONAL,
    AdaGrad,
    Checkpoint,
    Diagnose,
    LossScaling,
    MeasureFull,
    Mesh,
    Momentum,
    Optimizer,
    OptimizerKind,
    RMSProp,
    Schedule,
    Tracker,
)
from research.config.override_checks import parse_overrides
from research.config.schema import OPTIONS, Config, flatten, selector_of
from research.diagnosis.measurement import Measurement
from research.diagnosis.prediction import predict
from research.gauges.table import GRAD_NORM, SIGNAL_GRAD, SIGNAL_VARIATION, UPDATE_RATIO
from research.parallel.mesh import SINGLE_DEVICE, map_runs
from research.runner.judging import loss_bounds_of
from research.runner.memory import check_memory, program_bytes, release_programs, tree_bytes
from research.runner.run_setup import RunSetup, make_run_setup, shares_families
from research.runner.run_spec import group_key, program_key
from research.theory.formats import FORMATS, gauges_from_counts, layerwise_underflow
from research.theory.update_rules import momentum_edge, nesterov_edge
from research.training.compiler_options import SHORT_COMPILE_OPTIONS, select_known
from research.training.exponents import trim_counts
from research.training.precision import precision_context
from research.training.preflight import Start, measure_start, run_trial
from research.training.program import make_program
from research.training.state import TrainState

# Groups and settings that change no prediction, whatever they are set to.
UNUSED_GROUPS = ("measure", "tracker", "mesh", "checkpoint", "diagnose")
UNUSED = ("name", "tags", "notes", "train.eval_every", "data.eval_split")
OF_HYDRA = ("hydra.sweeper", "hydra.searchpath", "hydra.mode")  # that say which runs there are
# Those whose first update has the size of the gradient.
SIGNALS = (SIGNAL_GRAD.name, SIGNAL_VARIATION.name)
OF_LAYERS = (GRAD_NORM.name, UPDATE_RATIO.name)
PLAIN = (OptimizerKind.gd, OptimizerKind.sgd, OptimizerKind.momentum, OptimizerKind.nesterov)


def measure_configs(configs: Sequence[Config], trial_steps: int = 0) -> list[Measurement]:
    """Measures each run before its first step; runs that share a program are compiled once.

    The learning rate is taken at its peak.

    Args:
        configs: the runs.
        trial_steps: how many steps each is trained on its first batch; 0 for none.

    Returns:
        What was measured of each, in order.
    """
    prepared = [_prepare(config) for config in configs]
    measured: dict[int, Measurement] = {}
    for numbers in _group(prepared):
        group = [prepared[number] for number in numbers]
        results = _measure_group(group, trial_steps)
        measured.update(zip(numbers, results, strict=True))
        release_programs()
    return [measured[number] for number in range(len(configs))]


def count_programs(configs: Sequence[Config]) -> int:
    """How many programs measure these runs."""
    prepared = [_prepare(config) for config in configs]
    families = shares_families(SINGLE_DEVICE)
    keys = set()
    for numbers in _group(prepared):
        group = [prepared[number] for number in numbers]
        keys.add(program_key(group, families=families))
    return len(keys)


def _group(prepared: Sequence[Config]) -> list[list[int]]:
    """The positions of runs that share a program, group by group."""
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(prepared):
        key = group_key(config, families=shares_families(SINGLE_DEVICE))
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _prepare(config: Config) -> Config:
    """The run with all gauges, a constant learning rate, and nothing that records or judges it."""
    optimizer = config.optimizer
    if optimizer.schedule is not Schedule.constant:
        optimizer = dataclasses.replace(optimizer, schedule=Schedule.constant)
    return dataclasses.replace(
        config,
        name=None,
        tags=(),
        notes="",
        train=dataclasses.replace(config.train, eval_every=None),
        measure=MeasureFull(),
        optimizer=optimizer,
        tracker=Tracker(),
        mesh=Mesh(),
        checkpoint=Checkpoint(),
        diagnose=Diagnose(),
    )


def find_ignored(words: Sequence[str], config: Config) -> list[str]:
    """The settings and groups that were written and that the measurements do not depend on.

    Args:
        words: settings, ``path=value``.
        config: the run that they gave.
    """
    before = flatten(config)
    after = flatten(_prepare(config))
    changed = [path for path, value in before.items() if after.get(path) != value]
    ignored = []
    for override in parse_overrides(words):
        path = override.key_or_group
        if path in OPTIONS:
            path = f"{path}.{selector_of(path)}"
        is_of_hydra = override.is_hydra_override() and not path.startswith(OF_HYDRA)
        is_changed = any(each == path or each.startswith(f"{path}.") for each in changed)
        is_unused = path in UNUSED or path.partition(".")[0] in UNUSED_GROUPS
        if is_of_hydra or is_unused or is_changed:
            ignored.append(override.key_or_group)
    return ignored


def _measure_group(configs: Sequence[Config], trial_steps: int) -> list[Measurement]:
    """Measures runs that differ only in traced numbers.

    Raises:
        MemoryError: they do not fit into memory; what does not fit has not been allocated then.
    """
    with precision_context(configs[0].precision.kind.name):
        setup = make_run_setup(*configs, layout=SINGLE_DEVICE)
        program = make_program(setup.program_config, setup.layout)
        check_memory(
            tree_bytes(jax.eval_shape(program.init, setup.hp)),
            num_devices=1,
            needed_for="the network with its optimizer",
            settings="model.depth or model.width",
        )
        state = program.init(setup.hp)
        data = setup.program_data(0, 2)
        options = select_known(SHORT_COMPILE_OPTIONS)

        def run(function: Any) -> Any:
            mapped = map_runs(SINGLE_DEVICE, function, num_mapped=2, num_broadcast=1)
            jitted = jax.jit(mapped, compiler_options=options)
            compiled = jitted.lower(state, setup.hp, data).compile()
            check_memory(
                program_bytes(compiled),
                num_devices=1,
                needed_for="the measurement",
                settings="train.batch_size, model.depth or model.width",
            )
            return jax.tree.map(np.asarray, compiled(state, setup.hp, data))

        start = run(functools.partial(measure_start, setup.program_config))
        trial = None
        if trial_steps:

            def try_steps(state: TrainState, hp: Any, data: Any) -> Any:
                return run_trial(setup.program_config, state, hp, data, trial_steps)

            trial = run(try_steps)
        measured = []
        for index, config in enumerate(configs):
            losses = None if trial is None else trial[index]
            measured.append(_read(config, setup, _select_run(start, index), losses))
    return measured


def _select_run(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _read(
    config: Config,
    setup: RunSetup,
    start: Start,
    trial: np.ndarray | None,
) -> Measurement:
    """What was measured of one run, as plain numbers of its own layers."""
    layers = setup.layers_of(config)
    row = start.row
    profile = row["profile"]
    signals = {name: np.asarray(profile[name][: layers + 1], float) for name in SIGNALS}
    of_layers = {name: np.asarray(profile[name][:layers], float) for name in OF_LAYERS}
    elements = _layer_elements(config)
    formats = _read_formats(config, trim_counts({"run": start.counts}, layers))
    optimizer = config.optimizer
    is_plain = optimizer.kind in PLAIN
    momentum = optimizer.momentum if isinstance(optimizer, Momentum) else 0.0
    curvature = float(start.sharpness)
    bounds = loss_bounds_of(config.loss, setup.dataset)
    is_nesterov = optimizer.kind is OptimizerKind.nesterov
    ceiling = None
    if is_plain and curvature > 0:
        edge = nesterov_edge if is_nesterov else momentum_edge
        ceiling = edge(1.0, momentum) / curvature
    return Measurement(
        steps=setup.steps,
        loss=float(row["train_loss"]),
        chance_loss=bounds.chance,
        least_loss=bounds.least,
        loss_after=float(start.losses[1]),
        decrease=float(start.decrease),
        other_loss=float(start.losses[0]),
        common_decrease=float(start.common_decrease),
        signal_grad=signals["signal_grad"],
        grad_rms=of_layers["grad_norm"] / elements,
        update_ratio=of_layers["update_ratio"],
        variation=signals["signal_variation"],
        learning_rate=float(optimizer.learning_rate),
        total_updates=_total_updates(optimizer, setup.steps),
        ceiling=ceiling,
        is_nesterov=is_nesterov,
        sharpness=curvature,
        epsilon=optimizer.epsilon if isinstance(optimizer, AdaGrad) else None,
        lost=formats.lost,
        run_lost=formats.run_lost,
        is_finite=bool(row["finite"]) and bool(np.all(np.isfinite(start.losses))),
        trial=trial,
        theory=predict(
            config,
            inputs=setup.program_config.architecture.inputs,
            mean_square=setup.dataset.mean_square,
            batch_size=setup.program_config.batch_size,
        ),
    )


def _total_updates(optimizer: Optimizer, steps: int) -> float:
    """See ``Measurement.total_updates``."""
    match optimizer:
        case Momentum(kind=OptimizerKind.nesterov, momentum=momentum):
            return steps / (1 - momentum**2)
        case Momentum(momentum=momentum):
            return steps / (1 - momentum)
        case RMSProp(kind=OptimizerKind.rmsprop, beta2=beta2):
            return steps * math.sqrt(1 - beta2)  # its average of squares starts at 0
        case AdaGrad(kind=OptimizerKind.adagrad):
            return 2 * math.sqrt(steps)
    return steps


@dataclass(frozen=True)
class _Formats:
    """``Measurement.lost`` and ``run_lost``."""

    lost: dict[str, np.ndarray]
    run_lost: np.ndarray | None


def _read_formats(config: Config, counts: Any) -> _Formats:
    policy = POLICIES[config.precision.kind.name]
    histogram = gauges_from_counts(counts, "float32", "float32")["signal_exponent"]
    lost = {}
    for name in FORMATS:
        lost[name] = layerwise_underflow(histogram, name)
    precision = config.precision
    has_scale = precision.loss_scaling is not LossScaling.none
    scale = precision.loss_scale if has_scale else 1.0
    return _Formats(lost, layerwise_underflow(histogram, policy.narrowest, scale))


def _layer_elements(config: Config) -> float:
    """The root of how many parameters a layer has, about."""
    width = config.model.width
    kernel = 9 if config.model.kind in CONVOLUTIONAL else 1
    return math.sqrt(kernel * width * width + width)
