"""Composes many jobs quickly: Hydra composes each choice of groups once, then only values change.

Nothing here imports JAX.
"""

import copy
import dataclasses
import functools
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper
from omegaconf.errors import OmegaConfBaseException

from research.config.hydra_config import register_with_hydra, resolve_settings, resource_dir
from research.records.runs import flatten_dict
from research.runner.run_spec import RunSpec, record_as_read, to_checked_config

CacheKey = tuple[str, ...]
CommandKey = tuple[str | None, tuple[str, ...]]


class _ParsedFiles(CachingConfigRepository):
    """The files of the configuration, each of which is parsed once for many compositions.

    Hydra's own repository parses them again for each composition, because a composition changes
    what was read.

    Args:
        delegate: Reads the files.
        pickled: The files that have been parsed, by path.
    """

    def __init__(
        self,
        delegate: IConfigRepository,
        pickled: dict[str, bytes],
    ):
        self.delegate = delegate
        self.cache = {}
        self._pickled = pickled

    def initialize_sources(self, config_search_path: Any) -> None:
        """Called by Hydra where a job has other folders to search."""
        self.delegate = copy.deepcopy(self.delegate)
        self._pickled = {}
        super().initialize_sources(config_search_path)

    def load_config(self, config_path: str) -> Any:
        """The content of a file, which the caller may change."""
        if config_path not in self.cache:
            if config_path not in self._pickled:
                content = self.delegate.load_config(config_path)
                self._pickled[config_path] = pickle.dumps(content)
            self.cache[config_path] = pickle.loads(self._pickled[config_path])
        return self.cache[config_path]


