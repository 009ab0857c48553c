"""Checkpoints of a run: its state after a step, written by Orbax to ``checkpoints/STEP``.

A checkpoint appears in its folder completely or not at all. It holds arrays and a line of JSON,
both covered by one checksum; nothing that is read is executed. Orbax is imported when the first
checkpoint is written or read, because the import takes most of a second, which a short run need not
spend.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.models.architecture import Architecture
from research.training.layer_params import has_layer_axis
from research.training.orbax_errors import naming_folder, without_tracebacks
from research.training.state import TrainState

FOLDER = "checkpoints"
REPLAY_FOLDER = "replay"  # a checkpoint from before a severe finding, for ``fathom replay``
# The least time between checkpoints, as a multiple of the time that the last ones took to write.
PAUSE_FACTOR = 50
Arrays = dict[str, np.ndarray]
ArraySpecs = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and format by path
# Errors that say nothing about the checkpoint: another attempt may read it.
PASSING_ERRORS = (MemoryError, ImportError, PermissionError)


class InvalidCheckpoint(ValueError):
    """A checkpoint that a run cannot resume from; ``str`` says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after a step.

    Attributes:
        step: how many steps it has trained.
        arrays: its state by path.
        notes: what else is saved, as JSON.
    """

    step: int
    arrays: Arrays
    notes: dict[str, Any]


def copy_to_host(state: TrainState) -> Arrays:
    """Copies the state of M runs to the host: arrays [M, …] by path.

    The copies outlive the state, whose memory the program reuses. The random key is left out,
    because it follows from the seed.
    """
    on_host = jax.device_get(_without_key(state))
    return {path: np.array(leaf) for path, leaf in _by_path(on_host).items()}


def array_specs(
    shapes: TrainState,
    arch: Architecture,
    layers: int,
) -> ArraySpecs:
    """Shape and format of every array in the checkpoint of one run.

    Args:
        shapes: the shapes of the state of M runs.
        arch: the architecture of the runs, or of their family.
        layers: the layers N of the run's network.
    """
    specs = {}
    for path, leaf in _by_path(_without_key(shapes)).items():
        shape = leaf.shape[1:]
        if has_layer_axis(arch, path):
            shape = (layers, *shape[1:])
        specs[path] = shape, np.dtype(leaf.dtype)
    return specs


def stack_checkpoints(shapes: TrainState, checkpoints: Mapping[int, Checkpoint]) -> Arrays:
    """Joins checkpoints of single runs to arrays [M, …] by path, as ``copy_to_host`` returns them.

    Args:
        shapes: the shapes of the state of M runs.
        checkpoints: the checkpoints by the index of the run. A run without one, whose result is not
            used, gets the arrays of another run; without any checkpoint, all arrays are zero.
    """
    leaves = _by_path(_without_key(shapes))
    if not checkpoints:
        return {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    filler = next(iter(checkpoints.values()))
    num_runs = shapes.step.shape[0]
    stacked = {}
    for path, leaf in leaves.items():
        run_arrays = []
        for run in range(num_runs):
            checkpoint = checkpoints.get(run, filler)
            run_arrays.append(checkpoint.arrays[path])
        shape_of_run = leaf.shape[1:]
        padded = [_pad(array, shape_of_run) for array in run_arrays]
        stacked[path] = np.stack(padded)
    return stacked


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in the rows that the array of a shallower network of a family lacks."""
    if array.shape == shape:
        return array
    padded = np.zeros(shape, array.dtype)
    padded[: len(array)] = array
    return padded


def restore_state(
    shapes: TrainState,
    arrays: Mapping[str, Any],
    key: jax.Array,
) -> TrainState:
    """The state of M runs.

    Args:
        shapes: its shapes.
        arrays: arrays [M, …] by path, as ``copy_to_host`` returns them.
        key: the random keys [M] of the runs.
    """
    without_key = _without_key(shapes)
    leaves = [arrays[path] for path in _by_path(without_key)]
    state = jax.tree.unflatten(jax.tree.structure(without_key), leaves)
    return dataclasses.replace(state, key=key)


