"""The dashboard: the page of a report, served on loopback, with its runs read again as they change.

The standard library's server is enough, because the page does all drawing. It answers only requests
for this machine's own name, so that no other web site can read the runs through a browser.
"""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from research.records.runs import METRICS, PROFILES, Run
from research.reporting.named_runs import leave_out_damaged_silently
from research.reporting.page_data import (
    Detail,
    make_details,
    make_index,
    read_claims,
    run_key,
)
from research.reporting.report import make_page
from research.reporting.selection import report_damaged

ADDRESS = "127.0.0.1"
FIRST_PORT = 8765
NUM_PORTS = 20
SECONDS_BETWEEN_LOOKS = 2.0  # at the files of runs that are known
SECONDS_BETWEEN_SEARCHES = 10.0  # for new runs
IDLE_SECONDS = 1800.0

FindRuns = Callable[[], Sequence[Run]]


class Catalog:
    """The runs that the dashboard shows, as they are on disk.

    Args:
        find_runs: finds the runs; it is called again and again, because new ones start.
        root: the folder below which they are.
    """

    def __init__(self, find_runs: FindRuns, root: Path):
        self._find_runs = find_runs
        self._root = root
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._versions: dict[str, str] = {}
        self._last_search = -float("inf")
        self._last_look = -float("inf")
        self._index: dict[str, Any] = {}
        self._reported: set[tuple[str, str]] = set()  # tables that were checked for damage

    def index(self) -> dict[str, Any]:
        """The table of runs, read again where files have changed."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_look >= SECONDS_BETWEEN_LOOKS:
                self._last_look = now
                self._refresh(now)
            return self._index

    def refresh_now(self) -> None:
        """Reads what has changed at the next request, however short ago the last look was."""
        with self._lock:
            self._last_look = -float("inf")
            self._last_search = -float("inf")

    def details(self, key: str) -> dict[str, Any] | None:
        """The curves and profiles of a run; None where no run has this key.

        A damaged table is named on standard error when the run is shown first.
        """
        run = self._runs.get(key)
        if run is None:
            return None
        shown = Run(run.directory)
        details = make_details(shown, Detail())
        for table in (METRICS, PROFILES):
            if (key, table) not in self._reported:
                report_damaged([shown], table)
                self._reported.add((key, table))
        return details

    def _refresh(self, now: float) -> None:
        runs = self._runs
        if now - self._last_search >= SECONDS_BETWEEN_SEARCHES:
            self._last_search = now
            runs = {run_key(run, self._root): run for run in self._search()}
        versions = {key: _version(run.directory) for key, run in runs.items()}
        current = {}
        for key, run in runs.items():
            is_same = key in self._runs and self._versions[key] == versions[key]
            current[key] = self._runs[key] if is_same else Run(run.directory)
        readable = leave_out_damaged_silently(current.values())
        kept = {run_key(run, self._root): run for run in readable}
        if versions == self._versions and self._index:
            return
        self._runs = kept
        self._versions = versions
        self._index = self._make_index()

    def _search(self) -> Sequence[Run]:
        try:
            return self._find_runs()
        except ValueError:  # all of them have been removed
            return []

    def _make_index(self) -> dict[str, Any]:
        runs = list(self._runs.values())
        index = make_index(runs, self._root)
        for row in index["runs"]:
            row["version"] = self._versions[row["id"]]
        index["claims"] = read_claims(runs)
        joined = json.dumps(self._versions, sort_keys=True)
        index["indexVersion"] = hashlib.sha256(joined.encode()).hexdigest()[:16]
        return index


def _version(directory: Path) -> str:
    """Changes whenever a run writes ``run.json`` or rows, and when its process ends."""
    from research.records.record import is_being_written

    times = []
    for name in ("run.json", f"{METRICS}.parts", f"{METRICS}.parquet"):
        try:
            times.append(str((directory / name).stat().st_mtime_ns))
        except OSError:
            times.append("-")
    if times[2] == "-":  # the run has not ended
        times.append(str(is_being_written(directory)))
    return ".".join(times)


class DashboardServer(ThreadingHTTPServer):
    """Serves the dashboard on loopback.

    Attributes:
        catalog: the runs.
        title: the title of the page.
        last_request: when the page last asked for something, by ``time.monotonic``.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(
        self,
        port: int,
        catalog: Catalog,
        title: str,
    ):
        super().__init__((ADDRESS, port), _Handler)
        self.catalog = catalog
        self.title = title
        self.last_request = time.monotonic()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where a page was closed before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def serve_until_idle(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Answers requests until none has come for so many seconds."""
        self.timeout = min(0.2, idle_seconds)
        while time.monotonic() - self.last_request < idle_seconds:
            self.handle_request()


class _Handler(BaseHTTPRequestHandler):
    server: DashboardServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers a request for the page or for data."""
        self.server.last_request = time.monotonic()
        if not self._is_for_this_machine():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"only for this machine")
            return
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/":
            self._answer_page()
        elif url.path == "/api/index":
            self._answer_index(query.get("version", [""])[0])
        elif url.path == "/api/run":
            self._answer_run(query.get("id", [""])[0])
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page")

    def _is_for_this_machine(self) -> bool:
        names = [f"{name}:{self.server.port}" for name in (ADDRESS, "localhost")]
        return self.headers.get("Host") in names

    def _answer_page(self) -> None:
        milliseconds = int(SECONDS_BETWEEN_LOOKS * 1000)
        content = {**self.server.catalog.index(), "live": {"milliseconds": milliseconds}}
        page = make_page(self.server.title, content, connect="'self'")
        encoded = page.encode(errors="backslashreplace")
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", encoded)

    def _answer_index(self, version: str) -> None:
        index = self.server.catalog.index()
        if index["indexVersion"] == version:
            self._answer(HTTPStatus.NO_CONTENT, "application/json", b"")
        else:
            self._answer_json(index)

    def _answer_run(self, key: str) -> None:
        details = self.server.catalog.details(key)
        if details is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such run")
        else:
            self._answer_json(details)

    def _answer_json(self, content: Any) -> None:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        self._answer(HTTPStatus.OK, "application/json", text.encode())

    def _answer(
        self,
        status: HTTPStatus,
        kind: str,
        body: bytes,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing for each request."""


def start_server(
    catalog: Catalog,
    title: str,
    port: int | None = None,
) -> DashboardServer:
    """A server that listens on a port.

    Args:
        catalog: the runs.
        title: the title of the page.
        port: the port; None for the first one from ``FIRST_PORT`` on that is free.

    Raises:
        ValueError: the port is taken, or none is free.
    """
    ports = range(FIRST_PORT, FIRST_PORT + NUM_PORTS) if port is None else [port]
    for candidate in ports:
        try:
            return DashboardServer(candidate, catalog, title)
        except OSError:
            continue
    if port is None:
        raise ValueError(
            f"no port from {ports[0]} to {ports[-1]} is free; fathom dash --port PORT chooses one"
        )
    raise ValueError(f"--port {port} is taken by another program, or not allowed; leave it out")
