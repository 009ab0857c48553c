"""The rows of the performance table that time whole processes: compilation, trackers, the time to the first step."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research.benchmark.rows import configured
from research.benchmark.table import Measured, Tick, in_seconds, ratio, side_by_side
from research.runner.progress import Progress
from research.runner.run_setup import make_run_setup
from research.training.program import make_program


def _environment(**changes: str) -> dict[str, str]:
    """Ours, less what would change the thing that a fresh process is to show."""
    hidden = ("JAX_COMPILATION_CACHE_DIR", "WANDB_DIR", "WANDB_MODE")
    return {name: value for name, value in os.environ.items() if name not in hidden} | changes


def fresh(module: str, call: str) -> Iterator[Any]:
    """What the iterator ``call`` of a module yields in a fresh process without a compilation cache."""
    code = f"import json, {module} as rows\nfor value in rows.{call}: print(json.dumps(value), flush=True)"
    environment = _environment(JAX_ENABLE_COMPILATION_CACHE="false")
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        yield from map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"the process for {call} ended with code {child.returncode}")


def depth_row(tick: Tick) -> Measured:
    """Whether depth costs compile time."""
    return _starts(tick, 3, (10_000, 10), "model.width=32", "skip=inv_sqrt_depth")


def depth_resnet_row(tick: Tick) -> Measured:
    """The same where blocks change shape."""
    return _starts(tick, 1, (110, 20), "model=resnet_cifar", "train.batch_size=8")


def _starts(tick: Tick, repetitions: int, depths: tuple[int, int], *overrides: str) -> Measured:
    def start(depth: int) -> float:
        (seconds,) = fresh(__name__, f"seconds_to_start{(f'model.depth={depth}', *overrides)}")
        return seconds

    return side_by_side(lambda: start(depths[0]), lambda: start(depths[1]), repetitions, tick)


def seconds_to_start(*overrides: str) -> Iterator[float]:
    """Seconds from a configuration to the end of the first step, less those of the same calls once compiled."""
    job = make_run_setup(configured(*overrides))
    program = make_program(job.spec)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        state = program.init(job.hp)
        jax.block_until_ready(program.chunk(state, job.hp, job.data, jnp.int32(0), jnp.int32(1)))
        seconds.append(time.perf_counter() - start)
    yield seconds[0] - seconds[1]


def wandb_row(tick: Tick, repetitions: int = 5) -> Measured:
    """What logging costs a run."""
    pairs = []
    for pair in fresh(__name__, f"host_loops({repetitions})"):
        pairs.append(pair)
        tick(len(pairs), repetitions)
    return ratio(pairs)


class Silent(Progress):
    """No display of its own."""

    def step(self, done: int, total: int, **values: float) -> None:
        """Says nothing: the display belongs to the rows."""


def host_loops(repetitions: int, steps: int = 3000) -> Iterator[tuple[float, float]]:
    """Wall seconds of whole runs, in turns with W&B offline and without trackers, after a short one of each kind."""
    from research.runner.loop import train_runs
    from research.runner.run_spec import RunSpec

    def run(tracker: str, steps: int) -> float:
        directory = Path(tempfile.mkdtemp(dir=root)) / "run"
        directory.mkdir()
        settings = (
            f"tracker={tracker}",
            f"tracker.dir={root}",
            f"train.steps={steps}",
            "model.depth=100",
        )
        config, start = configured(*settings), time.perf_counter()
        train_runs([RunSpec(config, directory)], Silent())
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as root:
        for tracker in ("wandb", "none"):
            run(tracker, 100)
        for n in range(repetitions):
            order = ("wandb", "none")[:: 1 if n % 2 else -1]
            seconds = {tracker: run(tracker, steps) for tracker in order}
            yield seconds["wandb"], seconds["none"]


def help_row(tick: Tick) -> Measured:
    """``fathom --help``."""
    return in_seconds(_help, tick)


def _help() -> float:
    """Wall seconds of ``fathom --help``, from the start of its process to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from research.cli.main import main; main()", "--help"]
    subprocess.run(command, env=_environment(), check=True, capture_output=True)
    return time.perf_counter() - start


_TELLING = """
import time
from research.cli.main import main
from research.runner.run_writer import RunWriter

def tell(self):
    print("first step done at", time.time())
    start_training(self)

start_training, RunWriter.start_training = RunWriter.start_training, tell
main()
"""


def _first_step(caches: str) -> float:
    """Seconds from a process's start to the end of the first step of the default run; programs are kept in ``caches``.

    Two steps, so that the held-out set is evaluated after the first one.
    """
    with tempfile.TemporaryDirectory() as directory:
        words = ("train", "train.steps=2", "tracker=none", f"hydra.run.dir={directory}/run")
        command, start = [sys.executable, "-c", _TELLING, *words], time.time()
        said = subprocess.run(
            command, env=_environment(XDG_CACHE_HOME=caches), check=True, capture_output=True
        )
    (line,) = (
        line for line in said.stdout.decode().splitlines() if line.startswith("first step done at")
    )
    return float(line.split()[-1]) - start


def cold_row(tick: Tick) -> Measured:
    """The first step of the default run, nothing compiled before."""
    make_run_setup(configured())  # so that the dataset is there

    def run() -> float:
        with tempfile.TemporaryDirectory() as caches:
            return _first_step(caches)

    return in_seconds(run, tick)


def warm_row(tick: Tick) -> Measured:
    """The same with every program compiled before."""
    with tempfile.TemporaryDirectory() as caches:
        _first_step(caches)
        return in_seconds(lambda: _first_step(caches), tick)
