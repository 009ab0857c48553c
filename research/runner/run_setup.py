"""From a configuration to a job: what is compiled, what is passed in, on which data; and what theory expects."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from research.config.schema import Config, traced
from research.data.dataset import Dataset
from research.data.sources import load
from research.data.streaming import ShuffledSource, Stream
from research.diagnosis.verdict import skipped_layers
from research.models.architecture import Architecture
from research.models.init import theoretical_variance
from research.parallel.mesh import SINGLE_DEVICE, Layout, check_split, place
from research.theory import profiles as theory
from research.training.objective import epoch_permutation
from research.training.precision import POLICIES
from research.training.program import Program
from research.training.program_config import ProgramConfig
from research.training.state import TrainState

FAST_COMPILE_STEPS = 1  # steps of a run for which it does not pay to have them compiled well


@dataclass(frozen=True)
class RunSetup:
    """Runs made ready: what is compiled, what is passed in, and how long they last."""

    spec: ProgramConfig
    layout: Layout
    hp: dict[str, jax.Array]  # every leaf [M]
    data: dict[str, jax.Array]
    dataset: Dataset
    steps: int
    per_epoch: int
    eval_every: int
    beside: dict[
        str, int
    ]  # functions of the program that measure beside the step, and every how many steps
    stream: Stream | None = None

    def feed(self, start: int, steps: int) -> dict[str, Any]:
        """What the program reads for ``steps`` steps from ``start`` on."""
        return self.data if self.stream is None else self.data | self.stream.chunk(start, steps)

    def evaluate(self, program: Program, state: TrainState) -> dict[str, jax.Array]:
        """The held-out split's loss and accuracy; where it is streamed, of one block after the other."""
        if self.stream is None:
            return program.evaluate(state, self.hp, self.data)
        sums: dict[str, jax.Array] = {}
        for share, block in self.stream.evaluation_blocks():
            part = program.evaluate(state, self.hp, self.data | block)
            sums = {name: sums.get(name, 0) + share * value for name, value in part.items()}
        return sums


def make_run_setup(config: Config, *others: Config, layout: Layout = SINGLE_DEVICE) -> RunSetup:
    """Loads the data and splits the configurations into what is compiled and what is passed in.

    They are checked ones: the data hold at least one batch.

    Raises:
        ValueError: for runs that do not share what is compiled, and batches that the devices cannot share.
    """
    dataset = load(config.data)
    examples = dataset.examples
    full_batch = config.optimizer.kind.name == "gd"
    batch = examples if full_batch else config.train.batch_size
    per_epoch = examples // batch
    steps = config.train.steps or max(1, round(config.train.epochs * per_epoch))
    check_split(layout, batch, "data.limit" if full_batch else "train.batch_size")
    spec = _spec(config, dataset, batch)
    if any(_spec(other, dataset, batch) != spec for other in others):
        raise ValueError("runs of one group must differ only in numbers that are passed in")
    spec = dataclasses.replace(spec, fast_compile=steps <= FAST_COMPILE_STEPS)
    stream = None
    if dataset.train_source is not None:
        stream = _stream(config, dataset, batch)
        spec = dataclasses.replace(spec, streamed=True, capacity=stream.capacity)
    wide = np.dtype(POLICIES[config.precision.kind.name].accumulation).type
    numbers = [traced(each) | {"train.steps": steps} for each in (config, *others)]
    hp = {
        path: np.asarray([each[path] for each in numbers], _format(path, value, wide))
        for path, value in numbers[0].items()
    }
    placed = place(layout, hp, per_run=True), place(layout, dataset.arrays(), per_run=False)
    eval_every = config.train.eval_every or per_epoch
    return RunSetup(
        spec, layout, *placed, dataset, steps, per_epoch, eval_every, _beside(config), stream
    )