def _without_key(state: TrainState) -> TrainState:
    return dataclasses.replace(state, key=None)  # type: ignore[arg-type]


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        leaves[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return leaves


class Checkpoints:
    """The checkpoints of the run in ``directory``. A new one replaces the one before.

    Attributes:
        run: the name of the run.
        folder: where they are.
        is_suspect: whether a severe finding was seen. The next checkpoint that is replaced is then
            kept, once, in the folder ``replay`` of the run.
    """

    def __init__(self, directory: Path, folder: str = FOLDER):
        self.run = directory.name
        self.folder = directory.absolute() / folder
        self.is_suspect = False

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has a checkpoint that it can resume from."""
        return bool(self._steps())

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, and removes the one before once the new one is complete."""
        folder = self.folder / str(checkpoint.step)
        if folder.exists():
            return
        self.folder.mkdir(exist_ok=True)
        self._remove_incomplete()
        metadata = {
            "step": checkpoint.step,
            "notes": checkpoint.notes,
            "checksum": _checksum(checkpoint),
        }
        try:
            with (
                _make_checkpointer() as orbax,
                _link_to(self.folder) as link,
                naming_folder(self.folder),
                without_tracebacks(),
            ):
                orbax.save(link / folder.name, checkpoint.arrays, custom_metadata=metadata)
        except BaseException:
            self._remove_incomplete()
            raise
        if self.is_suspect:
            self.keep_for_replay(before=checkpoint.step)
        self._remove_if(lambda name: name != folder.name)

    def keep_for_replay(self, before: float = math.inf) -> None:
        """Moves the last checkpoint to the folder ``replay``, unless that holds one already.

        Args:
            before: the checkpoint must be of a step before this one.
        """
        kept = self.folder.parent / REPLAY_FOLDER
        steps = [step for step in self._steps() if step < before]
        if not steps or kept.exists():
            return
        kept.mkdir()
        name = str(max(steps))
        (self.folder / name).rename(kept / name)

    def read(self, expected_specs: Callable[[], ArraySpecs]) -> Checkpoint | None:
        """The last checkpoint; None where there is none.

        Args:
            expected_specs: returns what arrays the checkpoint should hold; called only if there is
                one.

        Raises:
            InvalidCheckpoint: it cannot be read, is damaged, is of another step than its folder
                says, or holds other arrays.
        """
        if not self.has_checkpoint:
            return None
        folder = self.folder / str(max(self._steps()))
        expected = expected_specs()
        try:
            with _make_checkpointer() as orbax, without_tracebacks():
                arrays = orbax.restore(folder)
                metadata = orbax.metadata(folder).custom_metadata
            checkpoint = Checkpoint(metadata["step"], arrays, metadata["notes"])
            is_complete = metadata["checksum"] == _checksum(checkpoint)
            specs = {path: (array.shape, array.dtype) for path, array in arrays.items()}
        except PASSING_ERRORS:
            raise
        except Exception as error:  # of the file system, of two file formats, or of JSON
            raise InvalidCheckpoint(f"it cannot be read ({type(error).__name__})") from error
        if specs != expected:
            raise InvalidCheckpoint("it holds the arrays of another network")
        if not is_complete:
            raise InvalidCheckpoint("it is damaged")
        if checkpoint.step != int(folder.name):
            raise InvalidCheckpoint(
                f"it is of step {checkpoint.step}, but its folder is named {folder.name}"
            )
        return checkpoint

    def remove(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[int]:
        steps = []
        for folder in self.folder.glob("*"):
            if _is_step(folder.name):
                steps.append(int(folder.name))
        return steps

    def _remove_incomplete(self) -> None:
        """Removes what an interrupted write left: Orbax renames a folder once it is complete."""
        self._remove_if(lambda name: not _is_step(name))

    def _remove_if(self, is_unwanted: Callable[[str], bool]) -> None:
        for folder in self.folder.iterdir():
            if is_unwanted(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def _is_step(name: str) -> bool:
    """Whether a folder has the name of a complete checkpoint, a number as it is printed."""
    return name.isdecimal() and name == str(int(name))


@contextlib.contextmanager
def _link_to(folder: Path) -> Iterator[Path]:
    """A temporary link to the folder, whose path has no brackets.

    Orbax would take brackets in a path for a pattern of its search.
    """
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / FOLDER
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _make_checkpointer() -> Any:
    """An Orbax checkpointer for the first process, which does not wait for other processes."""
    import orbax.checkpoint as ocp

    one_process = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.PyTreeCheckpointHandler()
    return ocp.Checkpointer(handler, multiprocessing_options=one_process)


def _checksum(checkpoint: Checkpoint) -> int:
    """The CRC-32 of the step, the notes, and all arrays' bytes in the order of their paths."""
    paths = sorted(checkpoint.arrays)
    described = json.dumps([checkpoint.step, checkpoint.notes, paths], sort_keys=True)
    checksum = zlib.crc32(described.encode())
    for path in paths:
        flat = np.ascontiguousarray(checkpoint.arrays[path]).reshape(-1)
        checksum = zlib.crc32(flat.view(np.uint8).data, checksum)
    return checksum


class CheckpointWriter:
    """Writes the checkpoints of a group's runs in a thread.

    A checkpoint that cannot be written does not stop the runs; the first one is reported.

    Args:
        every: seconds between checkpoints; None for no checkpoints.
    """

    def __init__(self, every: float | None):
        self.every = every
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future | None = None
        self._last_start = time.monotonic()
        self._last_duration = 0.0
        self._has_reported = False

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next checkpoints, and the last ones are written."""
        if self.every is None:
            return False
        if self._writing and not self._writing.done():
            return False
        pause = max(self.every, PAUSE_FACTOR * self._last_duration)
        return time.monotonic() - self._last_start > pause

    def write(self, checkpoints: Sequence[tuple[Checkpoints, Checkpoint]]) -> None:
        """Starts to write a checkpoint of each run, after those that are being written."""
        self._last_start = time.monotonic()
        self._writing = self._thread.submit(self._write_all, checkpoints)

    def wait(self) -> None:
        """Waits until all are written."""
        if self._writing:
            self._writing.result()

    def _write_all(self, checkpoints: Sequence[tuple[Checkpoints, Checkpoint]]) -> None:
        start = time.monotonic()
        for run_checkpoints, checkpoint in checkpoints:
            try:
                run_checkpoints.write(checkpoint)
            except Exception as error:
                self._report(run_checkpoints.run, error)
        self._last_duration = time.monotonic() - start

    def _report(self, run: str, error: Exception) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        print(
            f"fathom: {run}: no checkpoint can be written ({_describe(error)}); training goes on",
            file=sys.stderr,
        )


def _describe(error: Exception) -> str:
    """An error in one line, with the file or folder that the system refuses."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    first_line = str(error).strip().split("\n")[0]
    return first_line or type(error).__name__
