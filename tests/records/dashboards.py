"""Reads back what dashboards hold of a run, each through its own interface or format."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path


@dataclass
class Shown:
    """A run as a dashboard holds it.

    Attributes:
        name: what the dashboard calls it.
        scalars: for each key the number of each step.
        settings: the settings by dotted path, as text.
        columns: the settings in its table of runs; empty where these are all.
        pictures: the keys of the pictures.
        text: whatever text it holds, such as the verdict.
        num_rows: the steps that have a row.
    """

    name: str
    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    pictures: set[str] = field(default_factory=set)
    text: str = ""
    num_rows: int = 0


def read_events(file: Path) -> list:
    """The events of a TensorBoard file: each has its length, a checksum, itself, a checksum."""
    event = import_module("tensorboardX.proto.event_pb2").Event
    content = file.read_bytes()
    events = []
    place = 0
    while place < len(content):
        (length,) = struct.unpack("<Q", content[place : place + 8])
        start = place + 12
        events.append(event.FromString(content[start : start + length]))
        place = start + length + 4
    return events


def read_tensorboard(directory: Path) -> Shown:
    """What TensorBoard reads in a run directory."""
    plugin_data = import_module("tensorboardX.proto.plugin_hparams_pb2").HParamsPluginData
    (file,) = directory.glob("events.out.tfevents.*")
    shown = Shown(directory.name)
    for event in read_events(file):
        for value in event.summary.value:
            plugin = value.metadata.plugin_data
            if value.HasField("image"):
                shown.pictures.add(value.tag)
            elif plugin.plugin_name == "text":
                text = value.tensor.string_val[0].decode()
                shown.text += text
                if value.tag.startswith("configuration"):
                    for line in text.splitlines()[2:]:
                        cells = line.removeprefix("| ").removesuffix(" |")
                        path, _, value = cells.partition(" | ")
                        shown.settings[path] = value
            elif plugin.plugin_name == "hparams":
                start = plugin_data.FromString(plugin.content).session_start_info
                for path, setting in start.hparams.items():
                    number = f"{setting.number_value:g}"
                    shown.columns[path] = setting.string_value or number
            else:
                steps = shown.scalars.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    shown.num_rows = len(shown.scalars["train/loss"])
    return shown


def read_mlflow(directory: Path) -> Shown:
    """What MLflow has of a run."""
    make_client = import_module("mlflow.tracking").MlflowClient
    info = json.loads((directory / "run.json").read_text())
    place = directory.parents[1].absolute() / "mlflow.db"
    client = make_client(tracking_uri=f"sqlite:///{place}")
    experiment = client.get_experiment_by_name(directory.parent.name)
    assert experiment is not None
    (run,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`fathom.id` = '{info['id']}'"
    )
    shown = Shown(str(run.info.run_name))
    for key in run.data.metrics:
        steps = shown.scalars.setdefault(key, {})
        for metric in client.get_metric_history(run.info.run_id, key):
            assert metric.step not in steps
            steps[metric.step] = metric.value
    shown.settings = dict(run.data.params)
    shown.pictures = {
        item.path.removesuffix(".png") for item in client.list_artifacts(run.info.run_id, "profile")
    }
    shown.text = run.data.tags["mlflow.note.content"]
    shown.num_rows = len(shown.scalars["train/loss"])
    return shown


def read_trackio(directory: Path) -> Shown:
    """What trackio has of a run."""
    storage = import_module("trackio.sqlite_storage").SQLiteStorage
    info = json.loads((directory / "run.json").read_text())
    study = directory.parent.name
    shown = Shown(directory.name)
    for row in storage.get_logs(study, directory.name, run_id=info["id"]):
        shown.num_rows += "train/loss" in row
        for key, value in row.items():
            if isinstance(value, dict) and value["_type"] == "trackio.image":
                shown.pictures.add(key)
            elif isinstance(value, dict) and value["_type"] == "trackio.markdown":
                shown.text += value["_value"]
            elif isinstance(value, int | float) and key != "step":
                steps = shown.scalars.setdefault(key, {})
                assert row["step"] not in steps
                steps[row["step"]] = value
    config = storage.get_run_config(study, directory.name, run_id=info["id"])
    assert config is not None
    shown.settings = {path: str(value) for path, value in config.items()}
    return shown


READERS: dict[str, Callable[[Path], Shown]] = {
    "tensorboard": read_tensorboard,
    "trackio": read_trackio,
    "mlflow": read_mlflow,
}
