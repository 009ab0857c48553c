"""A W&B server on the loopback address that answers what uploads, resumed runs and searches ask."""

import gzip
import http.server
import json
import re

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


class Server(http.server.ThreadingHTTPServer):
    """Keeps what it receives.

    Attributes:
        address: its URL.
        runs: for each run id, the variables with which it was created.
        rows: for each run id, its history rows.
        files: paths of uploaded files.
        search: the configuration of the search, once there is one.
        trials: the trials that the next agent gets.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs = {}
        self.rows = {}
        self.files = []
        self.search = ""
        self.trials = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        content = self._read_content()
        data = {}
        if self.path == "/graphql":
            request = json.loads(content)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            assert operation
            data = self._answer_graphql(operation.group(1), request.get("variables", {}))
        elif self.path.endswith("/file_stream"):
            self._keep_rows(json.loads(content))
        self._send({"data": data})

    def do_PUT(self):
        self._read_content()
        self.server.files.append(self.path)
        self._send({})

    def _keep_rows(self, stream):
        run_id = self.path.split("/")[4]
        history = stream.get("files", {}).get("wandb-history.jsonl", {})
        rows = self.server.rows.setdefault(run_id, [])
        for line in history.get("content", []):
            rows.append(json.loads(line))

    def _answer_graphql(self, operation, variables):
        if operation == "Viewer":
            return {"viewer": VIEWER}
        if operation == "UpsertBucket":
            return self._create_run(variables)
        if operation == "RunResumeStatus":
            return {"model": PROJECT | {"bucket": self._describe_run(variables["name"])}}
        if operation == "CreateRunFiles":
            return self._create_files(variables["files"])
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            return {"createArtifact": {"artifact": ARTIFACT}}
        return self._answer_about_search(operation, variables)

    def _create_run(self, variables):
        self.server.runs.setdefault(variables["name"], variables)
        bucket = {
            "id": "r",
            "name": variables["name"],
            "displayName": "",
            "sweepName": None,
            "project": PROJECT,
        }
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
            "name": run_id,
            "id": "r",
            "displayName": run_id,
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
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Prints nothing."""
