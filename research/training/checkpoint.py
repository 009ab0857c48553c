"""Checkpoints of a run: its state behind a step, written by Orbax whole or not at all, in
``checkpoints/STEP``.

They hold arrays and a line of JSON; nothing that is read back is executed. Orbax is imported when
the first one is written or read: it takes most of a second, which a short run does not pay.
"""

import contextlib
import dataclasses
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

from research.training.state import TrainState

FOLDER = "checkpoints"
REST = 50  # times as long as the last writing took, before the next one
Arrays = dict[str, np.ndarray]
Form = dict[str, tuple[tuple[int, ...], np.dtype]]


class InvalidCheckpoint(ValueError):
    """A checkpoint that a run cannot go on from; ``str`` says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A run behind ``step`` steps: the arrays of its state by path, and ``notes``, the JSON that is
    kept with them.
    """

    step: int
    arrays: Arrays
    notes: dict[str, Any]


def fetch(state: TrainState) -> Arrays:
    """The state of all runs on the host, by path: [M, …]. The key is left out: the seed says what
    it is.

    These are copies: the program is given the state itself and overwrites it.
    """
    return {
        path: np.array(leaf) for path, leaf in _by_path(jax.device_get(_without_key(state))).items()
    }


def form(shapes: TrainState) -> Form:
    """Shape and format of every array in the checkpoint of one run, from the state of M."""
    return {
        path: (leaf.shape[1:], np.dtype(leaf.dtype))
        for path, leaf in _by_path(_without_key(shapes)).items()
    }


def stacked(shapes: TrainState, checkpoints: Mapping[int, Checkpoint]) -> Arrays:
    """What ``fetch`` gave, from the checkpoints of single runs by their place among the M.

    A place without one gets another's: nobody looks at it. Without any, all is zero.
    """
    leaves = _by_path(_without_key(shapes))
    if not checkpoints:
        return {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    spare = next(iter(checkpoints.values()))
    lanes = [checkpoints.get(lane, spare).arrays for lane in range(shapes.step.shape[0])]
    return {path: np.stack([arrays[path] for arrays in lanes]) for path in leaves}


def restored(
    shapes: TrainState,
    arrays: Mapping[str, Any],
    key: jax.Array,
) -> TrainState:
    """The state, from what ``fetch`` gave and the runs' keys [M]."""
    bare = _without_key(shapes)
    leaves = [arrays[path] for path in _by_path(bare)]
    return dataclasses.replace(jax.tree.unflatten(jax.tree.structure(bare), leaves), key=key)


def _without_key(state: TrainState) -> TrainState:
    return dataclasses.replace(state, key=None)  # type: ignore[arg-type]


def _by_path(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


class Checkpoints:
    """The checkpoints of the run in ``directory``, of which the last one stays."""

    def __init__(self, directory: Path):
        self.run = directory.name
        self.folder = directory.absolute() / FOLDER

    @property
    def exist(self) -> bool:
        """Whether there is one."""
        return bool(self._steps())

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint beside its place, renames it into it, and removes the one before."""
        place = self.folder / str(checkpoint.step)
        if place.exists():
            return
        self.folder.mkdir(exist_ok=True)
        self._drop(lambda name: not name.isdigit())
        try:
            notes = checkpoint.notes | {"sum": _sum(checkpoint.arrays)}
            with _checkpointer() as orbax, _without_brackets(self.folder) as folder:
                orbax.save(folder / place.name, checkpoint.arrays, custom_metadata=notes)
        except BaseException:
            self._drop(lambda name: not name.isdigit())
            raise
        self._drop(lambda name: name != place.name)

    def read(self, form: Callable[[], Form]) -> Checkpoint | None:
        """The last checkpoint; None where there is none.

        Raises:
            Unusable: where it cannot be read, is damaged, or holds other arrays than ``form`` says.
        """
        if not self.exist:
            return None
        place = self.folder / str(max(self._steps()))
        expected = form()
        try:
            with _checkpointer() as orbax:
                arrays = orbax.restore(place)
                notes = dict(orbax.metadata(place).custom_metadata)
            whole = notes.pop("sum") == _sum(arrays)
            same = {path: (array.shape, array.dtype) for path, array in arrays.items()} == expected
        except (
            MemoryError,
            ImportError,
            PermissionError,
        ):  # not the checkpoint's fault: it may be read another time
            raise
        except Exception as error:  # of any kind: the file system, two formats, JSON
            raise InvalidCheckpoint(f"it cannot be read ({type(error).__name__})") from error
        if not same:
            raise InvalidCheckpoint("it holds the arrays of another network")
        if not whole:
            raise InvalidCheckpoint("it is damaged")
        return Checkpoint(int(place.name), arrays, notes)

    def remove(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[int]:
        return [int(place.name) for place in self.folder.glob("*") if place.name.isdigit()]

    def _drop(self, unwanted: Callable[[str], bool]) -> None:
        for place in self.folder.iterdir():
            if unwanted(place.name):
                shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _without_brackets(folder: Path) -> Iterator[Path]:
    """The same folder under a path that Orbax can search: it takes brackets in one for a pattern,
    and joins nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        (link := Path(place) / FOLDER).symlink_to(folder, target_is_directory=True)
        yield link


def _checkpointer() -> Any:
    """Orbax in the first process, which does not wait for others."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone)


def _sum(arrays: Mapping[str, np.ndarray]) -> int:
    value = 0
    for path in sorted(arrays):
        value = zlib.crc32(
            np.ascontiguousarray(arrays[path]).reshape(-1).view(np.uint8).data, value
        )
    return value


class Writer:
    """Writes the checkpoints of a group's runs on a thread of its own; what cannot be written is
    said once.
    """

    def __init__(self, every: float | None):
        """``every``: seconds between checkpoints; None: there are none."""
        self.every = every
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future | None = None
        self._last = time.monotonic()
        self._took = 0.0
        self._said = False

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint, the last one being written."""
        if self.every is None or (self._writing and not self._writing.done()):
            return False
        return time.monotonic() - self._last > max(self.every, REST * self._took)

    def write(self, runs: Sequence[tuple[Checkpoints, Checkpoint]]) -> None:
        """Has a checkpoint of each run written, behind those that are being written."""
        self._last = time.monotonic()
        self._writing = self._thread.submit(self._write, runs)

    def wait(self) -> None:
        """Waits until all are written."""
        if self._writing:
            self._writing.result()

    def _write(self, runs: Sequence[tuple[Checkpoints, Checkpoint]]) -> None:
        began = time.monotonic()
        for checkpoints, checkpoint in runs:
            try:
                checkpoints.write(checkpoint)
            except Exception as error:
                self._say(checkpoints.run, error)
        self._took = time.monotonic() - began

    def _say(self, run: str, error: Exception) -> None:
        if not self._said:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            print(
                f"fathom: {run}: no checkpoint can be written ({reason}); training goes on",
                file=sys.stderr,
            )
        self._said = True
