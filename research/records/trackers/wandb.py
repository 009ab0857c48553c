"""Weights & Biases: one W&B run a training run, offline unless ``WANDB_MODE`` says otherwise."""

import functools
import http.client
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from research.records.trackers import Columns

PROBE_SECONDS = 5
MOST_LAYERS = 256  # more layers than this are logged as evenly spaced ones: dashboards slow down past 10,000 keys
MOST_ROWS = 1000  # of a table: longer ones are cut by the dashboard
QUIET = {
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "init_timeout": 30,
    "finish_timeout": 60,
    "x_transaction_log_flush_interval": 2,
}
METRICS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "learning_rate": "train/learning_rate",
    "loss_scale": "train/loss_scale",
    "skipped": "train/skipped",
    "epoch": "train/epoch",
    "eval_loss": "eval/loss",
    "eval_accuracy": "eval/accuracy",
    "grad_norm": "grad_norm/total",
}


class WandbTracker:
    """Mirrors a run: ``train/*``, ``eval/*``, ``grad_norm/*`` on ``train/step``, and at the end map and table."""

    def __init__(self, *, settings: dict[str, Any], run_id: str, name: str, group: str, config: dict[str, Any]):
        """``settings``: the ``tracker`` group. ``config``: the resolved configuration as a tree."""
        self._settings, self._config = settings, config
        run_id = os.environ.get("WANDB_RUN_ID", run_id) if _is_trial() else run_id  # the agent waits for its own
        self._identity = {"id": run_id, "name": name, "group": group, "tags": tags(config), "job_type": "train"}
        self._rows: list[Columns] = []
        self._last = np.zeros(0)
        self._run: Any = None

    def start(self) -> dict[str, Any]:
        """Opens the W&B run; returns its folder for ``run.json``."""
        self._run = open_run(self._settings, self._config, self._identity)
        self._run.define_metric("train/step", hidden=True, summary="none")
        for key in METRICS.values():
            self._run.define_metric(key, step_metric="train/step")
        self._run.define_metric("grad_norm/layer_*", step_metric="train/step", summary="none")
        return {} if self._run.disabled else {"wandb": str(Path(self._run.dir).parent)}

    def log(self, metrics: Columns, profiles: Columns) -> None:
        """One W&B row a recorded step; every ``tracker.every`` steps it carries one value a layer as well."""
        by_step = {int(step): row for row, step in enumerate(profiles.get("step", []))}
        if profiles:
            self._rows.append({name: profiles[name] for name in ("step", "signal_grad")})
            self._last = profiles["grad_norm"][-1] if len(profiles["step"]) else self._last
        columns = {METRICS[name]: values.tolist() for name, values in metrics.items() if name in METRICS}
        for row, step in enumerate(metrics["step"].tolist()):
            values = {key: column[row] for key, column in columns.items() if column[row] is not None}
            values["train/step"] = step
            if step in by_step and step % self._settings["every"] == 0:
                values |= layer_values(profiles["grad_norm"][by_step[step]])
            self._run.log(values)

    def finish(self, info: dict[str, Any]) -> None:
        """Writes summary, heat map and table, and closes the run."""
        summary = {f"final/{key}": value for key, value in info.get("final", {}).items()}
        verdict = info.get("verdict") or {}
        self._run.summary.update(summary | {f"verdict/{key}": value for key, value in verdict.items()})
        self._run.summary["status"] = info["status"]
        try:
            if self._rows:
                self._run.log(self._pictures(), commit=True)
        finally:
            self._run.finish(exit_code=0 if info["status"] == "done" else 1)

    def _pictures(self) -> dict[str, Any]:
        import wandb

        from research.records.figures import heat_map  # not before the end: matplotlib takes long to import

        profiles = {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}
        step, signal = profiles["step"], profiles["signal_grad"]
        picture = wandb.Image(heat_map(step, signal, label="log₁₀ ‖∂L/∂h‖"))
        columns: list[Any] = ["layer", "signal_grad_first_step", "signal_grad_last_step", "grad_norm"]
        table = wandb.Table(columns=columns, data=_by_layer(signal, self._last))
        return {"profile/heat_map": picture, "profile/table": table}


def open_run(settings: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]) -> Any:
    """Opens a W&B run in the folder of the settings or of ``WANDB_DIR``; what ``identity`` names is what W&B names."""
    import wandb

    folder = Path(os.environ.get("WANDB_DIR") or settings["dir"]).absolute()  # the service has its own place
    folder.mkdir(parents=True, exist_ok=True)
    _drop_earlier_tries(folder, identity["id"])
    return wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        dir=str(folder),
        mode=_mode(),
        resume="allow",
        reinit="create_new",
        config=config,
        settings=wandb.Settings(**QUIET),
        **identity,
    )


def _drop_earlier_tries(folder: Path, identity: str) -> None:
    """Removes what an earlier try of the same run recorded offline and nobody uploaded, as its record was dropped.

    Both would be uploaded into one run and give its rows twice.
    """
    for earlier in (folder / "wandb").glob(f"offline-run-*-{identity}"):
        if not list(earlier.glob("*.synced")):
            shutil.rmtree(earlier, ignore_errors=True)


def _by_layer(signal: np.ndarray, grad_norm: np.ndarray) -> list[tuple]:
    """The first and the last signal at each block's input and the block's last gradient; at the end the output."""
    rows = list(zip(signal[0].tolist(), signal[-1].tolist(), [*grad_norm.tolist(), None], strict=True))
    return [(int(layer), *rows[layer]) for layer in _spaced(len(rows), MOST_ROWS)]


def _spaced(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` layers, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def layer_values(profile: np.ndarray) -> dict[str, float]:
    """``grad_norm/layer_000`` …, of fixed width; evenly spaced layers where there are too many."""
    width = max(3, len(str(len(profile) - 1)))
    layers = _spaced(len(profile), MOST_LAYERS)
    return {f"grad_norm/layer_{layer:0{width}d}": float(profile[layer]) for layer in layers}


def tags(config: dict[str, Any]) -> list[str]:
    """What a user filters by: ``depth:64``, ``skip:none`` and the like."""
    groups = ("skip", "norm", "activation", "init", "optimizer", "precision", "loss")
    kinds = [f"{group}:{config[group]['kind']}" for group in groups]
    return [
        f"model:{config['model']['kind']}",
        f"depth:{config['model']['depth']}",
        f"data:{config['data']['name']}",
        *kinds,
    ]


def _is_trial() -> bool:
    """Whether ``wandb agent`` has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def _mode() -> Any:
    """``WANDB_MODE`` where the user set it, else offline, but for trials of a W&B server's search.

    Online falls back to offline where no server answers.
    """
    mode = os.environ.get("WANDB_MODE", "online" if _is_trial() else "offline")
    if mode != "online":
        return mode
    address = server_address()
    if server_answers(address):
        return mode
    print(f"fathom: {address} does not answer: recording offline, upload with `fathom sync`", file=sys.stderr)
    return "offline"


def server_address() -> str:
    """The W&B server of the environment, or else of the user's settings."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)


@functools.cache
def server_answers(address: str) -> bool:
    """Whether a W&B server takes a connection there and answers a request within ``PROBE_SECONDS``."""
    url = urlparse(address)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
