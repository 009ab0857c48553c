"""Rows about whole commands: the time that a user waits for a sweep, from start to exit.

Every command is a process of its own, with a directory of its own. W&B is offline. The dataset is
prepared beforehand.
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research.benchmark.fresh_process import make_environment
from research.benchmark.loop_settings import LoopRun, write_runs
from research.benchmark.steps import choose_num_threads, compose_config
from research.benchmark.timing import Measurement, ReportProgress, compare
from research.benchmark.torch_rows import NOT_INSTALLED, check_agreement, is_torch_installed
from research.reproduce.experiments import expected_runs
from research.runner.run_setup import make_run_setup

MAIN_JOB = "vanishing_gradients"
MAIN_JOB_PAIRS = 3  # the least that have quartiles, because each takes minutes
THREAD_TRIAL_STEPS = 20
SHORT_RUNS = 24
SHORT_STEPS = 100
SHORT_PAIRS = 5


@dataclass(frozen=True)
class MainJob:
    """A sweep that both sides train.

    Attributes:
        words: Our command, without ``fathom``.
        loop_runs: The same runs, for the PyTorch loop.
    """

    words: tuple[str, ...]
    loop_runs: tuple[LoopRun, ...]


def reproduction(experiment: str) -> MainJob:
    """The job of an experiment, whose networks and settings the PyTorch loop knows."""
    loop_runs = []
    for settings in expected_runs(experiment).values():
        loop_run = LoopRun(
            activation=settings["activation.kind"],
            skip=settings["skip.kind"],
            depth=settings["model.depth"],
            width=settings["model.width"],
            seed=settings["seed"],
            steps=settings["train.steps"],
            batch_size=settings["train.batch_size"],
            learning_rate=settings["optimizer.learning_rate"],
            momentum=settings["optimizer.momentum"],
        )
        loop_runs.append(loop_run)
    return MainJob(("reproduce", experiment), tuple(loop_runs))


def compare_main_job(
    report_progress: ReportProgress,
    *,
    warm: bool,
    job: MainJob | None = None,
    pairs: int = MAIN_JOB_PAIRS,
    num_threads: int | None = None,
) -> Measurement:
    """The PyTorch loop / our command, for the same runs.

    Args:
        report_progress: Called before the first pair and after each pair.
        warm: Whether our command finds its programs compiled; else all of its caches are empty.
        job: The runs; None for the reproduction of ``MAIN_JOB``.
        pairs: The number of pairs of timings.
        num_threads: The threads of PyTorch; None for the faster one of one, and one for each core.

    Raises:
        RuntimeError: The sides do not measure the same numbers, or a command failed.
    """
    if not is_torch_installed():
        return NOT_INSTALLED
    report_progress(0, pairs)
    job = job or reproduction(MAIN_JOB)
    _check_same_gauges(job)
    loop = LoopCommand(job.loop_runs)
    loop.num_threads = num_threads or _choose_threads(loop.runs)

    def time_ours_cold() -> float:
        with tempfile.TemporaryDirectory() as empty_cache:
            return time_fathom(job.words, empty_cache)

    note = f", {pairs} pairs, PyTorch threads: {loop.num_threads}"
    if not warm:
        return compare(loop.time, time_ours_cold, pairs, report_progress, note)
    with tempfile.TemporaryDirectory() as cache:
        time_fathom(job.words, cache)  # compiles

        def time_ours_warm() -> float:
            return time_fathom(job.words, cache)

        return compare(loop.time, time_ours_warm, pairs, report_progress, note)


def _check_same_gauges(job: MainJob) -> None:
    """Compares the gauges of the deepest networks.

    Raises:
        RuntimeError: They differ.
    """
    from research.benchmark.torch_steps import loop_disagreement

    deepest = max(run.depth for run in job.loop_runs)
    first_seed = job.loop_runs[0].seed
    for run in job.loop_runs:
        if run.depth == deepest and run.seed == first_seed:
            check_agreement(loop_disagreement(run))


class LoopCommand:
    """The command of the PyTorch loop.

    Args:
        runs: What it trains.
    """

    def __init__(self, runs: Sequence[LoopRun]):
        self.runs = runs
        self.num_threads = 1

    def set_num_threads(self, num_threads: int) -> None:
        """Sets the threads that PyTorch uses."""
        self.num_threads = num_threads

    def time(self) -> float:
        """Runs the command; returns its seconds."""
        with tempfile.TemporaryDirectory() as directory:
            settings = Path(directory) / "runs.json"
            write_runs(self.runs, settings)
            module = "research.benchmark.torch_loop"
            threads = str(self.num_threads)
            words = ["-m", module, str(settings), directory, "--threads", threads]
            seconds = _time_command(words)
            num_results = len(list(Path(directory).glob("*.npz")))
        assert num_results == len(self.runs)
        return seconds


def _choose_threads(runs: Sequence[LoopRun]) -> int:
    """The faster number of threads for the runs of the first seed, with few steps."""
    first_seed = runs[0].seed
    trial_runs = []
    for run in runs:
        if run.seed == first_seed:
            steps = min(run.steps, THREAD_TRIAL_STEPS)
            trial_runs.append(dataclasses.replace(run, steps=steps))
    trial = LoopCommand(trial_runs)
    return choose_num_threads(trial.time, trial.set_num_threads)


def compare_short_runs(
    report_progress: ReportProgress,
    *,
    runs: int = SHORT_RUNS,
    steps: int = SHORT_STEPS,
    pairs: int = SHORT_PAIRS,
) -> Measurement:
    """A grouped sweep of short runs with W&B offline / without trackers, compiled before.

    Args:
        report_progress: Called before the first pair and after each pair.
        runs: The number of runs, which differ in their seeds.
        steps: The steps of each run.
        pairs: The number of pairs of timings.

    Raises:
        RuntimeError: A command failed.
    """
    report_progress(0, pairs)
    words = (
        "train",
        "-m",
        "hydra/launcher=grouped",
        "name=short",
        f"seed=range(0,{runs})",
        f"train.steps={steps}",
    )
    with tempfile.TemporaryDirectory() as cache:

        def time_with_wandb() -> float:
            return time_fathom([*words, "tracker=wandb"], cache)

        def time_without_trackers() -> float:
            return time_fathom([*words, "tracker=none"], cache)

        time_without_trackers()  # compiles
        return compare(time_with_wandb, time_without_trackers, pairs, report_progress)


def time_fathom(words: Sequence[str], cache: str) -> float:
    """Runs a sweep in a new directory; returns the seconds of the command.

    Args:
        words: The command, without ``fathom``.
        cache: The directory of the caches.

    Raises:
        RuntimeError: The command failed.
    """
    make_run_setup(compose_config())  # prepares the dataset
    with tempfile.TemporaryDirectory() as directory:
        place = f"hydra.sweep.dir={directory}/runs"
        return _time_command(
            ["-m", "research", *words, place],
            XDG_CACHE_HOME=cache,
            WANDB_MODE="offline",
            WANDB_DIR=directory,
        )


def _time_command(words: Sequence[str], **variables: str) -> float:
    """Seconds of a Python process.

    Args:
        words: Its arguments.
        **variables: Added to its environment.

    Raises:
        RuntimeError: Its exit code is not 0; the message has what it printed last.
    """
    environment = make_environment(**variables)
    command = [sys.executable, *words]
    start = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    seconds = time.perf_counter() - start
    if ended.returncode != 0:
        printed = (ended.stdout + ended.stderr)[-2000:]
        command_text = " ".join(words)
        raise RuntimeError(f"{command_text} ended with code {ended.returncode}: {printed}")
    return seconds
