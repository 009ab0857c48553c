"""The rows of the performance table that time whole sweeps: 32 runs of the default network, as one program and not.

A sweep's seconds begin with its configurations in a fresh process and end with its last record; the imports, the data
and W&B are left out on both sides.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from research.benchmark.processes import Silent, fresh
from research.benchmark.rows import Steps, configured
from research.benchmark.table import Measured, Tick, in_seconds, ratio
from research.config.hydra_config import register, resource_dir
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import RunSpec
from research.runner.session import prepare_jax, train_group
from research.sweeps.composition import Composer
from research.sweeps.jobs import jobs_of
from research.training.program import make_program

SEEDS = 16
RATES = (0.01, 0.003)
RUNS = SEEDS * len(RATES)
SAMPLE = 4  # runs of those that are each compiled alone: the others would take as long
STEPS = 340
JOBS = [
    "seed=range(0,250)",
    "optimizer.learning_rate=0.1,0.01",
    "skip=none,identity",
]  # 1,000 of them


def _members(root: str) -> list[RunSpec]:
    overrides = [
        (f"seed={seed}", f"optimizer.learning_rate={rate}")
        for seed in range(SEEDS)
        for rate in RATES
    ]
    made = [
        RunSpec(configured("tracker=none", f"train.steps={STEPS}", *job), Path(root, *job))
        for job in overrides
    ]
    for member in made:
        member.directory.mkdir(parents=True)
    return made


def _seconds(
    groups: list[list[RunSpec]], *, devices: int | None = None, forget: bool = False
) -> float:
    """Trains the groups one after the other; with ``forget``, each is compiled as if it were the first."""
    start = time.perf_counter()
    for group in groups:
        if forget:
            make_program.cache_clear()
            jax.clear_caches()
        failed = [
            result for result in train_group(group, devices=devices) if result["status"] != "done"
        ]
        assert not failed, failed[0]
    return time.perf_counter() - start


def sweep_seconds(kind: str) -> Iterator[float]:
    """Wall seconds of the 32 runs in this process: ``grouped``, ``one_core``, ``shared`` or ``compiled`` (each)."""
    from research.runner.session import Session

    Session.progress = Silent()
    prepare_jax(1 if kind in ("shared", "compiled") else None)
    make_run_setup(configured("tracker=none"))  # reads the data
    with tempfile.TemporaryDirectory() as root:
        members = _members(root)
        if kind == "compiled":
            yield (
                _seconds([[member] for member in members[:SAMPLE]], devices=1, forget=True)
                * RUNS
                / SAMPLE
            )
        elif kind == "shared":
            yield _seconds([[member] for member in members], devices=1)
        else:
            yield _seconds([members], devices=1 if kind == "one_core" else None)


def _against_grouped(kind: str, tick: Tick, repetitions: int = 3, note: str = "") -> Measured:
    pairs = []
    for n in range(repetitions):
        order = (kind, "grouped")[:: 1 if n % 2 else -1]
        seconds = {name: next(fresh(__name__, f"sweep_seconds('{name}')")) for name in order}
        pairs.append((seconds[kind], seconds["grouped"]))
        tick(n + 1, repetitions)
    return ratio(pairs, note)


def compiled_row(tick: Tick) -> Measured:
    """One process that compiles each run."""
    return _against_grouped("compiled", tick, note=f", of the former {SAMPLE} runs were timed")


def shared_row(tick: Tick) -> Measured:
    """One run after the other with one program, as the basic launcher has it."""
    return _against_grouped("shared", tick)


def cores_row(tick: Tick) -> Measured:
    """The steps alone on one device and on one a core, behind the compiling."""

    def steps(devices: int | None) -> float:
        return next(fresh(__name__, f"seconds_of_steps({devices})"))

    pairs = []
    for n in range(3):
        pairs.append((steps(1), steps(None)) if n % 2 else (steps(None), steps(1))[::-1])
        tick(n + 1, 3)
    return ratio(pairs, f", {os.cpu_count()} cores")


def seconds_of_steps(devices: int | None) -> Iterator[float]:
    """Seconds from the end of the first step to the end of the last one, all 32 runs as one group."""
    from research.runner.session import Session

    Session.progress = Silent()
    prepare_jax(None)
    with tempfile.TemporaryDirectory() as root:
        yield train_group(_members(root), devices=devices)[0]["seconds"]["train"]


def torch_row(tick: Tick) -> Measured:
    """A loop over the runs in PyTorch that measures the same, from the pace of its steps."""
    if not importlib.util.find_spec("torch"):
        return Measured(None, "not measured: pip install 'fathom-gradients[bench]'")
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    from research.benchmark.eager import EagerSteps
    from research.benchmark.rows import best_served

    ours = Steps("measure=norms", "train.batch_size=128")
    eager = EagerSteps(ours.job, ours.initial().params, style="hooks")
    threads = best_served(lambda: eager.time(60), torch.set_num_threads)
    pairs = []
    for n in range(3):
        grouped = next(fresh(__name__, "sweep_seconds('grouped')"))
        pairs.append((eager.time(STEPS) * STEPS * RUNS, grouped))
        tick(n + 1, 3)
    return ratio(pairs, f", PyTorch threads: {threads}, one of its runs timed")


def compose_row(tick: Tick) -> Measured:
    """1,000 jobs composed and checked."""
    return in_seconds(_compose, tick, repetitions=3)


def _compose() -> float:
    register()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        start = time.perf_counter()
        master = loader.load_configuration("config", ["name=x"], run_mode=RunMode.MULTIRUN)
        composer = Composer(loader)
        jobs = jobs_of({}, arguments=JOBS)
        identities = {composer.checked(master, job).identity for job in jobs}
        assert len(identities) == 1000
        return time.perf_counter() - start
