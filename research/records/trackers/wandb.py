"""Weights & Biases: one W&B run a training run, offline unless ``WANDB_MODE`` says otherwise."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from research.records.trackers import Beside, Columns
from research.records.trackers.server import server_address, server_answers

MOST_LAYERS = 256  # more layers than this are logged as evenly spaced ones: dashboards slow down past 10,000 keys
MOST_ROWS = 1000  # of a table: longer ones are cut by the dashboard
MOST_COLUMNS = 500  # of the heat map: about one a pixel; of 3,000 it takes twice as long to draw
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
    "finish_timeout_raises": True,
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
NUMBERS_BESIDE = ("sharpness", "sharpness_bound")
LAYERS_BESIDE = ("signal_zero", "signal_lost", "grad_zero", "grad_lost", "gradient_correlation")


class WandbTracker:
    """Mirrors a run: ``train/*``, ``eval/*``, ``grad_norm/*`` on ``train/step``, and at the end map and table."""

    def __init__(
        self,
        *,
        settings: dict[str, Any],
        run_id: str,
        name: str,
        group: str,
        config: dict[str, Any],
    ):
        """``settings``: the ``tracker`` group. ``config``: the resolved configuration as a tree."""
        self._settings = settings
        self._config = config
        run_id = (
            os.environ.get("WANDB_RUN_ID", run_id) if _is_trial() else run_id
        )  # the agent waits for its own
        self._identity = {
            "id": run_id,
            "name": name,
            "group": group,
            "tags": tags(config),
            "job_type": "train",
        }
        self._there = 0  # rows that an earlier try has left on the server
        self._rows: list[Columns] = []
        self._last = np.zeros(0)
        self._run: Any = None

    def start(self) -> dict[str, Any]:
        """Opens the W&B run; returns its folder for ``run.json``."""
        self._run, uploaded = open_run(self._settings, self._config, self._identity)
        self._there = max(uploaded, self._run.starting_step)
        self._run.define_metric("train/step", hidden=True, summary="none")
        for key in METRICS.values():
            self._run.define_metric(key, step_metric="train/step")
        for name in ("grad_norm", *LAYERS_BESIDE):
            self._run.define_metric(f"{name}/layer_*", step_metric="train/step", summary="none")
        self._run.define_metric("inspect/*", step_metric="train/step")
        return folder_of(self._run)

    def log(self, metrics: Columns, profiles: Columns, beside: Beside) -> None:
        """One W&B row a recorded step; every ``tracker.every`` steps it carries one value a layer as well.

        Of what was measured ``beside`` a step, ``NUMBERS_BESIDE`` and ``LAYERS_BESIDE`` are carried along. What an
        earlier try of the run has sent is left out: each try has the same numbers.
        """
        by_step = {int(step): row for row, step in enumerate(profiles.get("step", []))}
        if profiles:
            self._rows.append({name: profiles[name] for name in ("step", "signal_grad")})
            self._last = profiles["grad_norm"][-1] if len(profiles["step"]) else self._last
        # charts leave truth values out: plus 0 makes numbers of them
        columns = {
            METRICS[name]: (values + 0).tolist()
            for name, values in metrics.items()
            if name in METRICS
        }
        for row, step in enumerate(metrics["step"].tolist()):
            if step < self._there:
                continue
            values = {
                key: column[row] for key, column in columns.items() if column[row] is not None
            }
            values["train/step"] = step
            if step in by_step and step % self._settings["every"] == 0:
                values |= layer_values("grad_norm", profiles["grad_norm"][by_step[step]])
            self._run.log(values | _beside(beside.get(step, {})))

    def finish(self, info: dict[str, Any]) -> None:
        """Writes the summary, of a run that has come to its end map and table too, and closes the run."""
        summary = {f"final/{key}": value for key, value in info.get("final", {}).items()}
        verdict = info.get("verdict") or {}
        self._run.summary.update(
            summary | {f"verdict/{key}": value for key, value in verdict.items()}
        )
        self._run.summary["status"] = info["status"]
        try:
            if self._rows and info["status"] in (
                "done",
                "diverged",
            ):  # one row more: others may go on here
                self._run.log(self._pictures(), commit=True)
        finally:
            self._run.finish(exit_code=0 if info["status"] == "done" else 1)

    def _pictures(self) -> dict[str, Any]:
        import wandb

        from research.reporting.figures import (
            heat_map,  # not before the end: matplotlib takes long to import
        )

        profiles = {
            name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]
        }
        step = profiles["step"]
        signal = profiles["signal_grad"]
        shown = _spaced(len(step), MOST_COLUMNS)
        picture = wandb.Image(heat_map(step[shown], signal[shown], label="log₁₀ ‖∂L/∂h‖"))
        columns: list[Any] = [
            "layer",
            "signal_grad_first_step",
            "signal_grad_last_step",
            "grad_norm",
        ]
        table = wandb.Table(columns=columns, data=_by_layer(signal, self._last))
        return {"profile/heat_map": picture, "profile/table": table}


def open_run(
    settings: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]
) -> tuple[Any, int]:
    """Opens a W&B run in the folder of the settings or of ``WANDB_DIR``; what ``identity`` names is what W&B names.

    Returns:
        The run, and how many steps earlier tries of it have uploaded.
    """
    import wandb

    folder = Path(
        os.environ.get("WANDB_DIR") or settings["dir"]
    ).absolute()  # the service has its own place
    folder.mkdir(parents=True, exist_ok=True)
    uploaded = _drop_earlier_tries(folder, identity["id"])
    run = wandb.init(
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
    return run, uploaded


def folder_of(run: Any) -> dict[str, Any]:
    """Where a W&B run lies, as records name it; nothing where W&B is switched off."""
    return {} if run.disabled else {"wandb": str(Path(run.dir).parent)}


def _drop_earlier_tries(folder: Path, identity: str) -> int:
    """Removes what earlier tries of the same run recorded offline and nobody uploaded: the present one has it all.

    Both would be uploaded into one run and give its rows twice.

    Returns:
        How many steps were uploaded already.
    """
    steps = 0
    for earlier in (folder / "wandb").glob(f"offline-run-*-{identity}"):
        if list(earlier.glob("*.synced")):
            steps = max(steps, _steps_in(earlier))
        else:
            shutil.rmtree(earlier, ignore_errors=True)
    return steps


def _steps_in(offline: Path) -> int:
    """How many steps the folder of an offline run holds, as W&B's own command reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [
        record["history"]["item"]
        for record in map(json.loads, lines)
        if record["type"] == "history"
    ]
    return max((row["train/step"] + 1 for row in rows if "train/step" in row), default=0)


def _by_layer(signal: np.ndarray, grad_norm: np.ndarray) -> list[tuple]:
    """The first and the last signal at each block's input and the block's last gradient; at the end the output."""
    rows = list(
        zip(signal[0].tolist(), signal[-1].tolist(), [*grad_norm.tolist(), None], strict=True)
    )
    return [(int(layer), *rows[layer]) for layer in _spaced(len(rows), MOST_ROWS)]


def _spaced(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` layers or steps, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _beside(beside: Columns) -> dict[str, float]:
    """``inspect/sharpness``, ``signal_lost/layer_000`` …; histograms, spectra and the like are in the record alone."""
    values = {f"inspect/{name}": float(beside[name]) for name in NUMBERS_BESIDE if name in beside}
    for name in LAYERS_BESIDE:
        values |= layer_values(name, beside[name]) if name in beside else {}
    return values


def layer_values(name: str, profile: np.ndarray) -> dict[str, float]:
    """``NAME/layer_000`` …, of fixed width; evenly spaced layers where there are too many."""
    width = max(3, len(str(len(profile) - 1)))
    layers = _spaced(len(profile), MOST_LAYERS)
    return {f"{name}/layer_{layer:0{width}d}": float(profile[layer]) for layer in layers}


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
    print(
        f"fathom: {address} does not answer: recording offline, upload with `fathom sync`",
        file=sys.stderr,
    )
    return "offline"
