"""Trains runs in this process, and holds what the runs of one command share."""

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research.config.notices import notify, notify_once
from research.config.schema import Config
from research.data.sources import last_change_of, load
from research.records.trackers import TrackerReports
from research.runner.completion import complete_ended_runs
from research.runner.devices import check_devices
from research.runner.limits import raise_open_files
from research.runner.program_cache import use_program_cache
from research.runner.progress import Progress
from research.runner.remarks import EndedRun
from research.runner.run_spec import Result, RunSpec, read_ended
from research.runner.signals import importing

RECORDS_NONFINITE = "numbers that are not finite are recorded with their step and layer"
FAILS_ON_USE = "no run can be trained under it"
# Flags of JAX that would end the process or hold it up, with the value that they get and why.
IGNORED_FLAGS: dict[str, tuple[Any, str]] = {
    "jax_debug_nans": (False, RECORDS_NONFINITE),
    "jax_debug_infs": (False, RECORDS_NONFINITE),
    "jax_check_tracer_leaks": (False, FAILS_ON_USE),  # custom derivatives look like leaks
    "jax_compilation_cache_check_contents": (False, FAILS_ON_USE),
    "jax_disable_jit": (False, "each step would take minutes"),
    "jax_no_execution": (False, FAILS_ON_USE),
    "jax_no_tracing": (False, FAILS_ON_USE),
    "jax_numpy_dtype_promotion": ("standard", FAILS_ON_USE),
    "jax_transfer_guard": ("allow", FAILS_ON_USE),
    "jax_transfer_guard_host_to_device": ("allow", FAILS_ON_USE),
    "jax_transfer_guard_device_to_host": ("allow", FAILS_ON_USE),
    "jax_transfer_guard_device_to_device": ("allow", FAILS_ON_USE),
}
X64_VARIABLE = "JAX_ENABLE_X64"
X64_INSTEAD = "precision=float64 gives a run numbers of 64 bits, and each other option its own"
VALUES_THAT_RAISE = (True, "disallow", "disallow_explicit", "strict")
HYDRA_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")


@dataclass
class Session:
    """What the runs of one command share.

    ``fathom train`` creates it and carries it on the task function that it hands to Hydra.

    Attributes:
        progress: The display of what is being trained.
        show_traces: Whether the traceback of an error is printed as well as its message.
        interrupted: Whether the user interrupted the command, so that nothing more should start.
        reports: What the trackers of the runs have reported.
        prints_errors: Whether a mistake is printed; a caller in Python raises it instead.
        directories: Where the runs of the command are recorded, each once; in order at its end.
        arguments: The words after ``fathom train``, once they have been parsed.
        wandb_sweep: The W&B sweep whose configuration is written instead of training a sweep;
            None to train.
    """

    progress: Progress = field(default_factory=Progress)
    show_traces: bool = False
    interrupted: bool = False
    reports: TrackerReports = field(default_factory=TrackerReports)
    prints_errors: bool = True
    directories: list[Path] = field(default_factory=list)
    arguments: Sequence[str] = ()
    wandb_sweep: Any = None

    def add_directory(self, directory: Path) -> None:
        """Adds where a run is recorded, unless it is among the directories already."""
        if directory not in self.directories:
            self.directories.append(directory)


def session_of(task_function: Any) -> Session:
    """The session on the task function that Hydra hands to a launcher or sweeper."""
    return task_function.session


