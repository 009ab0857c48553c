"""The grouped launcher, ``hydra/launcher=grouped``: jobs that differ in traced numbers alone run as one program."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from research.config.options import MapMode


@dataclass
class GroupedLauncherConf:
    """The launcher's node in Hydra's configuration."""

    _target_: str = "hydra_plugins.fathom_grouped_launcher.GroupedLauncher"
    map_mode: MapMode = (
        MapMode.auto
    )  # on one device: one run after the other, or together; auto: map on CPUs, else vmap
    devices: int | None = None  # the most that are used; null: all, each CPU core being one
    max_group_size: int | None = None  # runs a group; null: as many as memory and open files allow


ConfigStore.instance().store(
    group="hydra/launcher", name="grouped", node=GroupedLauncherConf, provider="fathom"
)


class GroupedLauncher(Launcher):
    """Runs a sweep's jobs in this process, group by group; what fails takes nothing else along."""

    def __init__(self, map_mode: MapMode, devices: int | None, max_group_size: int | None):
        self.map_mode = map_mode
        self.devices = devices
        self.max_group_size = max_group_size

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``launch``."""
        from research.sweeps.composition import Composer

        for name, value in {"devices": self.devices, "max_group_size": self.max_group_size}.items():
            if value is not None and value < 1:
                raise ValueError(
                    f"hydra.launcher.{name} must be a whole number ≥ 1 or null, got {value}"
                )
        self.composer = Composer.of(hydra_context.config_loader)
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Trains every job; returns what came of each, in order."""
        from research.runner.limits import max_open_runs
        from research.sweeps.jobs import groups_of

        jobs = {initial_job_idx + n: overrides for n, overrides in enumerate(job_overrides)}
        configs = {
            number: self.composer.checked(self.config, overrides).config
            for number, overrides in jobs.items()
        }
        largest = max(len(group) for group in groups_of(configs, self.max_group_size))
        groups = groups_of(configs, min(largest, max_open_runs(largest)))
        results: dict[int, Any] = {}
        for group, trained in self.trained(
            [{number: jobs[number] for number in numbers} for numbers in groups]
        ):
            results |= dict(zip(group, trained, strict=True))
        return [_returned(jobs[number], results[number]) for number in jobs]

    def members(self, group: dict[int, Sequence[str]]) -> list[Any]:
        """The runs of a group of jobs, with the files that Hydra's own launcher would write."""
        return [
            self.composer.member(self.config, overrides, number)
            for number, overrides in group.items()
        ]

    def trained(
        self, groups: Sequence[dict[int, Sequence[str]]]
    ) -> Iterator[tuple[dict[int, Any], list[Any]]]:
        """Trains group by group; yields each with what came of its runs."""
        from research.runner.session import train_group

        for group in groups:
            yield (
                group,
                train_group(self.members(group), map_mode=self.map_mode.name, devices=self.devices),
            )


def _returned(overrides: Sequence[str], result: Any) -> JobReturn:
    from research.runner.run_spec import Objective

    returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    returned.return_value = Objective(result)
    return returned
