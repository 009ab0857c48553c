"""From configurations to runs made ready: what is compiled and passed in, on which data."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from research.config.data_options import WordVectors
from research.config.family import has_family, to_family
from research.config.fields import without_traced_values
from research.config.layer_formats import index_formats, kinds_in
from research.config.number_formats import POLICIES
from research.config.options import ActivationKind, MeasureFull, PrecisionKind
from research.config.schema import Config
from research.data.dataset import Dataset
from research.data.sources import load
from research.data.streaming import ShuffledSource, Stream
from research.diagnosis.stopping import stop_interval
from research.models.architecture import Architecture, LayerFormat
from research.models.hparams import HParams, make_hparams, static_train, without_layers
from research.parallel.mesh import SINGLE_DEVICE, Layout, check_split, place_on_devices
from research.records.jax_settings import read_random_settings
from research.training.objective import epoch_permutation
from research.training.precision import rounding_fields
from research.training.program import Program
from research.training.program_config import ProgramConfig
from research.training.state import TrainState

FAST_COMPILE_STEPS = 1  # a run of so few steps does not repay an optimised compilation


@dataclass(frozen=True)
class RunSetup:
    """Runs made ready.

    Attributes:
        program_config: what is compiled.
        layout: on which devices.
        hp: what is passed in; every leaf [M].
        data: the arrays of the dataset; without training examples where they are streamed.
        dataset: the dataset.
        steps: updates of each run.
        steps_per_epoch: updates in an epoch.
        eval_every: steps between evaluations.
        diagnostic_intervals: the functions of the program that measure outside the step, by name,
            and every how many steps.
        stream: the source of streamed examples.
        stop_every: steps between two decisions whether a run is stopped; None where none is.
    """

    program_config: ProgramConfig
    layout: Layout
    hp: HParams
    data: dict[str, jax.Array]
    dataset: Dataset
    steps: int
    steps_per_epoch: int
    eval_every: int
    diagnostic_intervals: dict[str, int]
    stream: Stream | None = None
    stop_every: int | None = None

    @property
    def cuts(self) -> list[int]:
        """Intervals at whose multiples something happens between two steps."""
        intervals = [self.eval_every, *self.diagnostic_intervals.values()]
        return intervals if self.stop_every is None else [*intervals, self.stop_every]

    def is_compiled_otherwise(self, steps: int) -> bool:
        """Whether a run of so many steps has another program, which may round otherwise."""
        return self.program_config.fast_compile != (steps <= FAST_COMPILE_STEPS)

    def layers_of(self, config: Config) -> int:
        """N: the layers of a run's network."""
        architecture = self.program_config.architecture
        return config.model.depth if architecture.family else architecture.layers

    def program_data(self, start: int, steps: int) -> dict[str, Any]:
        """The arrays that the program reads for ``steps`` steps from ``start`` on."""
        if self.stream is None:
            return self.data
        return self.data | self.stream.chunk(start, steps)

    def evaluate(self, program: Program, state: TrainState) -> dict[str, jax.Array]:
        """Loss and accuracy [M] of the evaluation split; streams are read block by block."""
        if self.stream is None:
            return program.evaluate(state, self.hp, self.data)
        sums: dict[str, jax.Array] = {}
        for share, block in self.stream.evaluation_blocks():
            means = program.evaluate(state, self.hp, self.data | block)
            for name, value in means.items():
                sums[name] = sums.get(name, 0) + share * value
        return sums


def make_run_setup(
    config: Config,
    *others: Config,
    layout: Layout = SINGLE_DEVICE,
    num_copies: int = 0,
) -> RunSetup:
    """Loads the data and builds the program and the hyperparameters of M runs.

    The program config is static; the hyperparameters [M] are traced.

    Args:
        config: the first of the M runs.
        *others: the others, which differ from it only in traced numbers.
        layout: the devices that they are trained on.
        num_copies: how many of them, the last ones, fill up devices and are not trained.

    Raises:
        ValueError: the runs do not share what is compiled, the devices cannot share the batches,
            streamed data are combined with ``optimizer=gd``, or they are combined with several
            processes.
    """
    configs = (config, *others)
    dataset = load(config.data)
    make_program_config = functools.partial(_make_program_config, dataset=dataset)
    if shares_families(layout) and has_family(config):
        make_program_config = functools.partial(_make_family_config, dataset=dataset, group=configs)
    program_config = make_program_config(config)
    for other in others:
        if make_program_config(other) != program_config:
            raise ValueError("runs of one group must differ only in traced settings")
    batch_setting = "data.limit" if program_config.full_batch else "train.batch_size"
    check_split(layout, program_config.batch_size, batch_setting)
    steps_per_epoch = dataset.examples // program_config.batch_size
    steps = config.train.num_steps(steps_per_epoch)
    stream = None
    if dataset.train_source is not None:
        stream = _make_stream(config, dataset, program_config.batch_size)
    dtype = _accumulation_dtype(config)
    hp = make_hparams(
        configs,
        steps=steps,
        dtype=dtype,
        num_copies=num_copies,
        family=program_config.architecture.family,
        layer_formats=_index_layer_formats(configs, program_config.architecture),
    )
    return RunSetup(
        program_config=_for_length(program_config, steps, stream),
        layout=layout,
        hp=place_on_devices(layout, hp, per_run=True),
        data=place_on_devices(layout, dataset.arrays(dtype), per_run=False),
        dataset=dataset,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        eval_every=config.train.eval_every or steps_per_epoch,
        diagnostic_intervals=_diagnostic_intervals(config),
        stream=stream,
        stop_every=_stop_interval(configs, steps),
    )


