"""The sweeper: composes and checks every job before the first one starts, and reports all failures at the end."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn


@dataclass
class FathomSweeperConf:
    """The sweeper's node in Hydra's configuration."""

    _target_: str = "hydra_plugins.fathom_sweeper.FathomSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="fathom", node=FathomSweeperConf, provider="fathom")


class FathomSweeper(BasicSweeper):
    """The grid of Hydra's own sweeper, checked whole beforehand and reported whole afterwards."""

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the grid; raises SweepEnded with the exit code once its table is shown."""
        from research.errors import SweepEnded

        jobs = self._checked(self._jobs(arguments))
        returns = self._launch(jobs)
        raise SweepEnded(_report(returns))

    def _jobs(self, arguments: list[str]) -> list[list[str]]:
        given = [f"{name}={values}" for name, values in (self.params or {}).items()]
        assert self.hydra_context
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*given, *arguments])
        return [list(job) for batch in self.split_arguments(_last_of_each(parsed), None) for job in batch]

    def _checked(self, jobs: list[list[str]]) -> list[list[str]]:
        """All jobs, composed and checked, so that a mistake in the last one is seen before the first one starts."""
        from research.train import typed

        assert self.hydra_context and self.config
        for overrides in jobs:
            typed(self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
        return jobs

    def _launch(self, jobs: list[list[str]]) -> list[JobReturn]:
        from research.train import Session

        assert self.launcher and self.config
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        Session.progress.runs = len(jobs)
        return list(self.launcher.launch(jobs, initial_job_idx=0))


def _last_of_each(overrides: list[Any]) -> list[Any]:
    """The command line wins over the swept values of an experiment's file."""
    return list({override.get_key_element(): override for override in overrides}.values())


def _report(returns: list[JobReturn]) -> int:
    """Shows the table of what ended and lists what did not end well; the exit code."""
    from research.records.analysis import Run
    from research.report import console, runs_table, say_failures

    results = [run.return_value for run in returns]
    recorded = [Path(result["directory"]) for result in results if _has_record(result)]
    if recorded:
        console(pipe_width=1000).print(runs_table([Run(directory) for directory in recorded]))
    already = sum(bool(result.get("already")) for result in results)
    if already:
        console().print(
            f"{already} of {len(results)} runs were there already, ended by themselves, and were left alone"
        )
    bad = [(Path(result["directory"]).name, _reason(result)) for result in results if result["status"] != "done"]
    if bad:
        say_failures(bad, len(returns))
    return 1 if bad else 0


def _has_record(result: dict[str, Any]) -> bool:
    return (Path(result["directory"]) / "run.json").exists()


def _reason(result: dict[str, Any]) -> str:
    from research.errors import explain

    error = result.get("error")
    if isinstance(error, Exception):
        return explain(error) or f"{type(error).__name__}: {error}"
    return (result.get("verdict") or {}).get("sentence", result["status"])
