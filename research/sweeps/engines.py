"""Engines that train groups of runs outside this process: with joblib, submitit or Ray.

Each engine is a generator that takes tasks and yields, in any order, the position of a task with
its outcome: the results of its runs, or the exception that ended the whole task. An engine imports
its library only when it is used.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config.notices import notify
from research.config.options import DistributedMesh
from research.runner.run_spec import Result, RunSpec

Outcome = list[Result] | BaseException
Outcomes = Iterator[tuple[int, Outcome]]  # of each task, with its position
Settings = dict[str, Any]
KILLED = (
    "a process of hydra/launcher=joblib was killed, perhaps because memory ran out (a smaller "
    "hydra.launcher.n_jobs needs less); the runs that have not ended go on one after the other"
)
SECONDS_BETWEEN_CHECKS = 0.5  # for result files
SECONDS_BETWEEN_QUERIES = 15.0  # of the cluster's accounting, which serves many users


@dataclass(frozen=True)
class GroupTask:
    """Trains a group of runs where an engine calls it, in another process or on another machine.

    Attributes:
        run_specs: The runs of the group.
        map_mode: How the runs of one device are trained: ``map``, ``vmap``, or ``auto``.
        devices: The largest number of devices that are used, None for all.
        working_dir: The directory that the paths of the runs are relative to.
    """

    run_specs: Sequence[RunSpec]
    map_mode: str
    devices: int | None
    working_dir: Path

    def __call__(self) -> list[Result]:
        """Trains the runs and returns their results.

        An error is replaced by a ValueError with its message, because not every exception can be
        pickled.
        """
        from research.runner.progress import Silent
        from research.runner.session import Session, train_group
        from research.runner.signals import terminable

        os.chdir(self.working_dir)
        mesh = self.run_specs[0].config.mesh
        if isinstance(mesh, DistributedMesh):
            from research.parallel.processes import join_processes

            join_processes(
                coordinator=mesh.coordinator,
                num_processes=mesh.processes,
                process_id=mesh.process,
            )
        with terminable():
            results = train_group(
                self.run_specs,
                Session(progress=Silent()),
                map_mode=self.map_mode,
                devices=self.devices,
            )
        return [_with_picklable_error(result) for result in results]

    def record_failure(self, error: BaseException) -> list[Result]:
        """Records that the task ended without results, because the system killed it for instance.

        Returns:
            A failed result for each run.
        """
        reason = f"its job was killed or lost: {_summarize(error)}"
        results = []
        for run_spec in self.run_specs:
            _mark_as_failed(run_spec.directory, reason)
            results.append(
                {
                    "directory": str(run_spec.directory),
                    "status": "failed",
                    "error": ValueError(reason),
                }
            )
        return results


def _with_picklable_error(result: Result) -> Result:
    from research.config.errors import explain

    error = result.get("error")
    if not isinstance(error, Exception):
        return result
    message = explain(error) or f"{type(error).__name__}: {error}"
    return result | {"error": ValueError(message)}


def _summarize(error: BaseException) -> str:
    """The error's type and the first two lines of its message."""
    kind = type(error).__name__
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return kind
    return f"{kind}: {' '.join(lines[:2])}"


def _mark_as_failed(directory: Path, reason: str) -> None:
    """Writes the failure into the record of a run that was killed before it could do so.

    A run that another command is training now is left to that command.
    """
    from research.records.record import Lock, RunLocked, read_info, write_json

    try:
        lock = Lock(directory)
    except (RunLocked, OSError):  # or the run has no record
        return
    try:
        info = read_info(directory)
        if info and info.get("status") == "running":
            write_json(directory / "run.json", info | {"status": "failed", "error": reason})
    finally:
        lock.release()


def _call(task: GroupTask) -> list[Result]:
    return task()


def run_with_joblib(tasks: Sequence[GroupTask], *, num_workers: int) -> Outcomes:
    """Runs the tasks in up to ``num_workers`` processes of this machine, through joblib's pool.

    A worker that is killed breaks the whole pool, and with it the tasks of the other workers. One
    line says so, and those tasks are run once more, each in a pool of its own.
    """
    from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor, as_completed

    broken = []
    was_killed = False
    pool = ProcessPoolExecutor(num_workers)
    try:
        positions: dict[Any, int] = {}
        for position, task in enumerate(tasks):
            positions[pool.submit(_call, task)] = position
        for future in as_completed(positions):
            if future.exception() is None:
                yield positions[future], future.result()
            else:
                broken.append(positions[future])
                # By SIGKILL, or by SIGTERM, which ends a run as Ctrl-C does.
                was_killed |= isinstance(future.exception(), BrokenProcessPool | KeyboardInterrupt)
    finally:
        pool.shutdown(kill_workers=True)
    if was_killed:
        notify(KILLED)
    for position in broken:
        with ProcessPoolExecutor(1) as single_pool:
            future = single_pool.submit(_call, tasks[position])
            yield position, future.exception() or future.result()


def run_with_submitit(
    tasks: Sequence[GroupTask],
    *,
    cluster: str,
    folder: Path,
    settings: Settings,
) -> Outcomes:
    """Runs the tasks as one array of submitit jobs.

    Args:
        tasks: The tasks, one for each submitit job.
        cluster: Where submitit submits them: ``local`` or ``slurm``.
        folder: The folder of submitit's logs.
        settings: What submitit's executor takes, such as ``timeout_min``.
    """
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**settings)
    unfinished = dict(enumerate(executor.map_array(_call, tasks)))
    try:
        last_query = time.monotonic()
        while unfinished:
            query = time.monotonic() - last_query > SECONDS_BETWEEN_QUERIES
            for position, submitit_job in list(unfinished.items()):
                if submitit_job.done(force_check=query):
                    del unfinished[position]
                    yield position, _first_outcome(submitit_job.results)
                if query:  # the answer covers all jobs, so that one query is enough
                    last_query = time.monotonic()
                    query = False
            time.sleep(SECONDS_BETWEEN_CHECKS)
    finally:
        for submitit_job in unfinished.values():
            submitit_job.cancel(check=False)


def _first_outcome(get_outcomes: Callable[[], list[Any]]) -> Outcome:
    """The outcome of the first process, which is the one that knows the results of all."""
    try:
        return get_outcomes()[0]
    except Exception as error:
        return error


def run_with_ray(
    tasks: Sequence[GroupTask],
    *,
    init: Settings,
    remote: Settings,
) -> Outcomes:
    """Runs the tasks as Ray tasks.

    Args:
        tasks: The tasks, one for each Ray task.
        init: What ``ray.init`` takes. With ``address`` the tasks run on that cluster; otherwise Ray
            is started on this machine.
        remote: What ``ray.remote`` takes, such as ``num_gpus``.
    """
    import logging

    import ray  # pyright: ignore[reportMissingImports]  # an extra

    defaults = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    ray.init(**(defaults | init))
    try:
        remote_call = ray.remote(max_retries=0, **remote)(_call)
        unfinished = {}
        for position, task in enumerate(tasks):
            unfinished[remote_call.remote(task)] = position
        while unfinished:
            done, _ = ray.wait(list(unfinished), num_returns=1)
            position = unfinished.pop(done[0])
            yield position, _first_outcome(functools.partial(ray.get, done))
    finally:
        ray.shutdown()
