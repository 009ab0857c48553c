"""Reads the network of a finished run from the checkpoint that it kept (``checkpoint.keep``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from research.config.hydra_config import read_recorded_config
from research.config.schema import Config
from research.config.wording import shell_command
from research.models.hparams import HParams
from research.records.runs import ENDED, Run
from research.runner.checkpoint_notes import explain_unusable
from research.runner.run_setup import RunSetup, make_run_setup
from research.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    InvalidCheckpoint,
    array_specs,
    restore_state,
    stack_checkpoints,
)
from research.training.inspections import Snapshot, wide_snapshot
from research.training.program import make_program
from research.training.state import TrainState


@dataclass(frozen=True)
class KeptRun:
    """A run after its last step, as its checkpoint holds it.

    Attributes:
        config: its configuration.
        setup: what is compiled, and the data.
        state: its state.
        hp: its hyperparameters.
    """

    config: Config
    setup: RunSetup
    state: TrainState
    hp: HParams


def load_kept_run(directory: Path) -> KeptRun:
    """The last state of a run, which its kept checkpoint holds.

    Args:
        directory: the run's directory.

    Raises:
        ValueError: the run kept no checkpoint, or it cannot be read.
    """
    config = read_config(directory)
    setup = make_run_setup(config)
    checkpoint = _read_checkpoint(directory, setup)
    states = _restore(setup, checkpoint)
    return KeptRun(config, setup, _first_run(states), _first_run(setup.hp))


def load_snapshot(directory: Path) -> Snapshot:
    """The last state of a run, with its data, as diagnostics see it.

    Args:
        directory: the run's directory.

    Raises:
        ValueError: the run kept no checkpoint, it cannot be read, or the examples are streamed.
    """
    kept = load_kept_run(directory)
    if kept.setup.stream is not None:
        raise ValueError(f"{directory} streams its examples: its loss cannot be computed again")
    return wide_snapshot(
        kept.setup.program_config,
        kept.state,
        kept.hp,
        kept.setup.data,
    )


def read_config(directory: Path) -> Config:
    """The configuration of a recorded run.

    Raises:
        ValueError: it is missing, or holds a setting that there is no longer.
    """
    return read_recorded_config(directory / ".hydra" / "config.yaml")


def _read_checkpoint(directory: Path, setup: RunSetup) -> Checkpoint:
    architecture = setup.program_config.architecture

    def expected_specs() -> Any:
        return array_specs(_state_shapes(setup), architecture, architecture.layers)

    try:
        checkpoint = Checkpoints(directory).read(expected_specs)
    except InvalidCheckpoint as error:
        reason = explain_unusable(error, directory)
        raise ValueError(f"the checkpoint of {directory} cannot be used: {reason}") from error
    if checkpoint is None:
        raise ValueError(f"{directory} kept no checkpoint{_describe_remedy(directory)}")
    return checkpoint


def _describe_remedy(directory: Path) -> str:
    """How a run without a checkpoint gets one, or why it cannot, to follow what it lacks."""
    status = Run(directory).info.get("status")
    if status == "done":  # such a run is never trained again
        remove = shell_command("rm", str(directory))
        return f": `{remove}`, and train it again with checkpoint.keep=true"
    if status in ENDED:
        return f", because it ended before its last step (its status is {status})"
    return ": train it to its end with checkpoint.keep=true"


def _state_shapes(setup: RunSetup) -> TrainState:
    program = make_program(setup.program_config, setup.layout)
    return jax.eval_shape(program.init, setup.hp)


def _restore(setup: RunSetup, checkpoint: Checkpoint) -> TrainState:
    shapes = _state_shapes(setup)
    arrays = stack_checkpoints(shapes, {0: checkpoint})
    keys = jax.vmap(jax.random.key)(setup.hp.seed)
    return restore_state(shapes, arrays, keys)


def _first_run(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)
