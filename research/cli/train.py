"""``fathom train``, the Hydra entry: from the command line to runs. Hydra ends here."""

import contextlib
import gc
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
from research.config.hydra_config import folder, register, typed
from research.runner.limits import raise_open_files
from research.runner.progress import Progress, Silent
from research.runner.run_spec import Found, Member, Result, read_ended
from research.runner.signals import terminable


class Session:
    """What the jobs of one process share."""

    progress = Progress()
    shows_traces = False
    interrupted = False  # by the user: what would come next is not wanted either


class CheckFirst(Callback):
    """Refuses a wrong configuration before Hydra makes its directory."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run, and meets the processes that train it; sweeps are checked by the sweeper."""
        try:
            member = Member(typed(config), Path(str(config.hydra.run.dir)))
            if member.config.mesh.kind.name == "distributed":
                _meet(member, config)
            else:
                read_ended(member)
        except Exception as error:
            refuse(error)


def _meet(member: Member, composed: DictConfig) -> None:
    """Of the processes of one run, all but the first leave the run's directory alone and say nothing."""
    from research.parallel.processes import is_first, join, scratch, together

    join(member.config.mesh)
    if not is_first():
        composed.hydra.run.dir = scratch()
        composed.hydra.output_subdir = None
        Session.progress = Silent()
    together(lambda: read_ended(member) if is_first() else None)


def refuse(error: Exception) -> NoReturn:
    """Says in one line what was wrong and ends with exit code 2; an error of ours goes on as it is."""
    if isinstance(error, errors.Stopped):
        from research.parallel.processes import leave

        raise errors.Refused(leave(error))
    message = errors.explain(error)
    if message is None:
        raise error
    if Session.shows_traces:
        traceback.print_exception(error)
    print(f"fathom: {message}", file=sys.stderr)
    raise errors.Refused(2)


def job(composed: DictConfig) -> Result:
    """Trains one composed run in the directory that Hydra made for it."""
    (result,) = train_group([Member(typed(composed), Path(HydraConfig.get().runtime.output_dir))])
    return result


def train_group(
    members: Sequence[Member], *, within: str = "auto", devices: int | None = 1
) -> list[Result]:
    """Trains runs that share a program, in this process; an engine carries this call to wherever it may run.

    Args:
        members: the runs; those that have ended already are left alone.
        within: how the runs of one device are trained: ``map``, ``vmap``, or ``auto``.
        devices: the most devices that are used, None for all.

    Returns:
        What came of each, in order; where it raised, the exception as ``error``, so that a sweep goes on.
    """
    try:
        ended = [read_ended(member) for member in members]
        if members[0].config.mesh.kind.name == "distributed":
            from research.parallel.processes import as_the_first_sees

            ended = as_the_first_sees(ended)
        there = {
            member.directory: info for member, info in zip(members, ended, strict=True) if info
        }
        missing = [member for member in members if member.directory not in there]
        trained = dict(
            zip(
                [member.directory for member in missing],
                _train(missing, within, devices),
                strict=True,
            )
        )
    except Exception as error:
        return [
            {"directory": str(member.directory), "status": "failed", "error": error}
            for member in members
        ]
    already = {
        folder: info | {"directory": str(folder), "already": True} for folder, info in there.items()
    }
    return [(already | trained)[member.directory] for member in members]


def _train(members: Sequence[Member], within: str, devices: int | None) -> list[Result]:
    if not members:
        return []
    raise_open_files()
    gc.disable()  # while modules are imported nothing becomes garbage: to look for it takes a tenth of the time
    try:
        prepare_jax(devices)
        from research.runner.loop import train

        gc.freeze()  # what is imported stays: looking through it again and again takes a sixth of the time to trace
    finally:
        gc.enable()
    from research.records.record import Taken

    results = train(members, Session.progress, within=within, devices=devices)
    for member, result in zip(members, results, strict=True):
        error = result.get("error")
        if isinstance(error, Exception) and Session.shows_traces:
            traceback.print_exception(error)
        began = (member.directory / "run.json").exists() or isinstance(error, Taken)
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
        results.append(Found(job(composed)))
        return results[-1]

    entry = hydra.main(
        version_base="1.3", config_path=str(folder("conf").absolute()), config_name="config"
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
    from research.parallel.processes import is_first
    from research.reporting.tables import say_run

    if "error" in result and isinstance(result["error"], Exception):
        refuse(result["error"])
    if is_first():
        say_run(result)
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
