"""The sweeper: composes and checks every job before the first one starts, and reports all failures at the end."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class FathomSweeperConf:
    """The sweeper's node in Hydra's configuration."""

    _target_: str = "hydra_plugins.fathom_sweeper.FathomSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)
    arms: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # grids of their own, by name, each beside ``params``


ConfigStore.instance().store(
    group="hydra/sweeper", name="fathom", node=FathomSweeperConf, provider="fathom"
)


class FathomSweeper(BasicSweeper):
    """The grid of Hydra's own sweeper, checked whole beforehand, taken up where it ended, reported whole afterwards."""

    def __init__(self, max_batch_size: int | None, params: Any, arms: Any):
        super().__init__(max_batch_size, params)
        self.arms = arms

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``sweep``; from here on jobs are composed cheaply, the launcher's too."""
        from research.sweeps.composition import Composer

        self.composer = Composer.of(hydra_context.config_loader)
        cheap = HydraContext(self.composer, hydra_context.callbacks)
        super().setup(hydra_context=cheap, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Runs what is missing of the grid; raises SweepEnded with the exit code once its table is shown."""
        from research.config.errors import SweepEnded
        from research.runner.run_spec import read_ended
        from research.sweeps.jobs import jobs_of, without_doubles

        assert self.config is not None
        jobs = jobs_of(self.params or {}, self.arms, arguments, self.composer)
        members = [self.composer.checked(self.config, overrides) for overrides in jobs]
        numbers = without_doubles(jobs, members)
        ended = {number: read_ended(members[number]) for number in numbers}
        missing = [number for number in numbers if not ended[number]]
        if missing:
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            _say_plan(
                [members[number] for number in missing], len(numbers), len(jobs) - len(numbers)
            )
        returns = self._launch([jobs[number] for number in missing])
        results = {
            n: info | {"directory": str(members[n].directory)} for n, info in ended.items() if info
        }
        results |= dict(zip(missing, returns, strict=True))
        raise SweepEnded(_report([results[number] for number in numbers], len(missing)))

    def _launch(self, jobs: list[list[str]]) -> list[dict[str, Any]]:
        from research.runner.session import Session

        assert self.launcher
        if not jobs:
            return []
        Session.progress.runs = len(jobs)
        return [returned.return_value for returned in self.launcher.launch(jobs, initial_job_idx=0)]


def _say_plan(missing: list[Any], runs: int, doubles: int) -> None:
    from research.runner.run_spec import group_key

    programs = len({group_key(member.config) for member in missing})
    there = f"; there already: {runs - len(missing)}" if len(missing) < runs else ""
    plural = "" if programs == 1 else "s"
    twice = f"; asked for more than once and trained once: {doubles}" if doubles else ""
    said = (
        f"{len(missing)} of {runs} runs to train, {programs} compiled program{plural}{there}{twice}"
    )
    print(said, file=sys.stderr)


def _report(results: list[dict[str, Any]], trained: int) -> int:
    """Shows the table of what ended and lists what did not end well; the exit code."""
    from research.records.runs import Run
    from research.reporting.tables import console, runs_table, print_failures

    recorded = [Path(result["directory"]) for result in results if _has_record(result)]
    if recorded:
        console(pipe_width=1000).print(runs_table([Run(directory) for directory in recorded]))
    if trained < len(results):
        already = len(results) - trained
        console().print(
            f"{already} of {len(results)} runs were there already, ended by themselves, and were left alone"
        )
    bad = [
        (Path(result["directory"]).name, _reason(result))
        for result in results
        if result["status"] != "done"
    ]
    if bad:
        print_failures(bad, len(results))
    return 1 if bad else 0


def _has_record(result: dict[str, Any]) -> bool:
    return (Path(result["directory"]) / "run.json").exists()


def _reason(result: dict[str, Any]) -> str:
    from research.config.errors import explain

    error = result.get("error")
    if isinstance(error, Exception):
        return explain(error) or f"{type(error).__name__}: {error}"
    return (result.get("verdict") or {}).get("sentence", result["status"])
