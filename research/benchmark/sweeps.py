"""Rows about whole sweeps: 32 runs of the default network, as one compiled program or separately.

A sweep is timed in a fresh process, from its configurations to its last record. Imports, the data
and W&B are not part of the time, on either side.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from research.benchmark.fresh_process import call_in_fresh_process
from research.benchmark.steps import compose_config
from research.benchmark.timing import Measurement, ReportProgress, compare, median_seconds
from research.config.hydra_config import register_with_hydra, resource_dir
from research.runner.progress import Silent
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import RunSpec
from research.runner.session import Session, prepare_jax, train_group
from research.sweeps.composition import Composer
from research.sweeps.jobs import expand_jobs
from research.training.program import make_program

NUM_SEEDS = 16
LEARNING_RATES = (0.01, 0.003)
NUM_RUNS = NUM_SEEDS * len(LEARNING_RATES)
NUM_COMPILED_RUNS = 4  # timed of the runs that are compiled separately; the others take as long
STEPS = 340
REPETITIONS = 3
GRID_OF_1000_JOBS = [
    "seed=range(0,250)",
    "optimizer.learning_rate=0.1,0.01",
    "skip=none,identity",
]


def compare_compiling_each(report_progress: ReportProgress) -> Measurement:
    """One process that compiles every run / the grouped sweep."""
    note = f", of the former {NUM_COMPILED_RUNS} runs were timed"
    return _compare_with_grouped("compiled", report_progress, note)


def compare_shared_program(report_progress: ReportProgress) -> Measurement:
    """One run after the other with one program, as with the basic launcher / the grouped sweep."""
    return _compare_with_grouped("shared", report_progress)


def _compare_with_grouped(
    kind: str,
    report_progress: ReportProgress,
    note: str = "",
) -> Measurement:
    def time_kind() -> float:
        return call_in_fresh_process(sweep_seconds, kind)

    return compare(time_kind, time_grouped_sweep, REPETITIONS, report_progress, note)


def time_grouped_sweep() -> float:
    """Seconds of the 32 runs as one group."""
    return call_in_fresh_process(sweep_seconds, "grouped")


def sweep_seconds(kind: str) -> Iterator[float]:
    """Yields the seconds of the 32 runs in this process.

    Args:
        kind: ``grouped`` trains them as one group, ``shared`` one by one with one program, and
            ``compiled`` compiles a program for each.
    """
    is_grouped = kind == "grouped"
    devices = None if is_grouped else 1
    prepare_jax(devices)
    make_run_setup(compose_config("tracker=none"))  # reads the data
    with tempfile.TemporaryDirectory() as root:
        run_specs = _make_run_specs(root)
        if is_grouped:
            yield _time_groups([run_specs], devices=None)
        elif kind == "shared":
            yield _time_groups([[run_spec] for run_spec in run_specs], devices=1)
        else:
            sample = [[run_spec] for run_spec in run_specs[:NUM_COMPILED_RUNS]]
            seconds = _time_groups(sample, devices=1, compile_each=True)
            yield seconds * NUM_RUNS / NUM_COMPILED_RUNS


def _make_run_specs(root: str) -> list[RunSpec]:
    run_specs = []
    for seed in range(NUM_SEEDS):
        for learning_rate in LEARNING_RATES:
            job = (f"seed={seed}", f"optimizer.learning_rate={learning_rate}")
            config = compose_config("tracker=none", f"train.steps={STEPS}", *job)
            run_specs.append(RunSpec(config, Path(root, *job)))
    for run_spec in run_specs:
        run_spec.directory.mkdir(parents=True)
    return run_specs


def _time_groups(
    groups: Sequence[Sequence[RunSpec]],
    *,
    devices: int | None,
    compile_each: bool = False,
) -> float:
    """Seconds of training the groups one after the other.

    Args:
        groups: The runs of each group.
        devices: The largest number of devices that are used, None for all.
        compile_each: Whether each group is compiled as if it were the first.
    """
    session = Session(progress=Silent())
    start = time.perf_counter()
    for group in groups:
        if compile_each:
            make_program.cache_clear()
            jax.clear_caches()
        for result in train_group(group, session, devices=devices):
            assert result["status"] == "done", result
    return time.perf_counter() - start


def compare_cores(report_progress: ReportProgress) -> Measurement:
    """The grouped sweep's steps, without compiling, on one core / on all cores."""

    def time_one_core() -> float:
        return call_in_fresh_process(seconds_of_steps, 1)

    def time_all_cores() -> float:
        return call_in_fresh_process(seconds_of_steps, None)

    note = f", {os.cpu_count()} cores"
    return compare(time_one_core, time_all_cores, REPETITIONS, report_progress, note)


def seconds_of_steps(devices: int | None) -> Iterator[float]:
    """Yields the seconds from the end of the first step to the end of the last one."""
    prepare_jax(None)
    with tempfile.TemporaryDirectory() as root:
        session = Session(progress=Silent())
        results = train_group(_make_run_specs(root), session, devices=devices)
        yield results[0]["seconds"]["train"]


def time_composition(report_progress: ReportProgress) -> Measurement:
    """Seconds in which 1,000 jobs are composed and checked."""
    return median_seconds(_compose_1000_jobs, report_progress, repetitions=3)


def _compose_1000_jobs() -> float:
    register_with_hydra()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        start = time.perf_counter()
        master = loader.load_configuration("config", ["name=x"], run_mode=RunMode.MULTIRUN)
        composer = Composer(loader)
        identities = set()
        for job in expand_jobs({}, arguments=GRID_OF_1000_JOBS):
            identities.add(composer.make_run_spec(master, job).identity)
        assert len(identities) == 1000
        return time.perf_counter() - start
