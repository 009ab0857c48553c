"""Settings of every test, and what several rooms are tested with.

Shapes are checked at run time, arrays of different rank never broadcast silently, random keys are typed. ``unrolled``
is the oracle: the network written out layer by layer in float64, sharing no line with the package.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # what is shared out among devices, on any machine

from research import config
from research.models.architecture import Architecture


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_legacy_prng_key", "error")
    yield


@pytest.fixture(scope="session")
def make_architecture():
    """A small network, but for the changes that are asked for."""
    usual: dict[str, Any] = dict(shape=(5,), classes=4, depth=3, width=8, bias=True, activation="tanh", init="lecun")
    usual |= dict(skip="none", norm="none", placement="pre", dtype="float32", param_dtype="float32")
    usual |= dict(groups=2, growth=3)
    return lambda **changes: Architecture(**(usual | changes))


@pytest.fixture(scope="session")
def make_numbers():
    """Every traced number of the configuration, and ``train.steps``; a list holds one value for each of the runs."""

    def make(changes=None, *, runs=1, dtype="float32"):
        values = config.traced(config.Config()) | {"train.steps": 10} | (changes or {})
        unknown = set(changes or {}) - set(config.traced(config.Config())) - {"train.steps"}
        assert not unknown, f"not traced: {unknown}"
        counts = {"seed": np.uint32} | dict.fromkeys(
            ("optimizer.warmup_steps", "train.steps", "precision.growth_interval"), np.int32
        )
        shape = () if runs is None else (runs,)
        wide = {path: np.asarray(value, counts.get(path, dtype)) for path, value in values.items()}
        return {path: jnp.asarray(np.broadcast_to(value, shape)) for path, value in wide.items()}

    return make


@pytest.fixture(scope="session")
def distance():
    """‖a - b‖ / ‖b‖ over all leaves of two trees, in float64."""

    def flat(tree):
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])

    return lambda a, b: np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Compiled programs, prepared data and trackers' own files of this session; the user's are not touched."""
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
        from research.progress import Progress
        from research.train import Session

        out, err, on_termination = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HYDRA_FULL_ERROR", "")
            patch.setattr(sys, "argv", ["fathom"])
            patch.setattr(Session, "progress", Progress())
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
    from research import cli

    return lambda *arguments: listen(lambda: cli.run(arguments))


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen]:
    """Starts Python in a process of its own, in the present directory, without this one's W&B service."""

    def start(*arguments: object, **environment: str) -> subprocess.Popen:
        inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} | environment
        command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=inherited)

    return start


@pytest.fixture(scope="session")
def wandb_records(process) -> Callable[[Path], list[dict]]:
    """Everything that a W&B run holds, as its own command reads it back."""

    def read(folder: Path) -> list[dict]:
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
    """The default run, but small: 25 steps, 10 an epoch. Runs that differ in traced numbers alone share its program."""
    return ["model.depth=2", "model.width=8", "train.steps=25"]


