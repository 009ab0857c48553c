"""Rows about the train step: what gauges and precisions cost, and how it compares with NumPy."""

import functools
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from threadpoolctl import threadpool_limits

from research.benchmark.timing import Measurement, ReportProgress, TimedCall, compare
from research.config.hydra_config import register_with_hydra, resource_dir
from research.config.schema import Config
from research.parallel.mesh import Layout, make_layout, shard_state, to_init_device
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import to_checked_config
from research.training.program import make_program
from research.training.state import TrainState

BATCH_SIZE = 128
MLP = ("model.depth=50", "model.width=64", f"train.batch_size={BATCH_SIZE}", "data=digits")
STEPS = 60  # in a timing: whole intervals of measure=full, in a single call of the program
PAIRS = 40


def compose_config(*overrides: str) -> Config:
    """The configuration of ``fathom train`` with these overrides."""
    register_with_hydra()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        return to_checked_config(compose("config", list(overrides)))


class StepTimer:
    """Our compiled train step.

    Args:
        *overrides: The run's settings.
        steps: The number of steps in a timing.
        runs: How many runs, which differ in their seeds, are trained as one program.
        layout: The devices and how they share the work; None for that of a command on one device.
    """

    def __init__(
        self,
        *overrides: str,
        steps: int = STEPS,
        runs: int = 1,
        layout: Layout | None = None,
    ):
        self.steps = steps
        layout = layout or make_layout(runs, devices=1)
        config = compose_config(*overrides)
        configs = [replace(config, seed=seed) for seed in range(runs)]
        self.setup = make_run_setup(*configs, layout=layout)
        self.program = make_program(self.setup.program_config, layout)
        self.time()

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        layout = self.setup.layout
        state = self.program.init(to_init_device(layout, self.setup.hp))
        return jax.block_until_ready(shard_state(layout, state))

    def time(self) -> float:
        """Trains from the initial weights; returns the seconds of a step."""
        state = self.initial_state()
        start = time.perf_counter()
        jax.block_until_ready(self.train(state, self.steps))
        return (time.perf_counter() - start) / self.steps

    def train(self, state: TrainState, steps: int) -> tuple[TrainState, dict[str, Any]]:
        """Trains the first steps; returns the new state and what the steps measured."""
        setup = self.setup
        first = jnp.int32(0)
        return self.program.chunk(state, setup.hp, setup.data, first, jnp.int32(steps))

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures, by name; the layers' norms are ``layer_grad_norm``."""
        _, metrics = self.train(self.initial_state(), 1)
        profile = metrics.pop("profile")
        metrics["layer_grad_norm"] = profile.pop("grad_norm")
        metrics |= profile
        return {name: np.asarray(values[0, 0]) for name, values in metrics.items()}


class ExponentStepTimer(StepTimer):
    """The step of ``measure=full`` with its share of counting exponents at the default interval."""

    def time(self) -> float:
        """As ``StepTimer.time``, plus the seconds of one count divided by its interval in steps."""
        state = self.initial_state()
        setup = self.setup

        def count_exponents() -> None:
            jax.block_until_ready(self.program.exponents(state, setup.hp, setup.data))

        count_exponents()  # compiles
        start = time.perf_counter()
        count_exponents()
        seconds = time.perf_counter() - start
        return seconds / setup.diagnostic_intervals["exponents"] + super().time()


@dataclass(frozen=True)
class LayerProducts:
    """The operands and the results of the matrix products of one layer.

    Attributes:
        inputs: [B, n].
        weights: [n, m].
        output_grad: The gradient of the layer's output [B, m].
        input_grad: The gradient of ``inputs``, a result.
        weight_grad: The gradient of ``weights``, a result.
        outputs: [B, m], a result.
    """

    inputs: np.ndarray
    weights: np.ndarray
    output_grad: np.ndarray
    input_grad: np.ndarray
    weight_grad: np.ndarray
    outputs: np.ndarray


