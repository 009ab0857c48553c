"""A W&B server on the loopback address that answers what uploads, resumed runs and searches ask."""

import gzip
import http.server
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass

PROJECT = {"name": "fathom", "entity": {"name": "me"}}
VIEWER = {
    "id": "u",
    "entity": "me",
    "username": "me",
    "flags": "{}",
    "teams": {"edges": []},
}
ARTIFACT = {
    "id": "a",
    "state": "COMMITTED",
    "artifactSequence": {"id": "s", "latestArtifact": None},
}


STATUS_OF_FAULT = {"401": 401, "429": 429, "500": 500, "502": 502, "html": 200}
FAULTS = ["refuse", "reset", "hang", "slow", *STATUS_OF_FAULT]


@dataclass(frozen=True)
class Fault:
    """What the server does wrong.

    Attributes:
        kind: one of ``FAULTS``.
        moment: from when on: ``start``; ``middle``, once a run has ten rows; ``end``, once the
            pictures of a run arrive.
    """

    kind: str
    moment: str = "start"


class Server(http.server.ThreadingHTTPServer):
    """Keeps what it receives.

    Attributes:
        address: its URL.
        runs: for each run id, the variables with which it was created.
        rows: for each run id, its history rows. Those of a run of another project than the usual
            one are under ``PROJECT/ID``, and so is everything else about it.
        arrivals: for each run id, when rows came, and how many there were then.
        stopped: the runs that the user or an early termination has stopped.
        ended: the runs that have ended.
        files: paths of uploaded files.
        remarks: for each run id, the tags and notes that were given to it later.
        alerts: the titles of alerts.
        views: saved views and reports by name, each with the variables of all its savings.
        gaps: the chunks of rows that would leave a gap; it does not keep them.
        search: the configuration of the search, once there is one.
        trials: the trials that the next agent gets.
        fault: what it does wrong; None for a healthy server.
        num_faults: how many requests have met the fault.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs = {}
        self.rows = {}
        self.arrivals = {}
        self.stopped = set()
        self.ended = set()
        self.files = []
        self.remarks = {}
        self.views = {}
        self.alerts = []
        self.gaps = []
        self.has_pictures = False
        self.search = ""
        self.trials = []
        self.fault = None
        self.num_faults = 0
        self.lock = threading.Lock()

    def active_fault(self, path, content):
        """The kind of the fault that a request meets; empty for a healthy answer."""
        fault = self.fault
        if fault is None:
            return ""
        if fault.moment == "middle":
            is_active = any(len(rows) >= 10 for rows in self.rows.values())
        elif fault.moment == "end":
            self.has_pictures |= b"heat_map" in content or "heat_map" in path
            is_active = self.has_pictures
        else:
            is_active = True
        self.num_faults += is_active
        return fault.kind if is_active else ""

    def break_down(self, kind, moment="start"):
        """Begins a fault; without one, the server is healthy again."""
        self.has_pictures = False
        self.num_faults = 0
        self.fault = Fault(kind, moment) if kind else None

    def handle_error(self, request, client_address):
        """Prints nothing about connections that end early."""


def key_of(project, run_id):
    """What the server keeps a run under."""
    return run_id if project in (None, PROJECT["name"]) else f"{project}/{run_id}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self._send({})

    def do_POST(self):
        content = self._read_content()
        if self._fails(content):
            return
        data = {}
        if self.path == "/graphql":
            request = json.loads(content)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            assert operation
            with self.server.lock:
                data = self._answer_graphql(operation.group(1), request.get("variables", {}))
        elif self.path.endswith("/file_stream"):
            with self.server.lock:
                self._keep_rows(json.loads(content))
            self._send({"stopped": self.path.split("/")[4] in self.server.stopped})
            return
        self._send({"data": data})

    def do_PUT(self):
        if self._fails(self._read_content()):
            return
        self.server.files.append(self.path)
        self._send({})

    def _fails(self, content):
        """Whether the request meets a fault instead of an answer."""
        kind = self.server.active_fault(self.path, content)
        if kind == "slow":
            time.sleep(0.3)
            return False
        if kind in ("refuse", "reset"):
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        elif kind == "hang":
            while self.server.fault is not None:
                time.sleep(0.05)
            self.close_connection = True
            self.connection.close()
        elif kind:
            self._send_text("<html>a proxy</html>", STATUS_OF_FAULT[kind])
        return bool(kind)

    def _keep_rows(self, stream):
        """Writes rows at their offset, as W&B does: what is sent twice is there once."""
        _, _, _, project, run_id, *_ = self.path.split("/")
        run_id = key_of(project, run_id)
        history = stream.get("files", {}).get("wandb-history.jsonl", {})
        rows = self.server.rows.setdefault(run_id, [])
        content = [json.loads(line) for line in history.get("content", [])]
        if content:
            offset = history["offset"]
            if offset > len(rows):
                self.server.gaps.append((run_id, len(rows), offset))
                return
            rows[offset : offset + len(content)] = content
            self.server.arrivals.setdefault(run_id, []).append((time.time(), len(rows)))
        if stream.get("complete"):
            self.server.ended.add(run_id)

    def _answer_graphql(self, operation, variables):
        if operation == "Viewer":
            return {"viewer": VIEWER}
        if operation == "UpsertBucket":
            return self._create_run(variables)
        if operation == "ChangeRemarks":
            run_id = variables.pop("id").removeprefix("id of ")
            self.server.remarks[run_id] = variables
            return {"upsertBucket": {"bucket": {"id": f"id of {run_id}", "name": run_id}}}
        if operation == "RunResumeStatus":
            run_id = key_of(variables["project"], variables["name"])
            return {"model": PROJECT | {"bucket": self._describe_run(run_id)}}
        if operation == "RunStoppedStatus":
            is_stopped = variables["runId"] in self.server.stopped
            return {"project": {"run": {"stopped": is_stopped}}}
        if operation == "CreateRunFiles":
            return self._create_files(variables["files"])
        if operation == "NotifyScriptableRunAlert":
            self.server.alerts.append(variables["title"])
            return {"notifyScriptableRunAlert": {"success": True}}
        if operation == "UpsertView":
            savings = self.server.views.setdefault(variables["name"], [])
            savings.append(variables)
            view = {"id": f"view {variables['name']}", "name": variables["name"]}
            return {"upsertView": {"view": view, "inserted": len(savings) == 1}}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            return {"createArtifact": {"artifact": ARTIFACT}}
        return self._answer_about_search(operation, variables)

    def _create_run(self, variables):
        project = variables["project"]
        run_id = key_of(project, variables["name"])
        self.server.runs.setdefault(run_id, variables)
        bucket = {
            "id": f"id of {run_id}",
            "name": variables["name"],
            "displayName": "",
            "sweepName": None,
            "project": PROJECT | {"name": project or PROJECT["name"]},
            "historyLineCount": len(self.server.rows.get(run_id, [])),
        }
        self.server.ended.discard(run_id)
        return {"upsertBucket": {"bucket": bucket}}

    def _create_files(self, names):
        files = []
        for name in names:
            files.append({"name": name, "uploadUrl": f"{self.server.address}/{name}"})
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def _answer_about_search(self, operation, variables):
        """An agent asks for the configuration of its search, and in each heartbeat for trials."""
        if operation == "UpsertSweep":
            self.server.search = variables["config"]
            sweep = {"name": "search", "project": None}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            sweep = {"config": self.server.search, "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            commands = json.dumps(self.server.trials)
            self.server.trials = []
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": commands}}
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "u", "entity": "me"}}
        return {}

    def _describe_run(self, run_id):
        """What a resumed run needs to know about itself; None if the server has no rows of it."""
        rows = self.server.rows.get(run_id)
        if not rows:
            return None
        last_row = json.dumps(rows[-1])
        return {
            "name": run_id.rpartition("/")[2],
            "id": f"id of {run_id}",
            "displayName": run_id,
            "state": "finished" if run_id in self.server.ended else "crashed",
            "config": "{}",
            "wandbConfig": '{"t": 1}',  # W&B takes a run without "t" for one that never started
            "summaryMetrics": "{}",
            "tags": [],
            "historyLineCount": len(rows),
            "historyTail": json.dumps([last_row]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
        }

    def _read_content(self):
        content = self.rfile.read(int(self.headers["content-length"] or 0))
        if self.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        return content

    def _send(self, value):
        self._send_text(json.dumps(value), 200)

    def _send_text(self, text, status):
        content = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Prints nothing."""
