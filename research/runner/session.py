"""Runs trained in this process, and what the runs of one process share."""

import contextlib
import gc
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

from research.runner.limits import raise_open_files
from research.runner.progress import Progress
from research.runner.run_spec import Result, RunSpec, read_ended


class Session:
    """What the jobs of one process share."""

    progress = Progress()
    shows_traces = False
    interrupted = False  # by the user: what would come next is not wanted either


def train_group(
    members: Sequence[RunSpec], *, map_mode: str = "auto", devices: int | None = 1
) -> list[Result]:
    """Trains runs that share a program, in this process; an engine carries this call to wherever it may run.

    Args:
        members: the runs; those that have ended already are left alone.
        map_mode: how the runs of one device are trained: ``map``, ``vmap``, or ``auto``.
        devices: the most devices that are used, None for all.

    Returns:
        What came of each, in order; where it raised, the exception as ``error``, so that a sweep goes on.
    """
    try:
        ended = [read_ended(member) for member in members]
        if members[0].config.mesh.kind.name == "distributed":
            from research.parallel.processes import broadcast_finished_runs

            ended = broadcast_finished_runs(ended)
        there = {
            member.directory: info for member, info in zip(members, ended, strict=True) if info
        }
        missing = [member for member in members if member.directory not in there]
        trained = dict(
            zip(
                [member.directory for member in missing],
                _train(missing, map_mode, devices),
                strict=True,
            )
        )
    except Exception as error:
        return [
            {"directory": str(member.directory), "status": "failed", "error": error}
            for member in members
        ]
    already = {
        resource_dir: info | {"directory": str(resource_dir), "already": True}
        for resource_dir, info in there.items()
    }
    return [(already | trained)[member.directory] for member in members]


def _train(members: Sequence[RunSpec], map_mode: str, devices: int | None) -> list[Result]:
    if not members:
        return []
    raise_open_files()
    gc.disable()  # while modules are imported nothing becomes garbage: to look for it takes a tenth of the time
    try:
        prepare_jax(devices)
        from research.runner.loop import train_runs

        gc.freeze()  # what is imported stays: looking through it again and again takes a sixth of the time to trace
    finally:
        gc.enable()
    from research.records.record import RunLocked

    results = train_runs(members, Session.progress, map_mode=map_mode, devices=devices)
    for member, result in zip(members, results, strict=True):
        error = result.get("error")
        if isinstance(error, Exception) and Session.shows_traces:
            traceback.print_exception(error)
        began = (member.directory / "run.json").exists() or isinstance(error, RunLocked)
        if isinstance(error, Exception) and not began:
            _unmake(member.directory)
    return results


def _unmake(directory: Path) -> None:
    """Takes back what Hydra made for a run that never began; whatever else lies there stays."""
    for file in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (directory / ".hydra" / file).unlink(missing_ok=True)
    for folder_ in (directory / ".hydra", directory, *directory.absolute().parents):
        if folder_ == Path.cwd():
            return
        try:
            folder_.rmdir()
        except OSError:  # not empty, or not ours
            return


def prepare_jax(devices: int | None = 1) -> None:
    """Lets compiled programs outlive the process, unless the user keeps a cache elsewhere.

    Each CPU core becomes a device where more than one is to be used, which can be said before jax starts only.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "fathom" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if devices != 1 and getattr(jax.config, "jax_num_cpu_devices", 0) < 1:
        with contextlib.suppress(RuntimeError):  # it runs already, with the devices that it has
            cores = (
                len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count() or 1
            )
            jax.config.update("jax_num_cpu_devices", devices or cores)
