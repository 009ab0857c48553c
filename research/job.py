"""From a configuration to a job: what is compiled, what is passed in, on which data; and what theory expects."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from research.config import Config, plain, traced
from research.data.dataset import Dataset
from research.data.sources import load
from research.data.streamed import Places, Stream
from research.gauges import theory
from research.gauges.verdict import skipped_layers
from research.models.architecture import Architecture
from research.models.init import theoretical_variance
from research.training.precision import POLICIES
from research.training.program import Program, Spec, order
from research.training.state import TrainState


@dataclass(frozen=True)
class Job:
    """A run made ready: what is compiled, what is passed in, and how long it lasts."""

    spec: Spec
    hp: dict[str, jax.Array]  # every leaf [M = 1]
    data: dict[str, jax.Array]
    dataset: Dataset
    steps: int
    per_epoch: int
    eval_every: int
    stream: Stream | None = None

    def feed(self, start: int, steps: int) -> dict[str, Any]:
        """What the program reads for ``steps`` steps from ``start`` on."""
        return self.data if self.stream is None else self.data | self.stream.chunk(start, steps)

    def evaluate(self, program: Program, state: TrainState) -> dict[str, jax.Array]:
        """The held-out split's loss and accuracy; where it is streamed, of one block after the other."""
        if self.stream is None:
            return program.evaluate(state, self.hp, self.data)
        sums: dict[str, jax.Array] = {}
        for share, block in self.stream.held_out_blocks():
            part = program.evaluate(state, self.hp, self.data | block)
            sums = {name: sums.get(name, 0) + share * value for name, value in part.items()}
        return sums


def run_id(study: str, config: Config) -> str:
    """The hash of the folder's name and the resolved configuration: the same run, the same id.

    Trackers are left out, and where data come from: neither makes it another run.
    """
    left_out = ("tracker.", "data.raw_dir", "data.download")
    settings = {path: value for path, value in plain(config).items() if not path.startswith(left_out)}
    text = json.dumps([study, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prepare(config: Config) -> Job:
    """Loads the data and splits the configuration into what is compiled and what is passed in.

    The configuration is a checked one: the data hold at least one batch.
    """
    dataset = load(config.data)
    examples = dataset.examples
    full_batch = config.optimizer.kind.name == "gd"
    batch = examples if full_batch else config.train.batch_size
    per_epoch = examples // batch
    steps = config.train.steps or max(1, round(config.train.epochs * per_epoch))
    wide = np.float64 if config.precision.kind.name == "float64" else np.float32
    numbers = traced(config) | {"train.steps": steps}
    hp = {path: np.asarray([value], _format(path, value, wide)) for path, value in numbers.items()}
    spec = _spec(config, dataset, batch)
    stream = None
    if dataset.train is not None:
        stream = _stream(config, dataset, batch)
        spec = dataclasses.replace(spec, streamed=True, capacity=stream.capacity)
    hp, data = jax.device_put((hp, dataset.arrays()))
    return Job(spec, hp, data, dataset, steps, per_epoch, config.train.eval_every or per_epoch, stream)


def _stream(config: Config, dataset: Dataset, batch: int) -> Stream:
    if config.optimizer.kind.name == "gd":
        raise ValueError(f"optimizer must be another than gd, which reads all examples at once: {dataset.name} streams")
    assert dataset.train is not None and dataset.held_out is not None
    examples, key = dataset.examples, jax.random.key(config.seed)
    places = Places(
        dataset.train,
        lambda epoch: np.asarray(order(key, epoch, examples)),
        batch=batch,
        seed=config.seed,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )
    return Stream(places, dataset.held_out, Spec.capacity)


def _format(path: str, value: float, wide: type) -> type:
    if path == "seed":
        return np.uint32
    return np.int32 if isinstance(value, int) else wide


def _spec(config: Config, dataset: Dataset, batch: int) -> Spec:
    policy = POLICIES[config.precision.kind.name]
    model, skip, norm = config.model, config.skip, config.norm
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
    )
    return Spec(
        architecture,
        optimizer=config.optimizer.kind.name,
        schedule=config.optimizer.schedule.name,
        clip=config.optimizer.clip.name,
        loss=config.loss.kind.name,
        batch_size=batch,
        level=config.measure.level.name,
        every=config.measure.every,
        noisy=config.train.input_noise > 0,
        crop=config.data.crop,
        flip=config.data.flip,
    )


def predicted_profile(config: Config, job: Job) -> np.ndarray | None:
    """What mean-field theory expects at initialisation: ln(‖∂L/∂h_l‖² / ‖∂L/∂h_N‖²), l = 0..N; None for no theory."""
    if config.model.kind.name != "mlp" or config.skip.kind.name not in _SCALES or config.model.dropout:
        return None
    scheme, numbers = config.init.kind.name, {"gain": config.init.gain, "sigma_w": config.init.sigma_w}
    width, arch = config.model.width, job.spec.architecture
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


def predicted_factor(config: Config, job: Job) -> float | None:
    """The predicted factor per layer at initialisation, fitted over the layers that the verdict fits."""
    profile = predicted_profile(config, job)
    return None if profile is None else theory.factor_per_layer(profile, skipped_layers(job.spec.architecture.layers))
