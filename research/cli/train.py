"""``fathom train``, the Hydra entry: from the command line to runs. Hydra ends here."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from research.config import errors
from research.config.hydra_config import register, resource_dir
from research.parallel.errors import PeerFailed
from research.runner.progress import Progress, Silent
from research.runner.run_spec import Objective, Result, RunSpec, checked_config, read_ended
from research.runner.session import Session, train_group
from research.runner.signals import terminable


class CheckFirst(Callback):
    """Refuses a wrong configuration before Hydra makes its directory."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run, and meets the processes that train it; sweeps are checked by the sweeper."""
        try:
            member = RunSpec(checked_config(config), Path(str(config.hydra.run.dir)))
            if member.config.mesh.kind.name == "distributed":
                _meet(member, config)
            else:
                read_ended(member)
        except Exception as error:
            refuse(error)


def _meet(member: RunSpec, composed: DictConfig) -> None:
    """Of the processes of one run, all but the first leave the run's directory alone and say nothing."""
    from research.parallel.processes import (
        is_primary,
        join_processes,
        make_scratch_directory,
        run_on_all_processes,
    )

    mesh = member.config.mesh
    join_processes(
        coordinator=mesh.coordinator, num_processes=mesh.processes, process_id=mesh.process
    )
    if not is_primary():
        composed.hydra.run.dir = make_scratch_directory()
        composed.hydra.output_subdir = None
        Session.progress = Silent()
    run_on_all_processes(
        lambda: read_ended(member) if is_primary() else None, describe_error=errors.explain
    )


def refuse(error: Exception) -> NoReturn:
    """Says in one line what was wrong and ends with exit code 2; an error of ours goes on as it is."""
    if isinstance(error, PeerFailed):
        from research.parallel.processes import report_peer_failure

        raise errors.UsageError(report_peer_failure(error))
    message = errors.explain(error)
    if message is None:
        raise error
    if Session.shows_traces:
        traceback.print_exception(error)
    print(f"fathom: {message}", file=sys.stderr)
    raise errors.UsageError(2)


def job(composed: DictConfig) -> Result:
    """Trains one composed run in the directory that Hydra made for it."""
    (result,) = train_group(
        [RunSpec(checked_config(composed), Path(HydraConfig.get().runtime.output_dir))]
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; returns the exit code, or ends with 2 where the request was wrong."""
    if arguments is not None:
        multirun = [
            word for word in arguments if word in ("-m", "--multirun")
        ]  # Hydra wants it first
        sys.argv = [
            "fathom train",
            *multirun[:1],
            *(word for word in arguments if word not in multirun),
        ]
    register()
    Session.progress = Progress()
    Session.interrupted = False
    results: list[dict[str, Any]] = []

    def task(composed: DictConfig) -> dict[str, Any]:
        results.append(Objective(job(composed)))
        return results[-1]

    entry = hydra.main(
        version_base="1.3", config_path=str(resource_dir("conf").absolute()), config_name="config"
    )
    try:
        with _full_errors(), terminable(), Session.progress:
            entry(task)()
    except errors.SweepEnded as ended:
        return ended.exit_code
    except KeyboardInterrupt:
        Session.interrupted = True
        print("fathom: interrupted; what was measured is written", file=sys.stderr)
        return 1
    except Exception as error:
        refuse(error)
    return _end(results[-1]) if results else 0


def _end(result: dict[str, Any]) -> int:
    """Says what came of a single run; the exit code."""
    from research.parallel.processes import is_primary
    from research.reporting.tables import print_run

    if "error" in result and isinstance(result["error"], Exception):
        refuse(result["error"])
    if is_primary():
        print_run(result)
    return 0 if result["status"] == "done" else 1


@contextlib.contextmanager
def _full_errors() -> Iterator[None]:
    """Hydra raises instead of printing; whether the user asked for traces is remembered."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    Session.shows_traces = before == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
