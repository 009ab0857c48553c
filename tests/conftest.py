"""Settings of every test, and what several rooms are tested with.

Shapes are checked at run time, arrays of different rank never broadcast silently, random keys are
typed.
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

# Not research.training.state: JAX builds states of placeholders, which are no arrays.
CHECKED = [
    "models",
    "gauges",
    *(f"training.{name}" for name in ("losses", "objective", "optimizers", "precision", "program")),
]
CHECKED += ["training.rounding", "training.scaling"]
install_import_hook([f"research.{room}" for room in CHECKED], "beartype.beartype")

import jax
import numpy as np
import pytest
import wandb

jax.config.update("jax_num_cpu_devices", 2)  # what is shared out among devices, on any machine

from research.records.runs import Run

from . import builders, oracle


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_legacy_prng_key", "error")
    yield


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Has all runs compiled as those of a single step are, and functions nearly so."""
    monkeypatch.setattr("research.runner.run_setup.FAST_COMPILE_STEPS", 10**9)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def make_architecture():
    """A small network, but for the changes that are asked for."""
    return builders.make_architecture


@pytest.fixture(scope="session")
def make_hparams():
    """The hyperparameters of a program or a network, but for the changes that are asked for."""
    return builders.make_hparams


@pytest.fixture(scope="session")
def distance():
    """‖a - b‖ / ‖b‖ over all leaves of two trees, in float64."""

    def flat(tree):
        return np.concatenate(
            [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
        )

    return lambda a, b: np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Compiled programs, prepared data and trackers' own files of this session; the user's are not
    touched.
    """
    place = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(place / name.lower()))
        patch.setenv("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR") or str(place / "tfds"))
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_BASE_URL", "HYDRA_FULL_ERROR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def listen() -> Callable[[Callable[[], int]], Said]:
    """Calls a function as a process of its own would be: its exit code and what it wrote to a pipe."""

    def call(function: Callable[[], int]) -> Said:
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
        return Said(int(code or 0), out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def fathom(listen) -> Callable[..., Said]:
    """Runs a command line of ``fathom`` in this process, in the present directory."""
    from research.cli import main as cli

    return lambda *arguments: listen(lambda: cli.run(arguments))


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen]:
    """Starts Python in a process of its own, in the present directory, without this one's W&B
    service.
    """

    def start(*arguments: object, **environment: str) -> subprocess.Popen:
        inherited = {
            name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"
        } | environment
        command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=inherited)

    return start


@pytest.fixture(scope="session")
def wandb_records(process) -> Callable[[Path], list[dict]]:
    """Everything that a W&B run holds, as its own command reads it back."""

    def read(folder: Path) -> list[dict]:
        wandb.teardown()  # behind the end of a run its own process is still writing
        out, err = process("-m", "wandb", "leet", "inspect", "--json", folder).communicate()
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
    """The default run, but small: 25 steps, 10 an epoch. Runs that differ in traced numbers alone
    share its program.
    """
    return ["model.depth=2", "model.width=8", "train.steps=25"]


@pytest.fixture(scope="session")
def finished(fathom, small, tmp_path_factory) -> tuple[Path, Said]:
    """A finished run with W&B, offline: its directory, and what was said. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(place):
        said = fathom("train", *small, "name=first")
    wandb.teardown()  # what its own process was still writing lies there now
    return place / "outputs" / "first" / ",".join(small), said


@pytest.fixture
def trained(fathom, small, workplace) -> Callable[..., tuple[Run, Said]]:
    """Trains a small run without a tracker and reads it back: the run, and what was said."""

    def train(*overrides, code=0):
        said = fathom(
            "train",
            *small,
            "tracker=none",
            f"name={len(list(workplace.glob('outputs/*')))}",
            *overrides,
        )
        assert said.code == code, said.err
        return Run(
            max(
                workplace.glob("outputs/*/*/run.json"), key=lambda file: file.stat().st_mtime_ns
            ).parent
        ), said

    return train


@pytest.fixture(scope="session")
def unrolled():
    """The oracle: the network of an ``Architecture`` written out layer by layer."""
    return oracle.unrolled
