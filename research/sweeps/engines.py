"""Where groups of runs are trained besides this process: in others here, as jobs of a cluster, on Ray.

An engine carries the groups there and yields, in any order, each group's number and what came of it: the runs' results
or the exception that took the whole job along. Nothing heavy is imported before an engine is used.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.runner.run_spec import Result, RunSpec

Outcome = list[Result] | BaseException
SECONDS_A_LOOK = 0.5  # between looks for results
SECONDS_A_QUESTION = 15.0  # between questions to the cluster's accounting, which many ask


@dataclass(frozen=True)
class Load:
    """A group of runs as it travels; calling it trains them."""

    members: Sequence[RunSpec]
    map_mode: str
    devices: int | None
    place: Path  # paths of the runs are relative to it

    def __call__(self) -> list[Result]:
        """What came of each run; errors as lines, since not every exception travels."""
        from research.runner import session
        from research.runner.progress import Silent
        from research.runner.signals import terminable

        os.chdir(self.place)
        session.Session.progress = Silent()
        if self.members[0].config.mesh.kind.name == "distributed":
            from research.parallel.processes import join_processes

            mesh = self.members[0].config.mesh
            join_processes(
                coordinator=mesh.coordinator, num_processes=mesh.processes, process_id=mesh.process
            )
        with terminable():
            results = session.train_group(
                self.members, map_mode=self.map_mode, devices=self.devices
            )
        return [result | _in_words(result.get("error")) for result in results]

    def failed(self, error: BaseException) -> list[Result]:
        """The results of runs whose job ended without a word, killed by the system for instance."""
        reason = f"its job was killed or lost: {_first_line(error)}"
        for member in self.members:
            _note_end(member.directory, reason)
        failure = {"status": "failed", "error": ValueError(reason)}
        return [{"directory": str(member.directory)} | failure for member in self.members]


def _in_words(error: Any) -> Result:
    from research.config.errors import explain

    if not isinstance(error, Exception):
        return {}
    return {"error": ValueError(explain(error) or f"{type(error).__name__}: {error}")}


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


def _note_end(directory: Path, reason: str) -> None:
    """Writes into the record what the run itself could not."""
    from research.records.record import read_info, write_json

    info = read_info(directory)
    if info and info.get("status") == "running":
        write_json(directory / "run.json", info | {"status": "failed", "error": reason})


def _call(load: Load) -> list[Result]:
    return load()


def on_processes(loads: Sequence[Load], *, jobs: int) -> Iterator[tuple[int, Outcome]]:
    """Here, in at most ``jobs`` processes at once, through joblib's pool.

    A process that dies takes the pool along, and with it what the others were at: those groups are taken up once more,
    each in a pool of its own.
    """
    from joblib.externals.loky import ProcessPoolExecutor, as_completed

    broken = []
    pool = ProcessPoolExecutor(jobs)
    try:
        waiting: dict[Any, int] = {
            pool.submit(_call, load): number for number, load in enumerate(loads)
        }
        for future in as_completed(waiting):
            if future.exception() is None:
                yield waiting[future], future.result()
            else:
                broken.append(waiting[future])
    finally:
        pool.shutdown(kill_workers=True)
    for number in broken:
        with ProcessPoolExecutor(1) as alone:
            future = alone.submit(_call, loads[number])
            yield number, future.exception() or future.result()


def as_jobs(
    loads: Sequence[Load], *, cluster: str, folder: Path, settings: dict[str, Any]
) -> Iterator[tuple[int, Outcome]]:
    """As one array of jobs of ``cluster``, ``local`` or ``slurm``, through submitit; its logs lie in ``folder``."""
    import submitit  # pyright: ignore[reportMissingImports]  # an extra

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**settings)
    waiting = dict(enumerate(executor.map_array(_call, loads)))
    try:
        asked = time.monotonic()
        while waiting:
            ask = time.monotonic() - asked > SECONDS_A_QUESTION
            for number, job in list(waiting.items()):
                if job.done(force_check=ask):
                    yield number, _outcome(waiting.pop(number).results)
                ask, asked = False, time.monotonic() if ask else asked  # one answer is about all
            time.sleep(SECONDS_A_LOOK)
    finally:
        for job in waiting.values():
            job.cancel(check=False)


def _outcome(results: Callable[[], list[Any]]) -> Outcome:
    try:
        return results()[0]  # of several processes the first one knows
    except Exception as error:
        return error


def on_ray(
    loads: Sequence[Load], *, init: dict[str, Any], remote: dict[str, Any]
) -> Iterator[tuple[int, Outcome]]:
    """As tasks of Ray: of the cluster that ``init`` names, or of one that is started here."""
    import logging

    import ray  # pyright: ignore[reportMissingImports]  # an extra

    ray.init(
        **{"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        | init
    )
    try:
        task = ray.remote(max_retries=0, **remote)(_call)
        waiting = {task.remote(load): number for number, load in enumerate(loads)}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _outcome(lambda: [ray.get(done)])
    finally:
        ray.shutdown()
