"""Rows about whole processes: compilation, trackers, and the time to the first step."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from research.benchmark.fresh_process import (
    call_in_fresh_process,
    iterate_in_fresh_process,
    make_environment,
)
from research.benchmark.steps import compose_config
from research.benchmark.timing import (
    Measurement,
    ReportProgress,
    TimingPair,
    alternate,
    compare,
    median_ratio,
    median_seconds,
    report_each,
)
from research.runner.loop import train_runs
from research.runner.progress import Silent
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import RunSpec
from research.training.program import make_program

FINDINGS_RUNS = 5
FINDINGS_EVERY = 5  # seconds
FINDINGS_STEPS = 8000  # long enough for several verdicts
WANDB_PAIRS = 5
WANDB_STEPS = 3000
WITHOUT_TRACKERS = ("tracker=none",)


def compare_mlp_depths(report_progress: ReportProgress) -> Measurement:
    """The time to the first step of a deep MLP / of a shallow one."""
    overrides = ("model.width=32", "skip=inv_sqrt_depth")
    return _compare_depths(report_progress, 3, (10_000, 10), overrides)


def compare_resnet_depths(report_progress: ReportProgress) -> Measurement:
    """The same for a network whose blocks change shape."""
    overrides = ("model=resnet_cifar", "train.batch_size=8")
    return _compare_depths(report_progress, 1, (110, 20), overrides)


def _compare_depths(
    report_progress: ReportProgress,
    repetitions: int,
    depths: tuple[int, int],
    overrides: tuple[str, ...],
) -> Measurement:
    def start_deep() -> float:
        return call_in_fresh_process(seconds_to_start, f"model.depth={depths[0]}", *overrides)

    def start_shallow() -> float:
        return call_in_fresh_process(seconds_to_start, f"model.depth={depths[1]}", *overrides)

    return compare(start_deep, start_shallow, repetitions, report_progress)


def seconds_to_start(*overrides: str) -> Iterator[float]:
    """Yields the seconds to the end of the first step, less those of the step itself."""
    setup = make_run_setup(compose_config(*overrides))
    program = make_program(setup.program_config)
    seconds = []
    for _ in range(2):  # the second time everything is compiled
        start = time.perf_counter()
        state = program.init(setup.hp)
        first = jnp.int32(0)
        result = program.chunk(state, setup.hp, setup.data, first, jnp.int32(1))
        jax.block_until_ready(result)
        seconds.append(time.perf_counter() - start)
    yield seconds[0] - seconds[1]


def compare_wandb(report_progress: ReportProgress) -> Measurement:
    """A run with W&B offline / without trackers."""
    pairs = _wandb_pairs_from_fresh_process()
    return median_ratio(report_each(pairs, WANDB_PAIRS, report_progress))


def _wandb_pairs_from_fresh_process() -> Iterator[TimingPair]:
    for seconds in iterate_in_fresh_process(time_wandb_pairs):
        yield TimingPair(*seconds)


def time_wandb_pairs() -> Iterator[tuple[float, float]]:
    """Yields the seconds of a whole run with W&B offline and without trackers."""
    with tempfile.TemporaryDirectory() as root:
        recorded = wandb_overrides(root)
        for overrides in (recorded, WITHOUT_TRACKERS):
            _time_run(root, overrides, 100)  # compiles

        def with_wandb() -> float:
            return _time_run(root, recorded, WANDB_STEPS)

        def without_trackers() -> float:
            return _time_run(root, WITHOUT_TRACKERS, WANDB_STEPS)

        for pair in alternate(with_wandb, without_trackers, WANDB_PAIRS):
            yield pair.subject, pair.baseline


def wandb_overrides(root: str) -> tuple[str, ...]:
    """The overrides of a run that is recorded in W&B, whose files lie in ``root``."""
    return ("tracker=wandb", f"tracker.dir={root}")


def compare_live_findings(report_progress: ReportProgress) -> Measurement:
    """A run whose findings are formed while it lasts / the same less forming them, in CPU seconds.

    The processor seconds of two runs differ by more than the findings take, so both sides are of
    one run.
    """
    pairs = _findings_pairs_from_fresh_process()
    note = f", CPU seconds, {FINDINGS_RUNS} runs"
    return median_ratio(report_each(pairs, FINDINGS_RUNS, report_progress), note)


def _findings_pairs_from_fresh_process() -> Iterator[TimingPair]:
    for seconds in iterate_in_fresh_process(time_findings):
        yield TimingPair(*seconds)


def time_findings() -> Iterator[tuple[float, float]]:
    """Yields the CPU seconds of a run with findings every few seconds, and without forming them."""
    with tempfile.TemporaryDirectory() as root:
        _time_findings_of_run(root, 100)  # compiles
        for _ in range(FINDINGS_RUNS):
            yield _time_findings_of_run(root, FINDINGS_STEPS)


class _VerdictTimes(Silent):
    """Adds up the CPU seconds of the verdicts that are formed while a run lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def report_verdict(self, cpu_seconds: float) -> None:
        """Adds the seconds of a verdict."""
        self.total += cpu_seconds


