"""What each row of the performance table times: our step and what it is compared with."""

import functools
import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from threadpoolctl import threadpool_limits

from research.benchmark.table import Clock, Measured, Tick, side_by_side
from research.config.hydra_config import register, resource_dir
from research.config.schema import Config
from research.parallel.mesh import SINGLE_DEVICE, Layout, shard_state, to_init_device
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import checked_config
from research.training.program import make_program
from research.training.state import TrainState

SIZES = ("model.depth=50", "model.width=64", "train.batch_size=128", "data=digits")
RESNET_20 = (
    "model=resnet_cifar",
    "data=noise",
    "data.shape=[28,28,1]",
    "data.examples=640",
    "train.batch_size=128",
)
STEPS = 60  # steps a timing: whole intervals of measure=full, and no more than one call of the program takes


def configured(*overrides: str) -> Config:
    """The configuration that ``fathom train`` runs with these overrides."""
    register()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        return checked_config(compose("config", list(overrides)))


class Steps:
    """Our train step, compiled; ``steps`` of them a timing."""

    def __init__(self, *overrides: str, steps: int = STEPS, layout: Layout = SINGLE_DEVICE):
        self.steps = steps
        self.job = make_run_setup(configured(*overrides), layout=layout)
        self.program = make_program(self.job.spec, layout)
        self.time()

    def initial(self) -> TrainState:
        """The state before the first step."""
        layout = self.job.layout
        return jax.block_until_ready(
            shard_state(layout, self.program.init(to_init_device(layout, self.job.hp)))
        )

    def _chunk(self, state: TrainState, steps: int) -> tuple[TrainState, dict[str, Any]]:
        return self.program.chunk(state, self.job.hp, self.job.data, jnp.int32(0), jnp.int32(steps))

    def time(self) -> float:
        """Trains from the initial weights; returns seconds a step."""
        state = self.initial()
        start = time.perf_counter()
        jax.block_until_ready(self._chunk(state, self.steps))
        return (time.perf_counter() - start) / self.steps

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures, by name; the norms per layer as ``layer_grad_norm``."""
        row = self._chunk(self.initial(), 1)[1]
        profile = row.pop("profile")
        row |= profile | {"grad_norm": row["grad_norm"], "layer_grad_norm": profile["grad_norm"]}
        return {name: np.asarray(values[0, 0]) for name, values in row.items()}


class Counted(Steps):
    """``measure=full`` with the exponents counted at its default interval: seconds a step of that interval."""

    def time(self) -> float:
        """As ``Steps``, with the share of one count."""
        state = self.initial()

        def count():
            return jax.block_until_ready(self.program.exponents(state, self.job.hp, self.job.data))

        count()
        start = time.perf_counter()
        count()
        interval = self.job.diagnostic_intervals["exponents"]
        return (time.perf_counter() - start) / interval + super().time()


class Products:
    """The matrix products of a train step: forward, for the gradients of weights, for those of layers' inputs."""

    def __init__(self, inputs: int, width: int, classes: int, *, depth: int, batch: int):
        shapes = [(inputs, width), *[(width, width)] * depth, (width, classes)]
        draw = functools.partial(np.random.default_rng(0).standard_normal, dtype=np.float32)
        self.layers = [(draw((batch, n)), draw((n, m)), draw((batch, m))) for n, m in shapes]
        self.results = [tuple(np.empty_like(array) for array in layer) for layer in self.layers]

    def time(self) -> float:
        """Does those of ``STEPS`` steps; returns seconds a step."""
        start = time.perf_counter()
        for _ in range(STEPS):
            for (x, w, _g), (_x, _w, out) in zip(self.layers, self.results, strict=True):
                np.matmul(x, w, out=out)
            for layer, ((x, w, g), (of_x, of_w, _)) in enumerate(
                zip(self.layers, self.results, strict=True)
            ):
                np.matmul(x.T, g, out=of_w)
                if layer:  # nobody asks for the gradient of the data
                    np.matmul(g, w.T, out=of_x)
        return (time.perf_counter() - start) / STEPS


