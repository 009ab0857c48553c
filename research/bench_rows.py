"""How each row of the performance table is measured: two things timed alternately, or a process by the clock."""

import contextlib
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

from research.bench import Measured
from research.config import Config
from research.job import prepare
from research.progress import Progress
from research.train import folder, register, typed
from research.training.program import make_program

SIZES = ("model.depth=50", "model.width=64", "train.batch_size=128")
STEPS = 60  # steps a timing: whole intervals of measure=full, and within what one call of the program takes
TOLERANCE = 1e-3  # relative, between two ways of rounding 50 layers forward and backward in float32
Timed = Callable[[], float]  # does it and returns seconds, per step or in all
Tick = Callable[[int, int], None]  # takes how many timings of how many are done


def configured(*overrides: str) -> Config:
    """The configuration that ``fathom train`` would run with these overrides."""
    register()
    with initialize_config_dir(str(folder("conf").absolute()), version_base="1.3"):
        return typed(compose("config", list(overrides)))


class Steps:
    """Our train step, compiled; a call trains ``STEPS`` steps from the initial weights, → seconds a step."""

    def __init__(self, *overrides: str):
        self.job = prepare(configured(*SIZES, *overrides))
        self.program = make_program(self.job.spec)
        self()

    def __call__(self) -> float:
        state = jax.block_until_ready(self.program.init(self.job.hp))
        start = time.perf_counter()
        jax.block_until_ready(self._chunk(state, STEPS))
        return (time.perf_counter() - start) / STEPS

    def _chunk(self, state: Any, steps: int) -> Any:
        return self.program.chunk(state, self.job.hp, self.job.data, jnp.int32(0), jnp.int32(steps))

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures, by name; the norms per layer as ``layer_grad_norm``."""
        row = self._chunk(self.program.init(self.job.hp), 1)[1]
        profile = row.pop("profile")
        row |= profile | {"grad_norm": row["grad_norm"], "layer_grad_norm": profile["grad_norm"]}
        return {name: np.asarray(values[0, 0]) for name, values in row.items()}


class Products:
    """The matrix products of a train step: forward, and for the gradients of weights and inputs; → seconds a step."""

    def __init__(self, steps: Steps):
        arch, batch = steps.job.spec.architecture, steps.job.spec.batch_size
        shapes = [(arch.inputs, arch.width), *[(arch.width, arch.width)] * arch.depth, (arch.width, arch.classes)]
        generator = np.random.default_rng(0)
        draw = functools.partial(generator.standard_normal, dtype=np.float32)
        self.layers = [(draw((batch, n)), draw((n, m)), draw((batch, m))) for n, m in shapes]
        self.results = [tuple(np.empty_like(array) for array in layer) for layer in self.layers]

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            for (x, w, _), (_, _, out) in zip(self.layers, self.results, strict=True):
                np.matmul(x, w, out=out)
            for layer, ((x, w, g), (of_x, of_w, _)) in enumerate(zip(self.layers, self.results, strict=True)):
                np.matmul(x.T, g, out=of_w)
                if layer:  # nobody asks for the gradient of the data
                    np.matmul(g, w.T, out=of_x)
        return (time.perf_counter() - start) / STEPS


def _side_by_side(subject: Timed, against: Timed, repetitions: int, tick: Tick, note: str = "") -> Measured:
    """The median ratio of neighbouring timings, which of the two goes first taking turns."""
    pairs = []
    for n in range(repetitions):
        pairs.append((subject(), against()) if n % 2 else (against(), subject())[::-1])
        tick(n + 1, repetitions)
    return _ratio(np.array(pairs), note)


def _ratio(pairs: np.ndarray, note: str) -> Measured:
    """From pairs of seconds [n, 2] to the row."""
    low, ratio, high = np.quantile(pairs[:, 0] / pairs[:, 1], (0.25, 0.5, 0.75))
    times = " / ".join(_short(seconds) for seconds in np.median(pairs, axis=0))
    return Measured(float(ratio), f"{times} [{low:.2f} to {high:.2f}]{note}")


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def _steps_row(subject: tuple[str, ...], against: tuple[str, ...], tick: Tick) -> Measured:
    return _side_by_side(Steps(*subject), Steps(*against), 40, tick)


def _best_served(run: Timed, set_threads: Callable[[int], Any]) -> int:
    """Leaves ``run`` with one thread or one a core, whichever is faster: small products gain little from more."""
    seconds = {}
    for threads in {1, os.cpu_count() or 1}:
        set_threads(threads)
        seconds[threads] = np.median([run() for _ in range(5)])
    best = min(seconds, key=seconds.__getitem__)
    set_threads(best)
    return best


def _blas(tick: Tick) -> Measured:
    steps = Steps("measure=off")
    products = Products(steps)
    threads = _best_served(products, lambda count: threadpool_limits(count, "blas"))
    return _side_by_side(steps, products, 40, tick, f", BLAS threads: {threads}")


def _torch(gauges: bool, tick: Tick) -> Measured:
    if not importlib.util.find_spec("torch"):
        return Measured(None, "not measured: pip install 'fathom-gradients[bench]'")
    import torch

    from research.bench_torch import TorchSteps

    worst = disagreement(*SIZES)
    if not worst < TOLERANCE:
        raise RuntimeError(f"PyTorch and Fathom measure different numbers from the same weights, by {worst:.2g}")
    ours = Steps("measure=norms" if gauges else "measure=off")
    theirs = TorchSteps(ours.job, ours.program.init(ours.job.hp).params, gauges=gauges, steps=STEPS)
    threads = _best_served(theirs, torch.set_num_threads)
    return _side_by_side(theirs, ours, 20, tick, f", PyTorch threads: {threads}")


def disagreement(*overrides: str) -> float:
    """The greatest relative difference between what PyTorch and we measure on the first step, over all gauges.

    On a training set of one batch, so that its order does not matter. A mean is compared on the scale of its RMS.
    """
    from research.bench_torch import TorchSteps

    ours = Steps(*overrides, "data.limit=128")
    theirs = TorchSteps(ours.job, ours.program.init(ours.job.hp).params, gauges=True, steps=1).first_step()
    seen = ours.first_step()
    scales = seen | {"activation_mean": seen["activation_rms"]}
    return float(max(np.max(np.abs(seen[name] - value) / scales[name]) for name, value in theirs.items()))


def _environment(**changes: str) -> dict[str, str]:
    """Ours, less the settings that would change what a fresh process is asked to show."""
    ours = {"JAX_COMPILATION_CACHE_DIR", "WANDB_DIR", "WANDB_MODE"}
    return {name: value for name, value in os.environ.items() if name not in ours} | changes


def _fresh(call: str) -> Iterator[Any]:
    """What the iterator ``call`` of this module yields in a fresh process without a compilation cache."""
    code = f"import json; from research import bench_rows\nfor value in bench_rows.{call}: print(json.dumps(value), flush=True)"
    environment = _environment(JAX_ENABLE_COMPILATION_CACHE="false")
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        yield from map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"the process for {call} ended with code {child.returncode}")


def _depth(tick: Tick) -> Measured:
    deep, shallow = (lambda depth=depth: next(iter([*_fresh(f"seconds_to_start({depth})")])) for depth in (10_000, 10))
    return _side_by_side(deep, shallow, 3, tick)


def seconds_to_start(depth: int) -> Iterator[float]:
    """Seconds from a configuration to the first step, less the seconds of the same calls once compiled."""
    job = prepare(configured(f"model.depth={depth}", "model.width=32", "skip=inv_sqrt_depth"))
    program, seconds = make_program(job.spec), []
    for _ in range(2):
        start = time.perf_counter()
        state = program.init(job.hp)
        jax.block_until_ready(program.chunk(state, job.hp, job.data, jnp.int32(0), jnp.int32(1)))
        seconds.append(time.perf_counter() - start)
    yield seconds[0] - seconds[1]


class _Silent(Progress):
    def step(self, done: int, total: int, **values: float) -> None:
        """Says nothing."""


def _wandb(tick: Tick) -> Measured:
    repetitions, pairs = 5, []
    for pair in _fresh(f"host_loops({repetitions})"):
        pairs.append(pair)
        tick(len(pairs), repetitions)
    return _ratio(np.array(pairs), "")


def host_loops(repetitions: int, steps: int = 3000) -> Iterator[tuple[float, float]]:
    """Wall seconds of whole runs with W&B offline and without trackers, in turns; all is started up beforehand."""
    from research.run import train

    def run(tracker: str, steps: int) -> float:
        directory = Path(tempfile.mkdtemp(dir=root)) / "run"
        directory.mkdir()
        settings = (f"tracker={tracker}", f"tracker.dir={root}", f"train.steps={steps}", "model.depth=100")
        config = configured(*settings)
        start = time.perf_counter()
        train(config, directory, _Silent())
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as root:
        for tracker in ("wandb", "none"):
            run(tracker, 100)
        for n in range(repetitions):
            order = ("wandb", "none") if n % 2 else ("none", "wandb")
            seconds = {tracker: run(tracker, steps) for tracker in order}
            yield seconds["wandb"], seconds["none"]


def _seconds_of(*arguments: str, **environment: str) -> float:
    """Wall seconds of ``fathom`` with these arguments, from the start of its process to its end."""
    command = [sys.executable, "-c", "from research.cli import main; main()", *arguments]
    start = time.perf_counter()
    subprocess.run(
        command, env=_environment(**environment), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    return time.perf_counter() - start


def _process(run: Timed, repetitions: int, tick: Tick) -> Measured:
    seconds = []
    for n in range(repetitions):
        seconds.append(run())
        tick(n + 1, repetitions)
    return Measured(float(np.median(seconds)), f"{min(seconds):.2f} to {max(seconds):.2f} s")


def _first_step(caches: str) -> float:
    """The default run's single step in a process of its own; ``caches`` is the folder of compiled programs."""
    with tempfile.TemporaryDirectory() as directory:
        settings = ("train.steps=1", "tracker=none", f"hydra.run.dir={directory}/run")
        return _seconds_of("train", *settings, XDG_CACHE_HOME=caches)


def _first_step_cold(tick: Tick) -> Measured:
    prepare(configured())  # so that the dataset is there

    def cold() -> float:
        with tempfile.TemporaryDirectory() as caches:
            return _first_step(caches)

    return _process(cold, 5, tick)


def _first_step_warm(tick: Tick) -> Measured:
    with tempfile.TemporaryDirectory() as caches:
        _first_step(caches)
        return _process(lambda: _first_step(caches), 5, tick)


MEASURES: dict[str, Callable[[Tick], Measured]] = {
    "gauges": functools.partial(_steps_row, ("measure=norms",), ("measure=off",)),
    "gauges_skip": functools.partial(
        _steps_row, ("measure=norms", "skip=inv_sqrt_depth"), ("measure=off", "skip=inv_sqrt_depth")
    ),
    "full": functools.partial(_steps_row, ("measure=full",), ("measure=off",)),
    "torch": functools.partial(_torch, True),
    "torch_bare": functools.partial(_torch, False),
    "blas": _blas,
    "depth": _depth,
    "wandb": _wandb,
    "help": lambda tick: _process(lambda: _seconds_of("--help"), 5, tick),
    "first_step_cold": _first_step_cold,
    "first_step_warm": _first_step_warm,
}
