"""``fathom train``: from the command line to runs. Hydra ends here."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import hydra
import hydra._internal.hydra
import hydra.core.utils
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from research.cli.overrides import config_folders, prepare_arguments, report_repeated
from research.config import errors
from research.config.config_files import check_config_files, name_place
from research.config.given_settings import describe_long_intervals
from research.config.hydra_config import register_with_hydra, resource_dir
from research.config.options import DistributedMesh
from research.config.yaml_files import parse_yaml
from research.data.compatibility import check_data
from research.parallel.errors import JoinInterrupted, PeerFailed
from research.records.files import replacing
from research.records.runs import ENDED
from research.runner.devices import check_compiler_flags
from research.runner.progress import Silent
from research.runner.run_spec import (
    Objective,
    RunSpec,
    read_ended,
    record_as_read,
    to_checked_config,
)
from research.runner.session import Session, remove_hydra_output, train_group
from research.runner.signals import terminable
from research.sweeps.composition import CachingLoader
from research.sweeps.placement import place_single_run
from research.sweeps.wandb_sweep import take_options

_current_session: ContextVar[Session] = ContextVar("session")


def current_session() -> Session:
    """The session of the ``fathom train`` that is running.

    Only for Hydra callbacks. Hydra creates and calls them without the task function, on which
    launchers and sweepers find the session.
    """
    return _current_session.get()


class CheckFailed(BaseException):
    """A defect in the checks of a run, which Hydra would swallow if it were an ``Exception``.

    Attributes:
        error: what was raised.
    """

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


class CheckFirst(Callback):
    """Refuses a wrong configuration before Hydra creates the run's directory."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run and joins the processes that train it; the sweeper checks sweeps."""
        session = current_session()
        try:
            _check_no_grid(config)
            checked = to_checked_config(config)  # before the folder, whose name holds settings
            directory = Path(str(config.hydra.run.dir))
            run_spec = RunSpec.of_command(checked, directory, config.hydra.overrides.task)
            record_as_read(config, run_spec.config)
            run_spec = place_single_run(config, run_spec)
            if run_spec.config.mesh.kind.name == "distributed":
                _join_processes(run_spec, config, session)
            else:
                if not read_ended(run_spec):
                    _report_long_intervals(config, run_spec)
        except Exception as error:
            try:
                refuse(error, session)
            except Exception as defect:
                raise CheckFailed(defect) from None


def _check_no_grid(composed: DictConfig) -> None:
    """A single run would pass over the grid of its experiment.

    Raises:
        ValueError: there is a grid, and a single run was not asked for by ``hydra.mode=RUN``.
    """
    sweeper = composed.hydra.sweeper
    words = sys.argv  # Hydra adds its mode to the overrides itself, and refuses a grid there
    is_asked_for = any(word == "hydra.mode=RUN" or "hydra.sweeper." in word for word in words)
    if not is_asked_for and (sweeper.get("params") or sweeper.get("arms")):
        name = composed.hydra.runtime.choices.get("experiment")
        raise ValueError(
            f"experiment={name} has a grid in hydra.sweeper, which a single run passes over: "
            "add -m, or hydra: {mode: MULTIRUN} to its file"
        )


def _report_long_intervals(composed: DictConfig, run_spec: RunSpec) -> None:
    """Says on standard error which measurements the run is too short to repeat."""
    overrides = composed.hydra.overrides.task
    for line in describe_long_intervals(overrides, run_spec.config, check_data(run_spec.config)):
        print(f"fathom: {line}", file=sys.stderr)


def _join_processes(
    run_spec: RunSpec,
    composed: DictConfig,
    session: Session,
) -> None:
    """Joins the processes of a distributed run; only the primary one writes and reports."""
    from research.parallel.processes import (
        is_primary,
        join_processes,
        make_scratch_directory,
        run_on_all_processes,
    )

    check_compiler_flags()
    mesh = run_spec.config.mesh
    assert isinstance(mesh, DistributedMesh)
    join_processes(
        coordinator=mesh.coordinator,
        num_processes=mesh.processes,
        process_id=mesh.process,
    )
    if not is_primary():
        composed.hydra.run.dir = make_scratch_directory()
        composed.hydra.output_subdir = None
        session.progress = Silent()

    def check() -> None:
        if is_primary():
            read_ended(run_spec)

    run_on_all_processes(check, describe_error=errors.explain)


def _prefer_own_launchers() -> None:
    """Loads Hydra's plugins, and then registers the launchers whose names others may have taken."""
    from hydra.core.plugins import Plugins

    Plugins.instance()
    from hydra_plugins.fathom_engines import register_launchers

    register_launchers()


class TrainTask:
    """The task function for Hydra: trains one composed run in the directory that Hydra made.

    Attributes:
        session: What the runs of this command share; launchers and sweepers read it here.
        results: The result of each run that Hydra's own launcher has trained, oldest first.
    """

    def __init__(self, session: Session):
        self.session = session
        self.results: list[Objective] = []

    def __call__(self, composed: DictConfig) -> Objective:
        """Trains the run and returns its result, which a search minimises."""
        overrides = HydraConfig.get().overrides.task
        runtime = HydraConfig.get().runtime
        # With hydra.job.chdir=true Hydra has changed to the run's directory, but relative paths
        # mean what they meant when the command was given.
        with contextlib.chdir(runtime.cwd):
            config = to_checked_config(composed)
            run_spec = RunSpec.of_command(config, Path(runtime.output_dir), overrides)
            (result,) = train_group([run_spec], self.session)
        objective = Objective(result)
        self.results.append(objective)
        self.session.add_directory(run_spec.directory)
        return objective


