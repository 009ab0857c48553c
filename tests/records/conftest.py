"""A W&B server on the loopback address, and a recorded run that can be brought to it."""

import json
import shutil
import threading

import pytest
import wandb

from .server import Server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.break_down(None)
        server.shutdown()


@pytest.fixture
def other_server():
    """A second W&B server; ``WANDB_BASE_URL`` is not its address."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fresh_service():
    """Starts W&B's service again for tests in which it talks to servers."""
    wandb.teardown()
    yield
    wandb.teardown()


class Recorded:
    """A copy of the finished run in the working directory.

    Attributes:
        directory: the run directory.
        id: its id in W&B.
    """

    def __init__(self, directory):
        self.directory = directory
        self.id = self.info["id"]

    @property
    def info(self):
        return json.loads((self.directory / "run.json").read_text())

    @property
    def state(self):
        return self.info["mirrored"]["wandb"]["state"]

    def change(self, **changes):
        """Changes entries of ``run.json``; ``state`` is that of W&B."""
        info = self.info
        if "state" in changes:
            info["mirrored"]["wandb"]["state"] = changes.pop("state")
        (self.directory / "run.json").write_text(json.dumps(info | changes))


@pytest.fixture
def recorded(finished, workplace):
    """The finished run, without W&B's files."""
    source, _ = finished
    target = workplace / "outputs" / "first" / source.name
    shutil.copytree(source, target)
    return Recorded(target)


@pytest.fixture
def offline_run(finished, workplace):
    """The folder of an offline run under outputs/ that was not uploaded."""
    directory, _ = finished
    (source,) = (directory.parents[1] / "wandb").glob("offline-run-*")
    target = workplace / "outputs" / "wandb" / source.name
    shutil.copytree(source, target)
    return target


@pytest.fixture
def has_all_rows():
    """Whether the server has each row of the finished run once, and its pictures once."""

    def has_all_rows(server, run_id, num_steps=25):
        rows = server.rows[run_id]
        steps = [row.get("train/step") for row in rows]
        pictures = {file for file in server.files if "heat_map" in file}
        tables = {file for file in server.files if "media/table" in file}
        assert server.gaps == []
        assert len(pictures) == len(tables) == 1
        assert "profile/heat_map" in rows[-1]
        assert "profile/table" in rows[-1]
        assert run_id in server.ended
        return steps == [*range(num_steps), None]

    return has_all_rows