def _time_findings_of_run(root: str, steps: int) -> tuple[float, float]:
    """The CPU seconds of a run of the default network, and those without its verdicts.

    Args:
        root: where its directory is made.
        steps: how many steps it has.
    """
    verdicts = _VerdictTimes()
    directory = Path(tempfile.mkdtemp(dir=root)) / "run"
    directory.mkdir()
    config = compose_config(
        "tracker=none",
        f"diagnose.every={FINDINGS_EVERY}",
        f"train.steps={steps}",
        f"train.eval_every={steps}",
    )
    start = time.process_time()
    train_runs([RunSpec(config, directory)], verdicts)
    seconds = time.process_time() - start
    return seconds, seconds - verdicts.total


def _time_run(
    root: str,
    overrides: Sequence[str],
    steps: int,
) -> float:
    directory = Path(tempfile.mkdtemp(dir=root)) / "run"
    directory.mkdir()
    config = compose_config(
        *overrides,
        f"train.steps={steps}",
        "model.depth=100",
    )
    start = time.perf_counter()
    train_runs([RunSpec(config, directory)], Silent())
    return time.perf_counter() - start


def time_help(report_progress: ReportProgress) -> Measurement:
    """Seconds of ``fathom --help``."""
    return median_seconds(_time_help_once, report_progress)


def _time_help_once() -> float:
    start = time.perf_counter()
    command = [sys.executable, "-c", "from research.cli.main import main; main()", "--help"]
    subprocess.run(command, env=make_environment(), check=True, capture_output=True)
    return time.perf_counter() - start


FIRST_STEP_DONE = "first step done at"
# Runs the command line and prints when the first step is done.
TRAIN_AND_PRINT_TIME = f"""
import time
from research.cli.main import main
from research.runner.run_writer import RunWriter

compiled = RunWriter.start_training

def print_time(self):
    print("{FIRST_STEP_DONE}", time.time())
    compiled(self)

RunWriter.start_training = print_time
main()
"""


def time_cold_start(report_progress: ReportProgress, *, repetitions: int = 5) -> Measurement:
    """Seconds to the end of the first step of the default run, with nothing compiled."""
    make_run_setup(compose_config())  # prepares the dataset

    def start() -> float:
        with tempfile.TemporaryDirectory() as cache:
            return _time_first_step(cache)

    return median_seconds(start, report_progress, repetitions)


def time_warm_start(report_progress: ReportProgress, *, repetitions: int = 5) -> Measurement:
    """The same with every program in the compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        _time_first_step(cache)

        def start() -> float:
            return _time_first_step(cache)

        return median_seconds(start, report_progress, repetitions)


def _time_first_step(cache: str) -> float:
    """Seconds from the start of a process to the end of the first step of the default run.

    The run has two steps, so that the evaluation on the held-out set comes after the first one.

    Args:
        cache: The directory of the compilation cache.
    """
    with tempfile.TemporaryDirectory() as directory:
        words = ["train", "train.steps=2", "tracker=none", f"hydra.run.dir={directory}/run"]
        command = [sys.executable, "-c", TRAIN_AND_PRINT_TIME, *words]
        environment = make_environment(XDG_CACHE_HOME=cache)
        start = time.time()
        process = subprocess.run(command, env=environment, check=True, capture_output=True)
    for line in process.stdout.decode().splitlines():
        if line.startswith(FIRST_STEP_DONE):
            return float(line.removeprefix(FIRST_STEP_DONE)) - start
    raise RuntimeError(f"the run did not print when its first step was done: {words}")
