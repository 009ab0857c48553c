"""What each row of the performance table times: our step and what it is compared with, runs, and processes."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from threadpoolctl import threadpool_limits

from research.bench import Clock, Measured, Tick, in_seconds, ratio, side_by_side
from research.config import Config
from research.job import prepare
from research.progress import Progress
from research.train import folder, register, typed
from research.training.program import make_program
from research.training.state import TrainState

SIZES = ("model.depth=50", "model.width=64", "train.batch_size=128", "data=digits")
STEPS = 60  # steps a timing: whole intervals of measure=full, and no more than one call of the program takes


def configured(*overrides: str) -> Config:
    """The configuration that ``fathom train`` runs with these overrides."""
    register()
    with initialize_config_dir(str(folder("conf").absolute()), version_base="1.3"):
        return typed(compose("config", list(overrides)))


class Steps:
    """Our train step, compiled."""

    def __init__(self, *overrides: str):
        self.job = prepare(configured(*overrides))
        self.program = make_program(self.job.spec)
        self.time()

    def initial(self) -> TrainState:
        """The state before the first step."""
        return jax.block_until_ready(self.program.init(self.job.hp))

    def _chunk(self, state: TrainState, steps: int) -> tuple[TrainState, dict[str, Any]]:
        return self.program.chunk(state, self.job.hp, self.job.data, jnp.int32(0), jnp.int32(steps))

    def time(self) -> float:
        """Trains ``STEPS`` steps from the initial weights; returns seconds a step."""
        state = self.initial()
        start = time.perf_counter()
        jax.block_until_ready(self._chunk(state, STEPS))
        return (time.perf_counter() - start) / STEPS

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures, by name; the norms per layer as ``layer_grad_norm``."""
        row = self._chunk(self.initial(), 1)[1]
        profile = row.pop("profile")
        row |= profile | {"grad_norm": row["grad_norm"], "layer_grad_norm": profile["grad_norm"]}
        return {name: np.asarray(values[0, 0]) for name, values in row.items()}


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
            for layer, ((x, w, g), (of_x, of_w, _)) in enumerate(zip(self.layers, self.results, strict=True)):
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


def _blas(tick: Tick) -> Measured:
    steps = Steps(*SIZES, "measure=off")
    arch, batch = steps.job.spec.architecture, steps.job.spec.batch_size
    products = Products(arch.inputs, arch.width, arch.classes, depth=arch.depth, batch=batch)
    threads = best_served(products.time, lambda count: threadpool_limits(count, "blas"))
    return side_by_side(steps.time, products.time, 40, tick, f", BLAS threads: {threads}")


def _torch(tick: Tick, *, gauges: bool) -> Measured:
    if not importlib.util.find_spec("torch"):
        return Measured(None, "not measured: pip install 'fathom-gradients[bench]'")
    from research.bench_torch import against_ours

    return against_ours(tick, gauges=gauges)


def _environment(**changes: str) -> dict[str, str]:
    """Ours, less what would change the thing that a fresh process is to show."""
    hidden = ("JAX_COMPILATION_CACHE_DIR", "WANDB_DIR", "WANDB_MODE")
    return {name: value for name, value in os.environ.items() if name not in hidden} | changes


def _fresh(call: str) -> Iterator[Any]:
    """What the iterator ``call`` of this module yields in a fresh process without a compilation cache."""
    code = f"import json, research.bench_rows as rows\nfor value in rows.{call}: print(json.dumps(value), flush=True)"
    environment = _environment(JAX_ENABLE_COMPILATION_CACHE="false")
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        yield from map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"the process for {call} ended with code {child.returncode}")


def _depth(tick: Tick) -> Measured:
    def start(depth: int) -> float:
        (seconds,) = _fresh(f"seconds_to_start({depth})")
        return seconds

    return side_by_side(lambda: start(10_000), lambda: start(10), 3, tick)