def train_group(
    run_specs: Sequence[RunSpec],
    session: Session,
    *,
    map_mode: str = "auto",
    devices: int | None = 1,
) -> list[Result]:
    """Trains runs that share a program, in this process.

    Args:
        run_specs: The runs; those that have finished already are not trained again.
        session: Shows the progress, and decides whether tracebacks are printed.
        map_mode: How the runs of one device are trained: ``map``, ``vmap``, or ``auto``.
        devices: The largest number of devices that are used, None for all.

    Returns:
        The result of each run, in order. Where training raised, the result holds the exception as
        ``error``, so that a sweep goes on.
    """
    try:
        finished = _read_finished(run_specs)
        missing = [run_spec for run_spec in run_specs if run_spec.directory not in finished]
        results = _train_missing(missing, session, map_mode, devices)
    except Exception as error:
        for run_spec in run_specs:
            if not _has_record(run_spec, error):
                remove_hydra_output(run_spec.directory)
        return [_failed_result(run_spec, error) for run_spec in run_specs]
    by_directory = dict(finished)
    for run_spec, result in zip(missing, results, strict=True):
        by_directory[run_spec.directory] = result
    return [by_directory[run_spec.directory] for run_spec in run_specs]


def _report_changed_data(run_spec: RunSpec, info: Mapping[str, Any]) -> None:
    """Say that the user's own data are others than those that a finished run was trained on.

    They are read where the date of a file has changed.

    Args:
        run_spec: The run.
        info: Its ``run.json``.
    """
    data = run_spec.config.data
    trained_on = info.get("data") or {}
    date = trained_on.get("changed_ns")
    if date is None or date == last_change_of(data):
        return
    if load(data).fingerprint() != trained_on.get("fingerprint"):
        notify(
            f"{run_spec.directory}: the data have changed since this run has finished: "
            "give another name= to train on them"
        )


def _read_finished(run_specs: Sequence[RunSpec]) -> dict[Path, Result]:
    """The results of the runs that have finished already, by directory."""
    infos = [read_ended(run_spec) for run_spec in run_specs]
    if run_specs[0].config.mesh.kind.name == "distributed":
        from research.parallel.processes import broadcast_finished_runs

        infos = broadcast_finished_runs(infos)
    ended = [EndedRun(spec, info) for spec, info in zip(run_specs, infos, strict=True) if info]
    complete_ended_runs([run for run in ended if run.is_recorded_here])
    finished = {}
    for run in ended:
        _report_changed_data(run.spec, run.info)
        directory = run.spec.directory
        finished[directory] = run.info | {"directory": str(directory), "already": True}
    return finished


def _failed_result(run_spec: RunSpec, error: Exception) -> Result:
    return {"directory": str(run_spec.directory), "status": "failed", "error": error}


def _train_missing(
    run_specs: Sequence[RunSpec],
    session: Session,
    map_mode: str,
    devices: int | None,
) -> list[Result]:
    if not run_specs:
        return []
    raise_open_files()
    train_runs = _import_train_runs(_num_devices(run_specs, devices))
    _report_unused_devices(run_specs[0].config)
    if len(run_specs) == 1 and session.progress.num_runs == 1:
        _suggest_all_cores(run_specs[0], session)
    results = train_runs(
        run_specs,
        session.progress,
        map_mode=map_mode,
        devices=devices,
        reports=session.reports,
    )
    for run_spec, result in zip(run_specs, results, strict=True):
        error = result.get("error")
        if not isinstance(error, Exception):
            continue
        if session.show_traces:
            traceback.print_exception(error)
        if not _has_record(run_spec, error):
            remove_hydra_output(run_spec.directory)
    return results


def _num_devices(run_specs: Sequence[RunSpec], devices: int | None) -> int | None:
    """The largest number of devices that will be used; with CPUs, how many cores become devices."""
    config = run_specs[0].config
    if config.mesh.kind.name == "data_parallel":
        return _cores_that_share(config.train.batch_size)
    return devices


def _cores_that_share(batch_size: int) -> int:
    """The greatest number of cores that can share a batch equally."""
    for number in range(_num_cores(), 1, -1):
        if batch_size % number == 0:
            return number
    return 1


