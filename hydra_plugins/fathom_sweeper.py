"""The sweeper ``fathom``: composes and checks every job of a sweep before the first one starts."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.fathom_grouped_launcher import GroupedLauncher
from research.config.schema import Config

Result = dict[str, Any]  # a run's ``run.json`` and its directory


@dataclass
class FathomSweeperConf:
    """The settings under ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.fathom_sweeper.FathomSweeper"
    # A setting of Hydra's own sweeper, without effect: all jobs are launched at once.
    max_batch_size: int | None = None
    # The grid: the values of each setting, separated by commas.
    params: dict[str, str] | None = field(default_factory=dict)
    # Further grids by name, each of which is combined with params.
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="fathom", node=FathomSweeperConf, provider="fathom"
)


class FathomSweeper(BasicSweeper):
    """Sweeps a grid as Hydra's own sweeper does.

    All jobs are checked before the first one starts, runs that have finished are not trained again,
    and failures are reported at the end.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: Any,
        arms: Any,
    ):
        super().__init__(max_batch_size, params)
        self.arms = arms

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        """Called by Hydra before ``sweep``; gives the launcher a loader that composes quickly."""
        from research.runner.session import session_of
        from research.sweeps.composition import Composer

        self.session = session_of(task_function)
        self.composer = Composer.from_loader(hydra_context.config_loader)
        context = HydraContext(self.composer, hydra_context.callbacks)
        super().setup(hydra_context=context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Trains the runs of the grid that have not finished, and shows a table of all runs.

        Raises:
            SweepEnded: Always, with the exit code of the command.
            ValueError: A job is not valid; nothing has been trained.
        """
        from research.config.errors import SweepEnded
        from research.runner.completion import complete_ended_runs
        from research.runner.remarks import EndedRun
        from research.runner.run_spec import read_ended
        from research.sweeps.jobs import expand_jobs, find_unique_jobs
        from research.sweeps.placement import place_jobs
        from research.sweeps.wandb_sweep import with_ends_of_ranges

        assert self.config is not None
        wandb_sweep = self.session.wandb_sweep
        checked = with_ends_of_ranges(arguments) if wandb_sweep else arguments
        jobs = expand_jobs(self.params or {}, self.arms, checked, self.composer)
        jobs = place_jobs(jobs, self.composer, self.config)
        run_specs = [self.composer.make_run_spec(self.config, job) for job in jobs]
        numbers = find_unique_jobs(jobs, run_specs)
        if wandb_sweep:
            self._write_wandb_sweep(arguments, run_specs[0].config)
            raise SweepEnded(0)
        results: dict[int, Result] = {}
        ended: dict[int, EndedRun] = {}
        missing = []
        for number in numbers:
            info = read_ended(run_specs[number])
            if info:
                ended[number] = EndedRun(run_specs[number], info)
            else:
                missing.append(number)
        complete_ended_runs(list(ended.values()))
        for number, run in ended.items():
            results[number] = run.info | {"directory": str(run.spec.directory)}
        if missing:
            sweep_directory = Path(self.config.hydra.sweep.dir)
            sweep_directory.mkdir(parents=True, exist_ok=True)
            _print_plan(
                self._groups([run_specs[number].config for number in missing]),
                num_runs=len(numbers),
                num_duplicates=len(jobs) - len(numbers),
            )
            try:
                new_results = self.launch_jobs([jobs[number] for number in missing])
            except BaseException:
                _remove_empty_folders(sweep_directory)
                raise
            results.update(zip(missing, new_results, strict=True))
        in_order = [results[number] for number in numbers]
        # In the order of the grid, in place of those that the launcher has added.
        self.session.directories = [Path(result["directory"]) for result in in_order]
        exit_code = _report(
            in_order,
            num_finished_before=len(numbers) - len(missing),
        )
        raise SweepEnded(exit_code)

    def _write_wandb_sweep(self, arguments: list[str], config: Any) -> None:
        """Writes the configuration of a W&B sweep instead of training.

        Raises:
            ValueError: W&B cannot run such a sweep.
        """
        from research.sweeps.jobs import parse_grids
        from research.sweeps.wandb_sweep import write_sweep

        grids = parse_grids(self.params or {}, self.arms, arguments, self.composer)
        if len(grids) > 1:
            names = ", ".join(self.arms)
            raise ValueError(f"a W&B sweep has one grid, and this experiment has several ({names})")
        assert self.config is not None
        described = self.session.wandb_sweep.describe(grids[0], config)
        file = write_sweep(described, Path(self.config.hydra.sweep.dir))
        settings = ", ".join(described["parameters"])
        print(f"{file}: a W&B sweep over {settings} ({described['method']})")
        print(f"next: wandb sweep {file}, then wandb agent with the name that it prints")

    def _groups(self, configs: list[Config]) -> list[list[Config]]:
        """The runs that the launcher trains together, group by group."""
        if not isinstance(self.launcher, GroupedLauncher):
            return [[config] for config in configs]
        groups = []
        for numbers in self.launcher.group(dict(enumerate(configs))):
            groups.append([configs[number] for number in numbers])
        return groups

    def launch_jobs(self, jobs: list[list[str]]) -> list[Result]:
        """Has the launcher train the jobs and returns the result of each."""
        assert self.launcher is not None
        self.session.progress.num_runs = len(jobs)
        job_returns = self.launcher.launch(jobs, initial_job_idx=0)
        return [job_return.return_value for job_return in job_returns]


def _remove_empty_folders(sweep_directory: Path) -> None:
    """Removes the folder of a sweep of which no run has started, and ``outputs`` if it is empty."""
    for folder in (sweep_directory.absolute(), sweep_directory.absolute().parent):
        if folder == Path.cwd():
            return
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()


def _print_plan(
    groups: Sequence[Sequence[Config]],
    num_runs: int,
    num_duplicates: int,
) -> None:
    from research.runner.run_spec import program_key

    programs = {program_key(group) for group in groups}
    num_missing = sum(len(group) for group in groups)
    plural = "" if len(programs) == 1 else "s"
    message = f"{num_missing} of {num_runs} runs to train"
    message += f", {len(programs)} compiled program{plural}"
    if num_missing < num_runs:
        message += f"; already finished: {num_runs - num_missing}"
    if num_duplicates:
        message += f"; duplicate jobs, trained once: {num_duplicates}"
    print(message, file=sys.stderr)


def _report(results: Sequence[Result], num_finished_before: int) -> int:
    """Prints a table of the runs and a list of the failures; returns the exit code."""
    from research.records.runs import Run
    from research.reporting.selection import leave_out_damaged
    from research.reporting.tables import console, print_failures, print_runs

    runs = []
    failures = []
    for result in results:
        directory = Path(result["directory"])
        if (directory / "run.json").exists():
            runs.append(Run(directory))
        if result["status"] not in ("done", "stopped"):
            failures.append((directory.name, _failure_reason(result)))
    readable = leave_out_damaged(runs)
    if readable:
        print_runs(readable)
    if num_finished_before:
        console().print(
            f"{num_finished_before} of {len(results)} runs had already finished "
            "and were not trained again"
        )
    if failures:
        print_failures(failures, len(results))
        return 1
    return 0


def _failure_reason(result: Result) -> str:
    from research.config.errors import explain

    error = result.get("error")
    if isinstance(error, Exception):
        return explain(error) or f"{type(error).__name__}: {error}"
    verdict = result.get("verdict") or {}
    return verdict.get("sentence", result["status"])