def _index_layer_formats(
    configs: Sequence[Config],
    architecture: Architecture,
) -> np.ndarray | None:
    """Which format each layer of each run has, [M, N]; None where all layers have the same."""
    if not architecture.layer_formats:
        return None
    indices = [index_formats(config.precision.layers, architecture.layers) for config in configs]
    return np.asarray(indices, np.int32)


def _stop_interval(configs: Sequence[Config], steps: int) -> int | None:
    """Steps between two decisions whether runs are stopped; None where none is to be."""
    if not any(config.diagnose.stop for config in configs):
        return None
    return stop_interval(steps)


def _accumulation_dtype(config: Config) -> type:
    policy = POLICIES[config.precision.kind.name]
    return np.dtype(policy.accumulation).type


def _diagnostic_intervals(config: Config) -> dict[str, int]:
    measure = config.measure
    intervals = {}
    if isinstance(measure, MeasureFull):
        measured_steps = -(-measure.exponents_every // measure.every)
        intervals["exponents"] = measured_steps * measure.every
    if measure.inspect:
        intervals["inspections"] = measure.inspect_every
    return intervals


def _make_stream(
    config: Config,
    dataset: Dataset,
    batch_size: int,
) -> Stream:
    name = dataset.name
    if config.optimizer.kind.name == "gd":
        raise ValueError(
            f"optimizer=gd needs all examples in memory, but data={name} is streamed: "
            "use optimizer=sgd or raise data.in_memory_limit"
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"mesh must be single or data_parallel, because data={name} is streamed "
            "and streaming needs a single process"
        )
    assert dataset.train_source is not None and dataset.eval_source is not None
    key = jax.random.key(config.seed)
    examples = dataset.examples

    def order_of_epoch(epoch: int) -> np.ndarray:
        return np.asarray(epoch_permutation(key, epoch, examples))

    source = ShuffledSource(
        dataset.train_source,
        order_of_epoch,
        batch_size=batch_size,
        seed=config.seed,
        shard=0,
        num_shards=1,
    )
    return Stream(source, dataset.eval_source, ProgramConfig.capacity)


def _for_length(
    program_config: ProgramConfig,
    steps: int,
    stream: Stream | None,
) -> ProgramConfig:
    """The program for runs of ``steps`` steps, in chunks as long as those of the stream."""
    program_config = replace(program_config, fast_compile=steps <= FAST_COMPILE_STEPS)
    if stream is None:
        return program_config
    return replace(program_config, streamed=True, capacity=stream.capacity)


def shares_families(layout: Layout) -> bool:
    """Whether the members of a family of networks share a program on these devices.

    Runs that are trained one after the other on a CPU do. An accelerator would compute every branch
    for every run of a vmap, and would wait for the host at each layer.
    """
    return layout.map_mode == "map" and jax.default_backend() == "cpu"


def _make_family_config(
    config: Config,
    *,
    dataset: Dataset,
    group: Sequence[Config],
) -> ProgramConfig:
    """The program for a member of a family.

    Args:
        config: the member.
        dataset: the dataset.
        group: all members that are trained together.
    """
    greatest_depth = max(member.model.depth for member in group)
    used = {member.activation.kind for member in group}
    kinds = [kind for kind in ActivationKind if kind in used]
    if len(kinds) == 1:
        # With a single choice there would be no branch, and the compiler would round differently.
        is_linear = kinds == [ActivationKind.linear]
        kinds.append(ActivationKind.relu if is_linear else ActivationKind.linear)
    program_config = _make_program_config(to_family(config, greatest_depth), dataset=dataset)
    architecture = replace(program_config.architecture, family=tuple(kinds))
    return replace(program_config, architecture=architecture)


def _make_program_config(config: Config, *, dataset: Dataset) -> ProgramConfig:
    architecture = _make_architecture(config, dataset)
    optimizer = without_traced_values(config.optimizer)
    program_config = ProgramConfig(
        architecture=architecture,
        train=static_train(config.train),
        optimizer=optimizer,
        precision=without_layers(without_traced_values(config.precision)),
        loss=without_traced_values(config.loss),
        measure=config.measure,
        batch_size=config.train.batch_size,
        crop=getattr(config.data, "crop", 0),
        flip=getattr(config.data, "flip", False),
        random_settings=read_random_settings(),
    )
    if program_config.full_batch:
        return replace(program_config, batch_size=dataset.examples)
    return program_config


def _make_architecture(config: Config, dataset: Dataset) -> Architecture:
    policy = POLICIES[config.precision.kind.name]
    word_vectors = getattr(config.data, "word_vectors", WordVectors.learned)
    return Architecture(
        shape=tuple(dataset.shape),
        classes=dataset.classes,
        vocabulary=dataset.vocabulary,
        language=dataset.language,
        padded=dataset.padded,
        one_hot=word_vectors is WordVectors.one_hot,
        model=without_traced_values(config.model),
        skip=without_traced_values(config.skip),
        norm=without_traced_values(config.norm),
        activation=without_traced_values(config.activation),
        init=without_traced_values(config.init),
        dtype=policy.compute,
        param_dtype=policy.params,
        **rounding_fields(config.precision),
        layer_formats=tuple(layer_format_of(kind) for kind in kinds_in(config.precision.layers)),
    )


def layer_format_of(kind: PrecisionKind) -> LayerFormat:
    """The format of the arithmetic of a ``precision`` option."""
    policy = POLICIES[kind.name]
    return LayerFormat(policy.compute, policy.rounding)