@pytest.fixture(scope="session")
def finished(fathom, small, tmp_path_factory) -> tuple[Path, Said]:
    """A finished run with W&B, offline: its directory, and what was said. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(place):
        said = fathom("train", *small, "name=first")
    return place / "outputs" / "first" / ",".join(small), said


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
ACTIVATIONS = {
    "relu": lambda z: jnp.where(z > 0, z, 0),
    "tanh": lambda z: 1 - 2 / (jnp.exp(2 * z) + 1),
    "sigmoid": lambda z: 1 / (1 + jnp.exp(-z)),
    "gelu": lambda z: z * 0.5 * (1 + jax.scipy.special.erf(z / 2**0.5)),
    "silu": lambda z: z / (1 + jnp.exp(-z)),
    "elu": lambda z: jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1),
    "selu": lambda z: SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * (jnp.exp(jnp.minimum(z, 0)) - 1)),
    "softsign": lambda z: z / (1 + jnp.abs(z)),
    "linear": lambda z: z,
}


class Shortcut(NamedTuple):
    """What is known where branch and shortcut meet: of layer ``layer`` = 0..N-1, and what was learned there."""

    hp: Mapping[str, Any]
    layer: int
    layers: int
    depth: int
    learned: Mapping[str, Any]
    written: int = 0  # units of a growing stream
    kept: Any = None  # instead of its mean, what a random mask is
    normed: Callable = lambda h: h

    def gate(self, h):
        gate = self.learned["gate"]
        return 1 / (1 + jnp.exp(-(h @ gate["kernel"] + gate["bias"].reshape((1,) * (h.ndim - 1) + (-1,)))))

    def mask(self, rate):
        return 1 - rate if self.kept is None else self.kept


SKIPS: dict[str, Callable[[Any, Any, Shortcut], Any]] = {
    "none": lambda h, branch, at: branch,
    "identity": lambda h, branch, at: h + branch,
    "scaled": lambda h, branch, at: at.hp["skip.shortcut_scale"] * h + at.hp["skip.branch_scale"] * branch,
    "inv_sqrt_depth": lambda h, branch, at: h + branch / np.sqrt(at.layers),
    "rezero": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "skipinit": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "fixup": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "highway": lambda h, branch, at: at.gate(h) * branch + (1 - at.gate(h)) * h,
    "gated": lambda h, branch, at: branch + (1 - at.gate(h)) * h,
    "projection": lambda h, branch, at: at.normed(h @ at.learned["projection"]["kernel"]) + branch,
    "dropout": lambda h, branch, at: at.mask(at.hp["skip.rate"]) * h + branch,
    "stochastic_depth": lambda h, branch, at: h + at.mask(at.hp["skip.rate"] * (at.layer + 1) / at.layers) * branch,
    "deepnorm": lambda h, branch, at: (2 * at.depth) ** 0.25 * h + branch,
    "dense": lambda h, branch, at: jnp.concatenate(
        [h[..., : at.written], branch, h[..., at.written + branch.shape[-1] :]], axis=-1
    ),
}


@pytest.fixture(scope="session")
def formulas():
    """Activations of z; shortcuts of h, the branch, and a ``Shortcut``, which comes with them."""
    return {"activation": ACTIVATIONS, "skip": SKIPS, "at": Shortcut}


@pytest.fixture(scope="session")
def unrolled():
    """The network of an ``Architecture`` as a loop over layers; what it computes on the way, by name.

    ``nudges`` are added where the gauges sit, so that the gradient with respect to a nudge is the one that the
    gauge of that name measures: ``signal_grad`` [N+1, B, D], ``branch_grad`` and ``skip_grad`` [N, B, D].
    ``running`` holds the network's other state and switches batch norm to its running statistics. Random shortcuts are
    as in evaluation, unless ``kept`` [N] says what becomes of each layer's.
    """
    return _unrolled


def _moments(kind, h, groups):
    """What is taken off, and the mean square that is divided by."""
    if kind == "rms":
        return 0, jnp.mean(h**2, 1, keepdims=True)
    if kind == "group":
        grouped = h.reshape(len(h), groups, -1)
        each = jnp.mean(grouped, 2), jnp.var(grouped, 2)
        return tuple(jnp.repeat(part, h.shape[1] // groups, 1) for part in each)
    axis = {"layer": 1, "batch": 0}[kind]
    return jnp.mean(h, axis, keepdims=True), jnp.var(h, axis, keepdims=True)


def _normed(arch, h, params, running, seen):
    if arch.norm == "none":
        return h
    norm, row = params["norm"], lambda leaf: leaf[None]
    if arch.norm == "dyt":
        return row(norm["scale"]) * jnp.tanh(norm["alpha"] * h) + row(norm["bias"])
    mean, square = _moments(arch.norm, h, arch.groups)
    seen["moments"].append((mean, square))
    if arch.norm == "batch" and running:
        mean, square = row(running["norm"]["mean"]), row(running["norm"]["var"])
    out = (h - mean) / jnp.sqrt(square + (1e-5 if arch.norm == "batch" else 1e-6)) * row(norm["scale"])
    return out if arch.norm == "rms" else out + row(norm["bias"])


def _linear(h, params):
    return h @ params["kernel"] + (params["bias"][None] if "bias" in params else 0)


def _branch(arch, z, params, written, seen):
    """W φ(z) of the units that are written; with Fixup a shift in front of each of the two."""
    before, behind = params["shifts"][0] if arch.skip == "fixup" else (0, 0)
    (weight,) = params["weights"].values()
    z = z[:, :written] + before
    seen["into_branch"].append(z)
    return _linear(ACTIVATIONS[arch.activation](z) + behind, weight | {"kernel": weight["kernel"][:written]})


def _unrolled(arch, params, x, hp, *, nudges=None, running=None, kept=None):
    seen = {"signals": [], "into_branch": [], "moments": []}

    def nudge(name, layer, h):
        return h if nudges is None else h + nudges[name][layer]

    def normed(h, place, params, running):
        return _normed(arch, h, params, running, seen) if place == arch.placement else h

    def shortcut(n, layer, rest, written):
        return Shortcut(
            hp, n, arch.depth, arch.depth, layer.get("skip", {}), written, None if kept is None else kept[n],
            lambda h: _normed(arch, h, layer["skip"], rest.get("skip"), seen),
        )  # fmt: skip

    growth = arch.growth if arch.skip == "dense" else 0
    width = arch.width + arch.depth * growth
    h = jnp.pad(_linear(x, params["embed"]), ((0, 0), (0, width - arch.width)))
    h = nudge("signal_grad", 0, h)
    seen["signals"].append(h[:, : arch.width])
    (stage,), running = params["stages"].values(), running or {}
    for n in range(arch.depth):
        layer = jax.tree.map(lambda leaf: leaf[n], stage)  # noqa: B023
        rest = jax.tree.map(lambda leaf: leaf[n], running["stages"][0]) if running else {}  # noqa: B023
        written = arch.width + n * growth
        z = normed(nudge("branch_grad", n, h), "pre", layer, rest)
        branch = normed(_branch(arch, z, layer["branch"], written, seen), "branch", layer, rest)
        h = SKIPS[arch.skip](nudge("skip_grad", n, h), branch, shortcut(n, layer, rest, written))
        h = nudge("signal_grad", n + 1, normed(h, "post", layer, rest))
        seen["signals"].append(h[:, : written + growth])
    h = normed(h, "pre", params, running)
    return _linear(ACTIVATIONS[arch.activation](h), params["head"]), seen
