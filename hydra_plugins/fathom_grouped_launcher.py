"""The grouped launcher, ``hydra/launcher=grouped``: jobs that differ in traced numbers alone run as one program."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

Within = enum.Enum("Within", ["auto", "map", "vmap"])


@dataclass
class GroupedLauncherConf:
    """The launcher's node in Hydra's configuration."""

    _target_: str = "hydra_plugins.fathom_grouped_launcher.GroupedLauncher"
    within: Within = Within.auto  # on one device: one run after the other, or together; auto: map on CPUs, else vmap
    devices: int | None = None  # the most that are used; null: all, each CPU core being one
    most: int | None = None  # runs a group; null: as many as memory and open files allow


ConfigStore.instance().store(group="hydra/launcher", name="grouped", node=GroupedLauncherConf, provider="fathom")


class GroupedLauncher(Launcher):
    """Runs a sweep's jobs in this process, group by group; what fails takes nothing else along."""

    def __init__(self, within: Within, devices: int | None, most: int | None):
        self.within, self.devices, self.most = within, devices, most

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before ``launch``."""
        from research.composition import Composer

        for name, value in {"devices": self.devices, "most": self.most}.items():
            if value is not None and value < 1:
                raise ValueError(f"hydra.launcher.{name} must be a whole number ≥ 1 or null, got {value}")
        self.composer, self.config = Composer.of(hydra_context.config_loader), config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Trains every job; returns what came of each, in order."""
        from research.limits import most_together
        from research.sweep import groups_of

        jobs = {initial_job_idx + n: overrides for n, overrides in enumerate(job_overrides)}
        configs = {number: self.composer.checked(self.config, overrides).config for number, overrides in jobs.items()}
        largest = max(len(group) for group in groups_of(configs, self.most))
        results: dict[int, Any] = {}
        for numbers in groups_of(configs, min(largest, most_together(largest))):
            results |= self._run({number: jobs[number] for number in numbers})
        return [_returned(jobs[number], results[number]) for number in jobs]

    def _run(self, jobs: dict[int, Sequence[str]]) -> dict[int, Any]:
        from research.train import train_group

        members = [self.composer.member(self.config, overrides, number) for number, overrides in jobs.items()]
        results = train_group(members, within=self.within.name, devices=self.devices)
        return dict(zip(jobs, results, strict=True))


def _returned(overrides: Sequence[str], result: Any) -> JobReturn:
    returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    returned.return_value = result
    return returned
