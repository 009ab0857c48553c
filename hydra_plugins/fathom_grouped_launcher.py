"""The launcher ``grouped``: jobs that differ only in traced numbers are trained as one program."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from research.config.options import MapMode

JobGroup = dict[int, Sequence[str]]  # the overrides of each job, by the job's number
TrainedGroup = tuple[JobGroup, list[Any]]  # a group and the results of its runs


@dataclass
class GroupedLauncherConf:
    """The settings under ``hydra.launcher``."""

    _target_: str = "hydra_plugins.fathom_grouped_launcher.GroupedLauncher"
    # How the runs of one device are trained: one after the other (map) or at once (vmap).
    # auto: map on CPUs, vmap on accelerators.
    map_mode: MapMode = MapMode.auto
    # The largest number of devices that are used; null: all. Each CPU core counts as a device.
    devices: int | None = None
    # The largest number of runs in a group; null: as many as memory and open files allow.
    max_group_size: int | None = None


ConfigStore.instance().store(
    group="hydra/launcher", name="grouped", node=GroupedLauncherConf, provider="fathom"
)


class GroupedLauncher(Launcher):
    """Trains the jobs of a sweep in this process, group by group.

    A run that fails does not stop the others.
    """

    def __init__(
        self,
        map_mode: MapMode,
        devices: int | None,
        max_group_size: int | None,
    ):
        self.map_mode = map_mode
        self.devices = devices
        self.max_group_size = max_group_size

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        """Called by Hydra before ``launch``."""
        from research.runner.session import session_of
        from research.sweeps.composition import Composer

        _check_positive("devices", self.devices)
        _check_positive("max_group_size", self.max_group_size)
        self.session = session_of(task_function)
        self.composer = Composer.from_loader(hydra_context.config_loader)
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Trains every job.

        Args:
            job_overrides: The overrides of each job.
            initial_job_idx: The number of the first job.

        Returns:
            The result of each job, in order.
        """
        jobs = dict(enumerate(job_overrides, start=initial_job_idx))
        results: dict[int, Any] = {}
        for group, group_results in self.train_groups(self._group(jobs)):
            results.update(zip(group, group_results, strict=True))
        job_returns = []
        for number, overrides in jobs.items():
            self.session.add_directory(Path(results[number]["directory"]))
            job_returns.append(_make_job_return(overrides, results[number]))
        return job_returns

    def train_groups(self, groups: Sequence[JobGroup]) -> Iterator[TrainedGroup]:
        """Trains group by group and yields each with the results of its runs."""
        from research.runner.session import train_group

        for group in groups:
            results = train_group(
                self.make_run_specs(group),
                self.session,
                map_mode=self.map_mode.name,
                devices=self.devices,
            )
            yield group, results

    def make_run_specs(self, group: JobGroup) -> list[Any]:
        """The runs of a group, with the files that Hydra's own launcher would write for them."""
        run_specs = []
        for number, overrides in group.items():
            run_spec = self.composer.make_run_spec_with_files(self.config, overrides, number)
            run_specs.append(run_spec)
        return run_specs

    def _group(self, jobs: JobGroup) -> list[JobGroup]:
        """Groups the jobs that share a program, as far as open files allow."""
        configs = {}
        for number, overrides in jobs.items():
            run_spec = self.composer.make_run_spec(self.config, overrides)
            configs[number] = run_spec.config
        return [{number: jobs[number] for number in numbers} for numbers in self.group(configs)]

    def group(self, configs: Mapping[int, Any]) -> list[list[int]]:
        """The numbers of the jobs that are trained together, group by group.

        Args:
            configs: the configuration of each job, by the job's number.
        """
        from research.runner.limits import max_open_runs
        from research.sweeps.jobs import group_jobs

        largest_group = max(group_jobs(configs, self.max_group_size), key=len)
        wanted = len(largest_group)
        max_group_size = min(wanted, max_open_runs(wanted))
        return group_jobs(configs, max_group_size)


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"hydra.launcher.{name} must be a whole number ≥ 1 or null, got {value}")


def _make_job_return(overrides: Sequence[str], result: Any) -> JobReturn:
    from research.runner.run_spec import Objective

    job_return = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    job_return.return_value = Objective(result)
    return job_return
