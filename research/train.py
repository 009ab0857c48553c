"""The Hydra entry, ``python -m research.train``: from the command line to runs. Hydra ends here."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from research import config as schema
from research import errors
from research.naming import run_name
from research.progress import Progress

STARTED = time.strftime("%Y-%m-%d_%H-%M-%S")


def folder(name: str) -> Path:
    """``conf`` or ``experiments``: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def typed(composed: DictConfig) -> schema.Config:
    """The checked configuration of one run.

    Raises:
        ValueError: naming the setting that is unknown or out of its range.
    """
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    tree.pop("hydra", None)
    for path in _paths(tree):
        if path not in set(schema.knobs()):
            raise ValueError(errors.unknown(path))
    bare = OmegaConf.create({name: node for name, node in composed.items() if name != "hydra"})
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema.Config), bare))
    assert isinstance(config, schema.Config)
    schema.check(config)
    return config


def _paths(tree: dict[Any, Any], prefix: str = "") -> list[str]:
    nested = [_paths(v, f"{prefix}{k}.") if isinstance(v, dict) else [f"{prefix}{k}"] for k, v in tree.items()]
    return [path for paths in nested for path in paths]


class CheckFirst(Callback):
    """Refuses a wrong configuration before Hydra makes its directory."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks a single run; sweeps are checked by the sweeper."""
        try:
            typed(config)
        except Exception as error:
            message = errors.explain(error)
            if message is None:
                raise
            refuse(message)


def refuse(message: str) -> None:
    """Says the one line and ends with exit code 2."""
    print(f"fathom: {message}", file=sys.stderr)
    raise errors.Refused(2)


class Session:
    """What the jobs of one process share: the display, and what came of each."""

    progress = Progress()


def job(composed: DictConfig) -> dict[str, Any]:
    """Trains one composed run in the directory that Hydra made for it; returns its ``run.json``."""
    config = typed(composed)
    directory = Path(HydraConfig.get().runtime.output_dir)
    Session.progress.begin(directory.name)
    _prepare_jax()
    from research.run import train

    return train(config, directory, Session.progress) | {"directory": str(directory)}


def _prepare_jax() -> None:
    """Lets compiled programs outlive the process, unless the user keeps a cache elsewhere."""
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "fathom" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def register() -> None:
    """Makes schema and resolvers known to Hydra."""
    ConfigStore.instance().store(name="schema", node=schema.Config)
    names = {
        "fathom.study": lambda name: name or STARTED,
        "fathom.run": lambda overrides: run_name(list(overrides)) if isinstance(overrides, ListConfig) else overrides,
    }
    for name, resolver in names.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; returns the exit code."""
    from research.report import say_run

    shows_traces = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if arguments is not None:
        sys.argv = ["fathom train", *arguments]
    register()
    signal.signal(signal.SIGTERM, _interrupt)
    results: list[dict[str, Any]] = []

    def task(composed: DictConfig) -> dict[str, Any]:
        results.append(job(composed))
        return results[-1]

    entry = hydra.main(version_base="1.3", config_path=str(folder("conf").absolute()), config_name="config")
    try:
        with Session.progress:
            entry(task)()
    except errors.SweepEnded as ended:
        return ended.exit_code
    except KeyboardInterrupt:
        print("fathom: interrupted; what was measured is written", file=sys.stderr)
        return 1
    except Exception as error:
        message = errors.explain(error)
        if message is None or shows_traces:
            raise
        refuse(message)
    if not results:
        return 0
    say_run(results[-1])
    return 0 if results[-1]["status"] == "done" else 1


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    from research.train import main as entry_of_the_module  # one module, one session: not a second copy as __main__

    sys.exit(entry_of_the_module())
