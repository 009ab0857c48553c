"""Runs with an injected fault: their data, schedule or checkpoint is spoiled, nothing else.

Each run is trained by the command line. Weights are spoiled in the checkpoint of a shorter run,
which the longer run goes on from.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from research.records.runs import Run
from research.training.checkpoint import Checkpoints
from research.training.objective import epoch_permutation

EXAMPLES = 512
BATCH_SIZE = 16  # 32 steps an epoch
STEPS = 40
SPOILED = 300.0  # times the usual size of an example
NETWORKS = {  # what is compiled; faults of one network share its programs
    "relu": ["model.depth=6", "model.width=16", "precision=mixed_float16", "measure=norms"],
    "residual": [
        "model.depth=8",
        "model.width=12",
        "precision=mixed_float16",
        "activation=gelu",
        "skip=inv_sqrt_depth",
        "optimizer=adam",
    ],
    "float16": [
        "model.depth=5",
        "model.width=16",
        "precision=float16",
        "optimizer=sgd",
    ],
}
DEPTHS = {"relu": 6, "residual": 8, "float16": 5}


@dataclass(frozen=True)
class Fault:
    """A fault, and what a replay should name.

    Attributes:
        kind: weight, batch, overflow or rate.
        network: one of ``NETWORKS``.
        step: the step at which it is injected.
        seed: the seed of the run.
        layer: the spoiled layer; None where it is none.
        quantities: what may be named.
        factor: on what is spoiled.
        spoiled: how many examples of the batch are.
    """

    kind: str
    network: str
    step: int
    seed: int = 0
    layer: int | None = None
    quantities: tuple[str, ...] = ()
    factor: float = 1.0
    spoiled: int = 0

    @property
    def name(self) -> str:
        """A short name for the test."""
        return f"{self.kind}-{self.network}-{self.step}-{self.seed}"


def nan_weight(network: str, step: int, layer: int, seed: int = 0) -> Fault:
    """One weight of a layer is NaN from a step on."""
    return Fault("weight", network, step, seed, layer, ("parameter",), np.nan)


def overflow(network: str, step: int, layer: int, seed: int = 0) -> Fault:
    """The weights of a layer are so large that its output overflows, those of the next undo it."""
    quantities = ("parameter", "activation")
    factor = 3e4 if network == "float16" else 1e6  # which the weights themselves can hold
    return Fault("overflow", network, step, seed, layer, quantities, factor)


def spoiled_batch(network: str, step: int, seed: int = 0, spoiled: int = BATCH_SIZE) -> Fault:
    """So many training examples, which are first seen at a step, are far too large."""
    return Fault("batch", network, step, seed, None, ("activation",), SPOILED, spoiled)


def bad_rate(network: str, step: int, seed: int = 0) -> Fault:
    """The schedule raises the learning rate by orders of magnitude at a step."""
    return Fault("rate", network, step, seed, None, ("learning rate",), 1e5)


def examples_of_step(seed: int, step: int) -> list[int]:
    """The training examples in the batch of a step, by the order of the run's seed."""
    order = epoch_permutation(jax.random.key(seed), step * BATCH_SIZE // EXAMPLES, EXAMPLES)
    position = step % (EXAMPLES // BATCH_SIZE)
    return np.asarray(order)[position * BATCH_SIZE :][:BATCH_SIZE].tolist()


def spoiled_examples(fault: Fault) -> list[int]:
    """The indices of the examples that a fault of the kind ``batch`` spoils."""
    return examples_of_step(fault.seed, fault.step)[-fault.spoiled :]


def write_data(fault: Fault, file: Path) -> None:
    """Writes standard normal examples of four classes that a network can learn."""
    generator = np.random.default_rng(fault.seed)
    x = generator.standard_normal((EXAMPLES, 6))
    y = np.argmax(x[:, :4], axis=1)
    if fault.kind == "batch":
        x[spoiled_examples(fault)] *= fault.factor
    np.savez(file, x=x.astype(np.float32), y=y, x_test=x[:32].astype(np.float32), y_test=y[:32])


def schedule(fault: Fault) -> list[str]:
    """A constant learning rate; of the kind ``rate``, another one from the step of the fault on.

    A polynomial of a tiny power stays at its first value and falls to its last one at the end.
    """
    rate = 1e-3 if fault.network == "residual" else 0.01
    if fault.kind == "overflow":
        rate = 1e-12  # or the weights would be far off after one step, in any format
    words = ["optimizer.schedule=polynomial", "optimizer.power=1e-7"]
    if fault.kind != "rate":
        return [
            *words,
            f"optimizer.learning_rate={rate}",
            f"optimizer.end_value={rate}",
            "optimizer.transition_steps=1",
        ]
    return [
        *words,
        f"optimizer.learning_rate={rate}",
        f"optimizer.end_value={rate * fault.factor}",
        f"optimizer.transition_steps={fault.step}",
    ]


def spoil_checkpoint(run: Run, fault: Fault) -> None:
    """Writes the checkpoint of a run again, with spoiled weights."""
    (folder,) = (run.directory / "checkpoints").iterdir()
    with ocp.PyTreeCheckpointer() as orbax:
        on_disk = orbax.restore(folder)
    specs = {path: (array.shape, array.dtype) for path, array in on_disk.items()}
    checkpoints = Checkpoints(run.directory)
    checkpoint = checkpoints.read(lambda: specs)
    assert checkpoint is not None
    arrays = dict(checkpoint.arrays)
    (path,) = [path for path in arrays if path.startswith("params.stages") and "kernel" in path]
    kernel = arrays[path].astype(np.float32)
    if fault.kind == "weight":
        kernel[fault.layer, 2, 3] = fault.factor
    else:
        assert fault.layer is not None
        kernel[fault.layer] *= fault.factor
        if fault.layer + 1 < len(kernel):
            kernel[fault.layer + 1] /= fault.factor
    arrays[path] = kernel.astype(arrays[path].dtype)
    checkpoints.remove()
    checkpoints.write(dataclasses.replace(checkpoint, arrays=arrays))


def train_with_fault(fathom: Callable, place: Path, fault: Fault) -> Run:
    """Trains a run with a fault in a directory that is the current one."""
    write_data(fault, place / "data.npz")
    words = [
        "train",
        "data=arrays",
        "data.path=data.npz",
        f"train.batch_size={BATCH_SIZE}",
        "tracker=none",
        "name=faulty",
        f"seed={fault.seed}",
        *NETWORKS[fault.network],
        *schedule(fault),
    ]
    if fault.kind in ("weight", "overflow"):
        result = fathom(*words, f"train.steps={fault.step}", "checkpoint.keep=true")
        assert result.code == 0, result.err
        (shorter,) = (Run(file.parent) for file in place.glob("outputs/faulty/*/run.json"))
        spoil_checkpoint(shorter, fault)
    fathom(*words, f"train.steps={STEPS}")
    files = place.glob(f"outputs/faulty/*steps={STEPS}*/run.json")
    (run,) = (Run(file.parent) for file in files)
    return run


def is_named(fault: Fault, replayed) -> bool:
    """Whether a replay names the layer and the step of the fault, and a quantity that it spoils."""
    origin = replayed.origin
    if origin is None or origin.step != fault.step:
        return False
    if fault.kind == "batch" and not set(spoiled_examples(fault)) <= set(replayed.examples):
        return False
    return origin.quantity in fault.quantities and origin.layer == fault.layer