def best_served(run: Clock, set_threads: Callable[[int], Any]) -> int:
    """Leaves ``run`` with one thread or with one a core, whichever is faster: more can slow small products down."""
    seconds = {}
    for threads in (1, os.cpu_count() or 1):
        set_threads(threads)
        seconds[threads] = np.median([run() for _ in range(3)])
    best = min(seconds, key=seconds.__getitem__)
    set_threads(best)
    return best


def _steps(tick: Tick, *, subject: tuple[str, ...], against: tuple[str, ...]) -> Measured:
    return side_by_side(Steps(*SIZES, *subject).time, Steps(*SIZES, *against).time, 40, tick)


def _exponents(tick: Tick) -> Measured:
    return side_by_side(
        Counted(*SIZES, "measure=full").time, Steps(*SIZES, "measure=off").time, 40, tick
    )


def _blas(tick: Tick) -> Measured:
    steps = Steps(*SIZES, "measure=off")
    arch = steps.job.spec.architecture
    batch = steps.job.spec.batch_size
    products = Products(arch.inputs, arch.width, arch.classes, depth=arch.depth, batch=batch)
    threads = best_served(products.time, lambda count: threadpool_limits(count, "blas"))
    return side_by_side(steps.time, products.time, 40, tick, f", BLAS threads: {threads}")


def _torch(
    tick: Tick, *, style: str, sizes: tuple[str, ...] = SIZES, steps: int = STEPS, count: int = 20
) -> Measured:
    if not importlib.util.find_spec("torch"):
        return Measured(None, "not measured: pip install 'fathom-gradients[bench]'")
    from research.benchmark.eager import against_ours

    return against_ours(tick, sizes, style=style, steps=steps, repetitions=count)


def _later(row: str, module: str = "processes") -> Callable[[Tick], Measured]:
    """A row of another file, which is imported when it is asked for."""

    def measure(tick: Tick) -> Measured:
        return getattr(importlib.import_module(f"research.benchmark.{module}"), f"{row}_row")(tick)

    return measure


_SKIP = "skip=inv_sqrt_depth"
MEASURES: dict[str, Callable[[Tick], Measured]] = {
    "gauges": functools.partial(_steps, subject=("measure=norms",), against=("measure=off",)),
    "gauges_skip": functools.partial(
        _steps, subject=("measure=norms", _SKIP), against=("measure=off", _SKIP)
    ),
    "full": functools.partial(_steps, subject=("measure=full",), against=("measure=off",)),
    "exponents": _exponents,
    "dynamic": functools.partial(
        _steps, subject=("measure=off", "precision.loss_scaling=dynamic"), against=("measure=off",)
    ),
    "bfloat16": functools.partial(
        _steps, subject=("precision=mixed_bfloat16",), against=("precision=float32",)
    ),
    "float16": functools.partial(
        _steps, subject=("precision=mixed_float16",), against=("precision=float32",)
    ),
    "torch": functools.partial(_torch, style="hooks"),
    "torch_tuned": functools.partial(_torch, style="tuned"),
    "torch_bare": functools.partial(_torch, style="bare"),
    "torch_resnet": functools.partial(_torch, style="tuned", sizes=RESNET_20, steps=4, count=7),
    "blas": _blas,
    "split": _later("split", "shared"),
    "split_gauges": _later("split_gauges", "shared"),
    "depth": _later("depth"),
    "depth_resnet": _later("depth_resnet"),
    "sweep_compiled": _later("compiled", "sweeps"),
    "sweep_shared": _later("shared", "sweeps"),
    "sweep_cores": _later("cores", "sweeps"),
    "sweep_torch": _later("torch", "sweeps"),
    "sweep_compose": _later("compose", "sweeps"),
    "data": _later("cost", "data"),
    "data_memory": _later("memory", "data"),
    "data_stream": _later("stream", "data"),
    "wandb": _later("wandb"),
    "help": _later("help"),
    "first_step_cold": _later("cold"),
    "first_step_warm": _later("warm"),
}
