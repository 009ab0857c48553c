"""Settings of every test, and fixtures that the tests of several rooms use.

Shapes are checked at run time, arrays of different rank never broadcast silently, and random keys
are typed. Warnings are errors (pyproject.toml).
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

from .checking import check

# Not research.training.state: JAX builds states of placeholders, which are no arrays.
CHECKED = [
    "research.models",
    "research.gauges",
    "research.training.losses",
    "research.training.objective",
    "research.training.optimizers",
    "research.training.precision",
    "research.training.program",
    "research.training.rounding",
    "research.training.scaling",
]
install_import_hook(CHECKED, f"{check.__module__}.{check.__name__}")

import jax
import numpy as np
import pytest
import wandb

jax.config.update("jax_num_cpu_devices", 2)  # so that batches are split on every machine

from research.config.notices import notify_once
from research.records.runs import Run
from research.training.compiler_options import FAST_COMPILE_OPTIONS

from . import builders, oracle
from .optimizations import optimizations


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_legacy_prng_key", "error")
    yield


@pytest.fixture(autouse=True)
def _nothing_said_before():
    """A line that a process prints once is printed in every test that expects it."""
    notify_once.cache_clear()


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Compiles all runs as quickly as runs of a single step, and other functions about so."""
    monkeypatch.setattr("research.runner.run_setup.FAST_COMPILE_STEPS", 10**9)
    monkeypatch.setattr("research.training.program.SHORT_COMPILE_OPTIONS", FAST_COMPILE_OPTIONS)
    with optimizations(disabled=True):
        yield


@pytest.fixture(scope="session")
def make_architecture():
    """Makes a small network; arguments change its defaults."""
    return builders.make_architecture


@pytest.fixture(scope="session")
def make_hparams():
    """Makes the hyperparameters of a program or a network; arguments change their defaults."""
    return builders.make_hparams


@pytest.fixture(scope="session")
def distance():
    """‖a - b‖ / ‖b‖ over all leaves of two trees, in float64."""

    def flatten(tree):
        leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
        return np.concatenate(leaves)

    def distance(a, b):
        reference = flatten(b)
        return np.linalg.norm(flatten(a) - reference) / np.linalg.norm(reference)

    return distance


class Result(NamedTuple):
    """The exit code of a command, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Directories for what programs cache, so that the user's directories stay as they are."""
    place = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(place / name.lower()))
        patch.setenv("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR") or str(place / "tfds"))
        patch.setenv("TRACKIO_DIR", str(place / "trackio"))  # trackio has one for each process
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_BASE_URL", "HYDRA_FULL_ERROR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def listen() -> Callable[[Callable[[], int]], Result]:
    """Calls a function as the main function of a process whose output goes to pipes."""

    def call(function: Callable[[], int]) -> Result:
        out = io.StringIO()
        err = io.StringIO()
        on_termination = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HYDRA_FULL_ERROR", "")
            patch.setattr(sys, "argv", ["fathom"])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = function()
                except SystemExit as ended:
                    code = ended.code
        signal.signal(signal.SIGTERM, on_termination)
        return Result(int(code or 0), out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def fathom(listen) -> Callable[..., Result]:
    """Runs a command line of ``fathom`` in this process, in the current directory."""
    from research.cli import main as cli

    def run(*arguments: str) -> Result:
        return listen(lambda: cli.run(arguments))

    return run


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen]:
    """Starts Python in a new process, in the current directory, with its own W&B service."""

    def start(*arguments: object, **changes: str) -> subprocess.Popen:
        environment = dict(os.environ)
        environment.pop("WANDB_SERVICE", None)
        environment.update(changes)
        words = [str(argument) for argument in arguments]
        return subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return start


@pytest.fixture(scope="session")
def wandb_records(process) -> Callable[[Path], list[dict]]:
    """Reads everything that an offline W&B run holds, with W&B's own command."""

    def read(folder: Path) -> list[dict]:
        wandb.teardown()  # waits for W&B's process, which still writes after the end of a run
        reader = process("-m", "wandb", "leet", "inspect", "--json", folder)
        out, err = reader.communicate()
        assert out, err
        return [json.loads(line) for line in out.splitlines()]

    return read


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Settings that make the default run small: 25 steps, 10 an epoch."""
    return ["model.depth=2", "model.width=8", "train.steps=25"]


@pytest.fixture(scope="session")
def finished(fathom, small, tmp_path_factory) -> tuple[Path, Result]:
    """The directory of a finished run with W&B, offline, which must not change; the result.

    It is compiled as other runs are, also where the first test that uses it compiles quickly.
    """
    place = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(place), optimizations(disabled=False):
        result = fathom("train", *small, "name=first")
    wandb.teardown()  # waits for W&B's process to write the rest
    return place / "outputs" / "first" / "depth=2,width=8,steps=25", result


@pytest.fixture
def trained(fathom, small, workplace) -> Callable[..., tuple[Run, Result]]:
    """Trains a small run without a tracker; returns the run and the command's result."""

    def train(*overrides, code=0):
        num_studies = len(list(workplace.glob("outputs/*")))
        result = fathom("train", *small, "tracker=none", f"name={num_studies}", *overrides)
        assert result.code == code, result.err
        files = workplace.glob("outputs/*/*/run.json")
        newest = max(files, key=lambda file: file.stat().st_mtime_ns)
        return Run(newest.parent), result

    return train


@pytest.fixture(scope="session")
def unrolled():
    """The oracle: the network of an ``Architecture`` written out layer by layer."""
    return oracle.unrolled