class CachingLoader(ConfigLoaderImpl):
    """Hydra's configuration loader, but it parses each file, and composes a command, only once.

    Hydra itself composes the configuration of a command twice: first only to read ``hydra.mode``.
    """

    def __init__(self, config_search_path: ConfigSearchPath):
        super().__init__(config_search_path)
        self._pickled_files: dict[str, bytes] = {}
        self._composed_for_mode: dict[CommandKey, DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As in Hydra's loader, but what was composed to read ``hydra.mode`` is used afterwards."""
        if validate_sweep_overrides:
            parsed_overrides = self._parse_overrides(overrides)
            composed = self._take_composed(config_name, parsed_overrides)
            if composed is not None:
                self.validate_sweep_overrides_legal(parsed_overrides, run_mode, from_shell)
                return composed
        composed = super().load_configuration(
            config_name,
            overrides,
            run_mode,
            from_shell,
            validate_sweep_overrides,
        )
        if not validate_sweep_overrides:  # Hydra only wants to read hydra.mode
            lines = tuple(overrides)
            self._composed_for_mode = {(config_name, lines): composed}
        return composed

    def _take_composed(
        self,
        config_name: str | None,
        overrides: Sequence[Override],
    ) -> DictConfig | None:
        """What was composed to read ``hydra.mode``, or None if it is not what is asked for.

        Where a command sets no mode, Hydra adds it as the last override.
        """
        lines = tuple(override.input_line or "" for override in overrides)
        set_mode = []
        if lines and lines[-1] in ("hydra.mode=RUN", "hydra.mode=MULTIRUN"):
            set_mode = [overrides[-1]]
        for added in ([], set_mode):
            key = (config_name, lines[: len(lines) - len(added)])
            composed = self._composed_for_mode.pop(key, None)
            if composed is None or _lacks_choices(composed):
                continue
            self._apply_overrides_to_config(added, composed)
            for override in added:
                composed.hydra.overrides.hydra.append(override.input_line)
            return composed
        return None

    def _parse_overrides_and_create_caching_repo(
        self,
        config_name: str | None,
        overrides: list[str],
    ) -> tuple[list[Override], CachingConfigRepository]:
        """As in Hydra's loader, which calls it, but files are parsed only once."""
        parsed_overrides = self._parse_overrides(overrides)
        files = _ParsedFiles(self.repository, self._pickled_files)
        self._process_config_searchpath(config_name, parsed_overrides, files)
        return parsed_overrides, files

    def _parse_overrides(self, overrides: Sequence[str]) -> list[Override]:
        return OverridesParser.create().parse_overrides(list(overrides))


class Composer(CachingLoader):
    """Hydra's configuration loader for the jobs of a sweep.

    It composes the same configurations as Hydra's own loader, but loads each choice of groups only
    once.
    """

    def __init__(self, loader: ConfigLoader):
        assert isinstance(loader, ConfigLoaderImpl)
        super().__init__(loader.config_search_path)
        if isinstance(loader, CachingLoader):
            self._pickled_files = loader._pickled_files
        self._pickled_configs: dict[CacheKey, bytes] = {}
        self._reusable_configs: dict[CacheKey, DictConfig] = {}
        self._run_specs: dict[CacheKey, RunSpec] = {}
        self._is_group = functools.cache(self.repository.group_exists)
        self._parse_override = functools.cache(OverridesParser.create().parse_override)

    @classmethod
    def from_loader(cls, loader: ConfigLoader) -> "Composer":
        """``loader`` itself where it is a Composer, with all that it has cached; else a new one."""
        return loader if isinstance(loader, cls) else cls(loader)

    def _parse_overrides(self, overrides: Sequence[str]) -> list[Override]:
        return [self._parse_override(override) for override in overrides]

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """The configuration of one job."""
        overrides = self._parse_overrides(sweep_overrides)
        composed = self._load_groups(master_config, overrides)
        self._set_values(composed, overrides)
        if "model" in composed and _is_read_otherwise(composed):
            record_as_read(composed, to_checked_config(composed))
        resolve_settings(composed)
        return composed

    def make_run_spec(self, master: DictConfig, overrides: Sequence[str]) -> RunSpec:
        """The run of a job, composed and checked once, without the files that Hydra writes.

        Raises:
            ValueError: A setting is unknown or out of its range; the message names it.
        """
        key = tuple(overrides)
        if key not in self._run_specs:
            parsed = self._parse_overrides(overrides)
            composed = self._load_reusable(master, parsed)
            self._set_values(composed, parsed)
            config = to_checked_config(composed)
            directory = _sweep_directory(composed)
            given = composed.hydra.overrides.task
            self._run_specs[key] = RunSpec.of_command(config, directory, given)
        return self._run_specs[key]

    def make_run_spec_with_files(
        self,
        master: DictConfig,
        overrides: Sequence[str],
        number: int,
    ) -> RunSpec:
        """The run of a job, with the files that Hydra's own launcher would write for it.

        Args:
            master: The configuration that all jobs of the sweep have in common.
            overrides: The job's overrides.
            number: The job's number, which Hydra records.
        """
        run_spec = self.make_run_spec(master, overrides)
        composed = self.load_sweep_config(master, overrides)
        with read_write(composed.hydra), open_dict(composed.hydra):
            composed.hydra.job.id = number
            composed.hydra.job.num = number
            composed.hydra.runtime.output_dir = os.path.abspath(run_spec.directory)
        return dataclasses.replace(run_spec, files=_hydra_files(composed))

    def _load_groups(self, master: DictConfig, overrides: Sequence[Override]) -> DictConfig:
        """A new configuration with the groups that a job selects, before its values are set."""
        groups = []
        for override in overrides:
            if self._selects_group(override):
                groups.append(override.input_line or "")
        key = tuple(groups)
        if key not in self._pickled_configs:
            config = super().load_sweep_config(master, groups)
            self._pickled_configs[key] = pickle.dumps(config)
        return pickle.loads(self._pickled_configs[key])  # takes half the time of a deepcopy

    def _load_reusable(self, master: DictConfig, overrides: Sequence[Override]) -> DictConfig:
        """As ``_load_groups``, but jobs that set the same settings share one configuration.

        Each of these jobs overwrites the values of the job before it. That does not work for
        settings that a job adds, deletes or merges, so such a job gets a new configuration.
        """
        words = []
        for override in overrides:
            if override.type != OverrideType.CHANGE or isinstance(override.value(), dict):
                return self._load_groups(master, overrides)
            is_group = self._selects_group(override)
            word = override.input_line if is_group else override.key_or_group
            words.append(word or "")
        key = tuple(words)
        if key not in self._reusable_configs:
            self._reusable_configs[key] = self._load_groups(master, overrides)
        return self._reusable_configs[key]

    def _set_values(self, composed: DictConfig, overrides: Sequence[Override]) -> None:
        """Sets the values of a job in ``composed``."""
        values = [override for override in overrides if not self._selects_group(override)]
        try:
            self._apply_overrides_to_config(values, composed)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        dirname_settings = composed.hydra.job.config.override_dirname
        task_overrides = [override for override in overrides if not override.is_hydra_override()]
        composed.hydra.overrides.task = [override.input_line for override in task_overrides]
        composed.hydra.job.override_dirname = get_overrides_dirname(
            task_overrides,
            kv_sep=dirname_settings.kv_sep,
            item_sep=dirname_settings.item_sep,
            exclude_keys=dirname_settings.exclude_keys,
        )

    def _selects_group(self, override: Override) -> bool:
        """Whether the override selects an option of a group; others set values."""
        if not self._is_group(override.key_or_group):
            return False
        return not isinstance(override.value(), dict)  # model={depth:3} merges values


def _lacks_choices(composed: DictConfig) -> bool:
    """Whether an option is missing, which Hydra allows for the common part of a sweep only."""
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    return "???" in choices.values()


def compose_jobs(
    common_overrides: Sequence[str], jobs: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Composes the jobs of a sweep without checking them.

    Args:
        common_overrides: The overrides that all jobs have in common.
        jobs: The further overrides of each job.

    Yields:
        The settings of each job, by dotted path.
    """
    register_with_hydra()
    search_path = create_config_search_path(str(resource_dir("conf").absolute()))
    composer = Composer(ConfigLoaderImpl(search_path))
    master = composer.load_configuration(
        "config", list(common_overrides), run_mode=RunMode.MULTIRUN
    )
    for job in jobs:
        composed = composer.load_sweep_config(master, [*common_overrides, *job])
        settings = {}
        for name, node in composed.items():
            if name != "hydra":
                settings[str(name)] = _to_plain(node)
        yield flatten_dict(settings)


def _to_plain(node: Any) -> Any:
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, enum_to_str=True)
    return node


def _is_read_otherwise(composed: DictConfig) -> bool:
    """Whether Fathom reads a setting otherwise than Hydra, as ``record_as_read`` writes it."""
    if OmegaConf.select(composed, "model.depth") is None:
        return True
    tags = OmegaConf.select(composed, "tags")
    is_list = OmegaConf.is_list(tags)
    return not is_list or any(not isinstance(tag, str) for tag in tags)


def _hydra_files(composed: DictConfig) -> Mapping[str, str]:
    """The files that Hydra's own launcher writes: their text, by path in the run's directory."""
    folder = composed.hydra.output_subdir
    if not folder:
        return {}
    settings: Any = OmegaConf.to_container(composed, enum_to_str=True)
    hydra = settings.pop("hydra")
    parts = {
        "config": settings,
        "hydra": {"hydra": hydra},
        "overrides": hydra["overrides"]["task"],
    }
    files = {}
    for name, part in parts.items():
        files[f"{folder}/{name}.yaml"] = format_yaml(part)
    return files


_Dumper: type = getattr(yaml, "CDumper", yaml.Dumper)


class _FastDumper(_Dumper):
    """Writes text as OmegaConf does: in quotes where it would be read as a number."""


_FastDumper.add_representer(str, OmegaConfDumper.str_representer)


def format_yaml(content: Any) -> str:
    """Plain settings as ``OmegaConf.to_yaml`` writes them, in a fraction of the time."""
    text = yaml.dump(
        content,
        Dumper=_FastDumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    if "\\U" in text:  # a character that the writer in C escapes
        return OmegaConf.to_yaml(OmegaConf.create(content))
    return text


def _sweep_directory(composed: DictConfig) -> Path:
    root = OmegaConf.select(composed, "hydra.sweep.dir")
    subdirectory = OmegaConf.select(composed, "hydra.sweep.subdir")
    return Path(str(root)) / str(subdirectory)