def seconds_to_start(depth: int) -> Iterator[float]:
    """Seconds from a configuration to the end of the first step, less those of the same calls once compiled."""
    job = prepare(configured(f"model.depth={depth}", "model.width=32", "skip=inv_sqrt_depth"))
    program, seconds = make_program(job.spec), []
    for _ in range(2):
        start = time.perf_counter()
        state = program.init(job.hp)
        jax.block_until_ready(program.chunk(state, job.hp, job.data, jnp.int32(0), jnp.int32(1)))
        seconds.append(time.perf_counter() - start)
    yield seconds[0] - seconds[1]


def _wandb(tick: Tick, repetitions: int = 5) -> Measured:
    pairs = []
    for pair in _fresh(f"host_loops({repetitions})"):
        pairs.append(pair)
        tick(len(pairs), repetitions)
    return ratio(pairs)


class _Silent(Progress):
    def step(self, done: int, total: int, **values: float) -> None:
        """Says nothing: the display belongs to the rows."""


def host_loops(repetitions: int, steps: int = 3000) -> Iterator[tuple[float, float]]:
    """Wall seconds of whole runs, in turns with W&B offline and without trackers, after a short one of each kind."""
    from research.run import train

    def run(tracker: str, steps: int) -> float:
        directory = Path(tempfile.mkdtemp(dir=root)) / "run"
        directory.mkdir()
        settings = (f"tracker={tracker}", f"tracker.dir={root}", f"train.steps={steps}", "model.depth=100")
        config, start = configured(*settings), time.perf_counter()
        train(config, directory, _Silent())
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as root:
        run("wandb", 100), run("none", 100)
        for n in range(repetitions):
            order = ("wandb", "none")[:: 1 if n % 2 else -1]
            seconds = {tracker: run(tracker, steps) for tracker in order}
            yield seconds["wandb"], seconds["none"]


def _seconds_of(*words: str, **environment: str) -> float:
    """Wall seconds of ``fathom`` with these words, from the start of its process to its end."""
    command = [sys.executable, "-c", "from research.cli import main; main()", *words]
    start = time.perf_counter()
    subprocess.run(command, env=_environment(**environment), check=True, capture_output=True)
    return time.perf_counter() - start


def _first_step(caches: str) -> float:
    """Seconds to the first step of the default run, and its process's end; programs are kept in the folder ``caches``.

    Two steps, so that the held-out set is evaluated after the first one; what the run spent after it does not count.
    """
    with tempfile.TemporaryDirectory() as directory:
        words = ("train", "train.steps=2", "tracker=none", f"hydra.run.dir={directory}/run")
        seconds = _seconds_of(*words, XDG_CACHE_HOME=caches)
        return seconds - json.loads((Path(directory) / "run" / "run.json").read_text())["seconds"]["train"]


def _cold(tick: Tick) -> Measured:
    prepare(configured())  # so that the dataset is there

    def run() -> float:
        with tempfile.TemporaryDirectory() as caches:
            return _first_step(caches)

    return in_seconds(run, tick)


def _warm(tick: Tick) -> Measured:
    with tempfile.TemporaryDirectory() as caches:
        _first_step(caches)
        return in_seconds(lambda: _first_step(caches), tick)


_SKIP = "skip=inv_sqrt_depth"
MEASURES: dict[str, Callable[[Tick], Measured]] = {
    "gauges": functools.partial(_steps, subject=("measure=norms",), against=("measure=off",)),
    "gauges_skip": functools.partial(_steps, subject=("measure=norms", _SKIP), against=("measure=off", _SKIP)),
    "full": functools.partial(_steps, subject=("measure=full",), against=("measure=off",)),
    "torch": functools.partial(_torch, gauges=True),
    "torch_bare": functools.partial(_torch, gauges=False),
    "blas": _blas,
    "depth": _depth,
    "wandb": _wandb,
    "help": lambda tick: in_seconds(lambda: _seconds_of("--help"), tick),
    "first_step_cold": _cold,
    "first_step_warm": _warm,
}