def _beside(config: Config) -> dict[str, int]:
    measure = config.measure
    every = config.measure.every
    exponents = (
        {"exponents": -(-measure.exponents_every // every) * every}
        if measure.level.name == "full"
        else {}
    )
    return exponents | ({"inspections": measure.inspect_every} if measure.inspect else {})


def _stream(config: Config, dataset: Dataset, batch: int) -> Stream:
    if config.optimizer.kind.name == "gd":
        raise ValueError(
            f"optimizer must be another than gd, which reads all examples at once: {dataset.name} streams"
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"mesh must be single or data_parallel: {dataset.name} streams, which one process alone can"
        )
    assert dataset.train_source is not None and dataset.eval_source is not None
    examples = dataset.examples
    key = jax.random.key(config.seed)
    places = ShuffledSource(
        dataset.train_source,
        lambda epoch: np.asarray(epoch_permutation(key, epoch, examples)),
        batch_size=batch,
        seed=config.seed,
        shard=0,
        num_shards=1,
    )
    return Stream(places, dataset.eval_source, ProgramConfig.capacity)


def _format(path: str, value: float, wide: type) -> type:
    if path == "seed":
        return np.uint32
    return np.int32 if isinstance(value, int) else wide


def _spec(config: Config, dataset: Dataset, batch: int) -> ProgramConfig:
    policy = POLICIES[config.precision.kind.name]
    model = config.model
    skip = config.skip
    norm = config.norm
    architecture = Architecture(
        kind=model.kind.name,
        shape=tuple(dataset.shape),
        classes=dataset.classes,
        vocabulary=dataset.vocabulary,
        language=dataset.language,
        padded=dataset.padded,
        one_hot=config.data.word_vectors.name == "one_hot",
        depth=model.depth,
        width=model.width,
        bias=model.bias,
        heads=model.heads,
        expansion=model.expansion,
        positions=model.positions.name,
        tied=model.tied,
        cell=model.cell.name,
        transition=model.transition.name,
        padding=model.padding.name,
        dropout=model.dropout > 0,
        recompute=model.recompute,
        activation=config.activation.kind.name,
        init=config.init.kind.name,
        skip=skip.kind.name,
        growth=skip.growth,
        norm=norm.kind.name,
        groups=norm.groups,
        placement=norm.placement.name,
        dtype=policy.compute,
        param_dtype=policy.params,
        rounding=policy.rounding,
        tensor_scale=config.precision.tensor_scale,
    )
    return ProgramConfig(
        architecture,
        optimizer=config.optimizer.kind.name,
        schedule=config.optimizer.schedule.name,
        clip=config.optimizer.clip.name,
        loss=config.loss.kind.name,
        batch_size=batch,
        level=config.measure.level.name,
        every=config.measure.every,
        noisy=config.train.input_noise > 0,
        loss_scaling=config.precision.loss_scaling.name,
        stochastic_rounding=config.precision.stochastic_rounding,
        inspections=tuple(config.measure.inspect),
        crop=config.data.crop,
        flip=config.data.flip,
    )


def predicted_profile(config: Config, job: RunSetup) -> np.ndarray | None:
    """What mean-field theory expects at initialisation: ln(‖∂L/∂h_l‖² / ‖∂L/∂h_N‖²), l = 0..N; None for no theory."""
    if (
        config.model.kind.name != "mlp"
        or config.skip.kind.name not in _SCALES
        or config.model.dropout
    ):
        return None
    scheme = config.init.kind.name
    numbers = {"gain": config.init.gain, "sigma_w": config.init.sigma_w}
    width = config.model.width
    arch = job.spec.architecture
    embedding = theoretical_variance(scheme, arch.inputs, width, **numbers)
    sigma_b2 = config.init.sigma_b**2 if config.model.bias else 0.0
    branch, shortcut = scales(config)
    return theory.predict_profile(
        activation=arch.activation,
        sigma_w2=theoretical_variance(scheme, width, width, **numbers),
        sigma_b2=sigma_b2,
        depth=arch.depth,
        q0=embedding * job.dataset.mean_square + sigma_b2,
        branch_scale=branch,
        shortcut_scale=shortcut,
        norm=arch.norm,
        placement=arch.placement,
        batch=job.spec.batch_size,
    )


_SCALES: dict[str, Callable[[Config], tuple[float, float]]] = {
    "none": lambda config: (1.0, 0.0),
    "identity": lambda config: (1.0, 1.0),
    "scaled": lambda config: (config.skip.branch_scale, config.skip.shortcut_scale),
    "inv_sqrt_depth": lambda config: (config.model.depth**-0.5, 1.0),
    "rezero": lambda config: (0.0, 1.0),
    "skipinit": lambda config: (config.skip.branch_scale, 1.0),
}


def scales(config: Config) -> tuple[float, float]:
    """What the branch and the shortcut of each block are multiplied by at initialisation."""
    return _SCALES[config.skip.kind.name](config)


def predicted_factor(config: Config, job: RunSetup) -> float | None:
    """The predicted factor per layer at initialisation, fitted over the layers that the verdict fits."""
    profile = predicted_profile(config, job)
    return (
        None
        if profile is None
        else theory.factor_per_layer(profile, skipped_layers(job.spec.architecture.layers))
    )