class MatrixProducts:
    """The matrix products of an MLP's train step, alone, in NumPy.

    Args:
        inputs: The width of the data.
        width: The width of the layers.
        classes: The width of the output.
        depth: The number of layers between the first and the last.
        batch: The number of examples.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        classes: int,
        *,
        depth: int,
        batch: int,
    ):
        generator = np.random.default_rng(0)
        draw = functools.partial(generator.standard_normal, dtype=np.float32)
        widths = [inputs, *[width] * (depth + 1), classes]
        self.layers: list[LayerProducts] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layer = LayerProducts(
                inputs=draw((batch, fan_in)),
                weights=draw((fan_in, fan_out)),
                output_grad=draw((batch, fan_out)),
                input_grad=np.empty((batch, fan_in), np.float32),
                weight_grad=np.empty((fan_in, fan_out), np.float32),
                outputs=np.empty((batch, fan_out), np.float32),
            )
            self.layers.append(layer)

    def time(self) -> float:
        """Computes the products of ``STEPS`` steps; returns the seconds of a step."""
        start = time.perf_counter()
        for _ in range(STEPS):
            for layer in self.layers:
                np.matmul(layer.inputs, layer.weights, out=layer.outputs)
            for number, layer in enumerate(self.layers):
                np.matmul(layer.inputs.T, layer.output_grad, out=layer.weight_grad)
                if number > 0:  # training does not need the gradient of the data
                    np.matmul(layer.output_grad, layer.weights.T, out=layer.input_grad)
        return (time.perf_counter() - start) / STEPS


def choose_num_threads(run: TimedCall, set_num_threads: Callable[[int], Any]) -> int:
    """Sets and returns the faster number of threads for ``run``: one, or one for each core.

    More threads can slow small matrix products down.
    """
    seconds = {}
    for num_threads in (1, os.cpu_count() or 1):
        set_num_threads(num_threads)
        seconds[num_threads] = np.median([run() for _ in range(3)])
    fastest = min(seconds, key=seconds.__getitem__)
    set_num_threads(fastest)
    return fastest


def compare_steps(
    report_progress: ReportProgress,
    *,
    subject: tuple[str, ...],
    baseline: tuple[str, ...],
    network: tuple[str, ...] = MLP,
    steps: int = STEPS,
    pairs: int = PAIRS,
) -> Measurement:
    """The step of a network with the overrides of ``subject`` / with those of ``baseline``.

    Args:
        report_progress: Called after each pair of timings.
        subject: The overrides of the numerator.
        baseline: The overrides of the denominator.
        network: The network and the data.
        steps: The number of steps in a timing.
        pairs: The number of pairs of timings.
    """
    subject_timer = StepTimer(*network, *subject, steps=steps)
    baseline_timer = StepTimer(*network, *baseline, steps=steps)
    return compare(subject_timer.time, baseline_timer.time, pairs, report_progress)


def compare_exponents(report_progress: ReportProgress) -> Measurement:
    """The step that also counts exponents / the bare step."""
    subject = ExponentStepTimer(*MLP, "measure=full")
    baseline = StepTimer(*MLP, "measure=off")
    return compare(subject.time, baseline.time, PAIRS, report_progress)


def compare_with_numpy(report_progress: ReportProgress) -> Measurement:
    """The bare step / its matrix products alone in NumPy."""
    step = StepTimer(*MLP, "measure=off")
    architecture = step.setup.program_config.architecture
    products = MatrixProducts(
        architecture.inputs,
        architecture.model.width,
        architecture.classes,
        depth=architecture.model.depth,
        batch=step.setup.program_config.batch_size,
    )

    def set_num_threads(num_threads: int) -> None:
        threadpool_limits(num_threads, "blas")

    num_threads = choose_num_threads(products.time, set_num_threads)
    note = f", BLAS threads: {num_threads}"
    return compare(step.time, products.time, PAIRS, report_progress, note)