def _report_unused_devices(config: Config) -> None:
    """Says where ``mesh=data_parallel`` trains on fewer devices than there are, or on one."""
    import jax

    if config.mesh.kind.name != "data_parallel":
        return
    batch_size = config.train.batch_size
    num_devices = jax.device_count()
    num_cores = _num_cores()
    is_full_batch = config.optimizer.kind.name == "gd"
    is_chosen = any(name in os.environ for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"))
    is_limited = num_devices == _cores_that_share(batch_size) < num_cores
    is_cpu = jax.default_backend() == "cpu"
    if is_cpu and is_limited and not (is_chosen or is_full_batch):
        notify_once(
            f"mesh=data_parallel trains on {num_devices} of {num_cores} CPU cores, because more "
            f"cannot share train.batch_size={batch_size} equally; a multiple of {num_cores} uses "
            "all"
        )
    elif num_devices == 1:
        notify_once("mesh=data_parallel has no effect, because JAX has a single device")


def _suggest_all_cores(run_spec: RunSpec, session: Session) -> None:
    """Says how all cores can train a single run, which uses one unless the user decides."""
    import jax

    config = run_spec.config
    num_cores = _cores_that_share(config.train.batch_size)
    is_auto = config.mesh.kind.name == "auto"
    if is_auto and num_cores > 1 and jax.default_backend() == "cpu":
        session.progress.suggest(
            f"one core trains this run: mesh=data_parallel shares each batch over {num_cores}; "
            "the numbers are the same up to rounding"
        )


def _import_train_runs(devices: int | None) -> Callable[..., list[Result]]:
    """Imports JAX and the host loop, with the garbage collector off while they are imported.

    No garbage appears during imports, and looking for it takes a tenth of their time. What has been
    imported is then exempt from collection, because scanning it repeatedly takes a sixth of the
    time of tracing.
    """
    gc.disable()
    try:
        with importing():
            prepare_jax(devices)
            from research.runner.loop import train_runs

        gc.freeze()
    finally:
        gc.enable()
    return train_runs


def _has_record(run_spec: RunSpec, error: Exception) -> bool:
    """Whether the run's directory holds a record, or will: another process is writing it."""
    from research.records.record import RunLocked

    if isinstance(error, RunLocked):
        return True
    return (run_spec.directory / "run.json").exists()


def remove_hydra_output(directory: Path) -> None:
    """Removes Hydra's files of a run without a record, then each directory that this leaves empty.

    It stops at the working directory. For a run outside the working directory, it stops after the
    folder of the run's study, which is the parent of ``directory``.
    """
    directory = Path(os.path.abspath(directory))
    hydra_folder = directory / ".hydra"
    for name in HYDRA_FILES:
        (hydra_folder / name).unlink(missing_ok=True)
    working_directory = Path.cwd()
    folders = [hydra_folder, directory, directory.parent]
    if directory.is_relative_to(working_directory):
        folders = [hydra_folder, directory, *directory.parents]
    for folder in folders:
        if folder == working_directory:
            return
        try:
            folder.rmdir()
        except OSError:  # the folder is not empty, or this user may not remove it
            return


def prepare_jax(devices: int | None = 1) -> None:
    """Sets up JAX before its first use, and starts it.

    Compiled programs are cached on disk, unless the user has set a cache. Where more than one
    device is asked for, each CPU core becomes a device, which JAX allows only before it starts.

    Args:
        devices: The largest number of devices that will be used, None for all.

    Raises:
        ValueError: JAX does not start under what the user's environment asks for.
    """
    import jax

    use_program_cache()
    for flag, (harmless, reason) in IGNORED_FLAGS.items():
        if getattr(jax.config, flag, None) in VALUES_THAT_RAISE:
            jax.config.update(flag, harmless)
            print(f"fathom: {flag.upper()} is switched off: {reason}", file=sys.stderr)
    if X64_VARIABLE in os.environ and getattr(jax.config, "jax_enable_x64", False):
        print(f"fathom: {X64_VARIABLE} has no effect: {X64_INSTEAD}", file=sys.stderr)
    if devices != 1 and getattr(jax.config, "jax_num_cpu_devices", 0) < 1:
        with contextlib.suppress(RuntimeError):  # JAX has started, with the devices that it has
            jax.config.update("jax_num_cpu_devices", devices or _num_cores())
    check_devices()


def _num_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
