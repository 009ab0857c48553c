"""The dashboard: live, on loopback alone, and gone when nobody looks."""

import http.client
import json
import threading
from functools import partial

import pytest

from research.records.record import Lock
from research.records.runs import find_runs
from research.reporting import dashboard
from research.reporting.dashboard import Catalog, start_server

from ..browser import find_chromium, open_browser, open_page
from .recorded import STEPS, record_run

CHROMIUM = find_chromium()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of three runs that reads them again for each request; gives it and the runs."""
    monkeypatch.setattr(dashboard, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(dashboard, "SECONDS_BETWEEN_SEARCHES", 0.0)
    for seed in range(3):
        record_run(tmp_path / "study" / f"seed={seed}", {"seed": seed})
    catalog = Catalog(partial(find_runs, tmp_path), tmp_path)
    with start_server(catalog, "outputs", port=0) as server:
        thread = threading.Thread(target=server.serve_until_idle, args=[2.0])
        thread.start()
        yield server, tmp_path
        server.last_request = -float("inf")
        thread.join()


def ask(server, path, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask_json(server, path):
    status, body = ask(server, path)
    assert status == 200
    return json.loads(body)


def test_it_gives_the_table_and_the_curves_of_a_run(served):
    server, _ = served
    index = ask_json(server, "/api/index")
    assert [row["name"] for row in index["runs"]] == ["seed=0", "seed=1", "seed=2"]
    details = ask_json(server, "/api/run?id=study%2Fseed%3D1")
    assert len(details["curves"]["train_loss"]["x"]) == STEPS
    status, body = ask(server, f"/api/index?version={index['indexVersion']}")
    assert (status, body) == (204, b"")


def test_a_damaged_table_is_named_once(served, capfd):
    server, root = served
    (root / "study" / "seed=1" / "metrics.parquet").write_bytes(b"junk")
    ask_json(server, "/api/index")
    for _ in range(2):
        details = ask_json(server, "/api/run?id=study%2Fseed%3D1")
    assert details["curves"] == {}
    said = capfd.readouterr().err
    assert said.count("left out: the metrics of ") == 1
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/api/run?id=../../etc/passwd", None, 404),
        ("/study/seed=0/run.json", None, 404),
        ("/api/run", None, 404),
        ("/", "evil.example:80", 403),
        ("/api/index", "evil.example", 403),
    ],
)
def test_it_gives_nothing_else_and_nothing_to_others(served, path, host, status):
    server, _ = served
    assert ask(server, path, host)[0] == status


def test_it_listens_on_loopback_alone(served):
    server, _ = served
    assert server.server_address[0] == "127.0.0.1"


def test_a_run_that_starts_and_ends_changes_the_index(served):
    server, root = served
    before = ask_json(server, "/api/index")
    directory = record_run(root / "study" / "seed=9", {"seed": 9}, status="running")
    lock = Lock(directory)  # as the process that trains it
    try:
        server.catalog.refresh_now()
        during = ask_json(server, f"/api/index?version={before['indexVersion']}")
        rows = {row["name"]: row["values"] for row in during["runs"]}
        assert rows["seed=9"]["status"] == "running"
        assert rows["seed=9"]["steps"] == STEPS
    finally:
        lock.release()
    server.catalog.refresh_now()
    after = ask_json(server, f"/api/index?version={during['indexVersion']}")
    statuses = {row["values"]["status"] for row in after["runs"]}
    assert statuses == {"done", "interrupted"}


def test_a_page_that_is_closed_before_its_answer_prints_nothing(served, capsys):
    server, _ = served
    for error in (BrokenPipeError, ConnectionResetError):
        try:
            raise error
        except error:
            server.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr().err == ""
    try:
        raise KeyError("a defect")
    except KeyError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert "a defect" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(fathom, served, workplace):
    server, _ = served
    (workplace / "outputs").mkdir(exist_ok=True)
    record_run(workplace / "outputs" / "a" / "b")
    for port, message in (
        (str(server.port), f"--port {server.port} is taken"),
        ("80x", "--port must be a whole number"),
    ):
        said = fathom("dash", "--port", port)
        assert said.code == 2
        assert message in said.err
        assert len(said.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_follows_a_run_that_is_trained(served, tmp_path_factory):
    server, root = served
    assert CHROMIUM is not None
    with open_browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as connection:
        page = open_page(connection)
        page.open(f"http://127.0.0.1:{server.port}/")
        assert len(page.texts("#runs-table tbody tr")) == 3
        record_run(root / "study" / "seed=7", {"seed": 7})
        page.wait_for("document.querySelectorAll('#runs-table tbody tr').length === 4")
        page.type_text("#filter", "seed=7")
        page.click("#select-shown")
        page.wait_for("document.getElementById('curves-plot').data.length === 1")
        assert len(page.evaluate("document.getElementById('curves-plot').data[0].y")) == STEPS
        assert page.errors == []
        address = f"http://127.0.0.1:{server.port}/"
        assert all(request.startswith((address, "data:", "blob:")) for request in page.requests)