def main(arguments: Sequence[str], session: Session | None = None) -> int:
    """Trains what the arguments ask for and returns the exit code.

    Args:
        arguments: The words after ``fathom train``.
        session: What the runs share, a new one by default. A caller that passes it can read
            afterwards whether the user interrupted the command.

    Raises:
        UsageError: The request was wrong; the message has been printed.
    """
    session = session or Session()
    session.show_traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    task = TrainTask(session)
    try:
        session.wandb_sweep, others = take_options(arguments)
        words = prepare_arguments(others)
        session.arguments = words
        report_repeated(words)
    except ValueError as error:
        refuse(error, session)
    sys.argv = ["fathom train", *words]  # Hydra reads its arguments there
    register_with_hydra()
    _prefer_own_launchers()
    run_hydra = hydra.main(
        version_base="1.3",
        config_path=str(resource_dir("conf").absolute()),
        config_name="config",
    )
    try:
        check_config_files(words, config_folders(words))
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(_hydra_raises())
            contexts.enter_context(_hydra_composes_once())
            contexts.enter_context(_hydra_replaces_files())
            contexts.enter_context(terminable())
            contexts.enter_context(session.progress)
            contexts.enter_context(_visible_to_callbacks(session))
            run_hydra(task)()
    except errors.SweepEnded as ended:
        return ended.exit_code
    except CheckFailed as failed:
        raise failed.error from None
    except KeyboardInterrupt as interruption:
        session.interrupted = True
        print(f"fathom: interrupted{interruption}", file=sys.stderr, flush=True)
        if isinstance(interruption, JoinInterrupted):
            os._exit(1)  # an orderly exit would wait for the other processes
        return 1
    except Exception as error:
        refuse(error, session)
    if not task.results:
        return 0
    return _report_run(task.results[-1], session)


def refuse(
    error: Exception,
    session: Session,
    *,
    exit_code: int = 2,
) -> NoReturn:
    """Reports a user's mistake in one line and raises UsageError; raises a defect of ours again.

    Args:
        error: what was raised.
        session: whether the message and the traceback are printed.
        exit_code: the exit code of the command; 1 where a run had started before it failed.
    """
    if isinstance(error, PeerFailed):
        from research.parallel.processes import report_peer_failure

        raise errors.UsageError(report_peer_failure(error))
    message = errors.explain(error)
    if message is None:
        raise error
    message = name_place(message, session.arguments, config_folders(session.arguments))
    if session.show_traces:
        traceback.print_exception(error)
    if session.prints_errors:
        print(f"fathom: {message}", file=sys.stderr)
    raise errors.UsageError(exit_code, message) from error


def _report_run(result: dict[str, Any], session: Session) -> int:
    """Prints how a single run ended and returns the exit code."""
    error = result.get("error")
    if isinstance(error, Exception):
        refuse(error, session, exit_code=1 if "steps" in result else 2)
    from research.parallel.processes import is_primary
    from research.reporting.tables import print_run

    if is_primary():
        print_run(result)
    return 0 if result["status"] in ("done", "stopped") else 1


@contextlib.contextmanager
def _visible_to_callbacks(session: Session) -> Iterator[None]:
    token = _current_session.set(session)
    try:
        yield
    finally:
        _current_session.reset(token)


@contextlib.contextmanager
def _hydra_replaces_files() -> Iterator[None]:
    """Makes Hydra write each file of a run's configuration completely or not at all.

    Hydra itself first empties the file, so that a full disk, or a kill, would leave a finished run
    that is named again without its settings.
    """
    before = hydra.core.utils._save_config
    hydra.core.utils._save_config = _save_config
    try:
        yield
    finally:
        hydra.core.utils._save_config = before


def _save_config(
    composed: Any,
    filename: str,
    output_dir: Path,
) -> None:
    """Writes a file of a run's configuration, in place of Hydra's function of this name.

    Args:
        composed: what is written.
        filename: the name of the file.
        output_dir: the folder ``.hydra`` of the run.

    Raises:
        OSError: it cannot be written. Nothing is left of a run that is new.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        file = output_dir / filename
        if file.exists() and _has_ended(output_dir.parent):
            composed = _keep_recorded(composed, file)
        with replacing(file) as temporary:
            temporary.write_text(OmegaConf.to_yaml(composed), encoding="utf-8")
    except OSError:
        if not (output_dir.parent / "run.json").exists():
            remove_hydra_output(output_dir.parent)
        raise


def _has_ended(directory: Path) -> bool:
    from research.records.record import read_info

    info = read_info(directory) or {}
    return info.get("status") in ENDED


def _keep_recorded(composed: Any, file: Path) -> Any:
    """What stands in a file of a run that has ended, which is left as it was trained.

    A later command may have other settings that do not change its numbers, such as
    ``checkpoint.keep`` or ``mesh``. Only where it is tracked follows the command.

    Args:
        composed: what Hydra would write for the command.
        file: the file.

    Returns:
        ``composed`` where the file cannot be read.
    """
    try:
        recorded = OmegaConf.create(parse_yaml(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        return composed
    if type(recorded) is not type(composed):
        return composed
    if "tracker" in recorded and "tracker" in composed:
        recorded.tracker = composed.tracker
    return recorded


@contextlib.contextmanager
def _hydra_composes_once() -> Iterator[None]:
    """Makes Hydra load configurations with ``CachingLoader``."""
    module: Any = hydra._internal.hydra
    before = module.ConfigLoaderImpl
    module.ConfigLoaderImpl = CachingLoader
    try:
        yield
    finally:
        module.ConfigLoaderImpl = before


@contextlib.contextmanager
def _hydra_raises() -> Iterator[None]:
    """Makes Hydra raise an error instead of printing it and ending the process."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
