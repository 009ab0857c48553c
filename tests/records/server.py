"""A W&B server on the loopback address, as far as tests of uploads need one."""

import gzip
import http.server
import json
import re


class Server(http.server.ThreadingHTTPServer):
    """A W&B server on the loopback address, as far as an upload needs one; it keeps what it receives."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs = {}
        self.rows = {}
        self.files = []
        # the configuration of a search, and the trials that wait for an agent
        self.search = ""
        self.trials = []


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        asked = self._body()
        data = {}
        if self.path == "/graphql":
            data = self._graphql(
                re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[0],
                asked.get("variables", {}),
            )
        elif self.path.endswith("/file_stream"):
            for line in asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
                self.server.rows.setdefault(self.path.split("/")[4], []).append(json.loads(line))
        self._answer({"data": data})

    def do_PUT(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.files.append(self.path)
        self._answer({})

    def _graphql(self, name, variables):
        bucket = {
            "name": variables.get("name"),
            "project": {"name": "fathom", "entity": {"name": "me"}},
        }
        if name == "UpsertBucket":
            self.server.runs.setdefault(variables["name"], variables)
            return {
                "upsertBucket": {
                    "bucket": {"id": "r", "displayName": "", "sweepName": None} | bucket
                }
            }
        files = [
            {"name": file, "uploadUrl": f"{self.server.address}/{file}"}
            for file in variables.get("files", [])
        ]
        artifact = {
            "id": "a",
            "state": "COMMITTED",
            "artifactSequence": {"id": "s", "latestArtifact": None},
        }
        return {
            "Viewer": {
                "viewer": {
                    "id": "u",
                    "entity": "me",
                    "username": "me",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            },
            "RunResumeStatus": {
                "model": bucket["project"] | {"bucket": self._known(variables.get("name"))}
            },
            "CreateRunFiles": {
                "createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}
            },
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {"createArtifact": {"artifact": artifact}},
        }.get(name) or self._search(name, variables)

    def _search(self, name, variables):
        """An agent asks for its search's command, and with each sign of life for what it is to run."""
        if name == "UpsertSweep":
            self.server.search = variables["config"]
            return {
                "upsertSweep": {
                    "sweep": {"name": "search", "project": None},
                    "configValidationWarnings": [],
                }
            }
        if name == "Heartbeat":
            commands = self.server.trials
            self.server.trials = []
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        return {
            "SweepWithRuns": {
                "project": {"sweep": {"config": self.server.search, "runs": {"edges": []}}}
            },
            "CreateAgent": {"createAgent": {"agent": {"id": "agent"}}},
            "GetDefaultEntity": {"viewer": {"id": "u", "entity": "me"}},
        }.get(name, {})

    def _known(self, name):
        """What is there of a run, for the next part of it; ``t`` is how W&B tells one that was begun."""
        rows = self.server.rows.get(name)
        if not rows:
            return None
        lines = {
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "eventsTail": "[]",
        }
        described = {
            "name": name,
            "id": "r",
            "displayName": name,
            "config": "{}",
            "summaryMetrics": "{}",
            "tags": [],
        }
        return (
            described
            | lines
            | {"historyTail": json.dumps([json.dumps(rows[-1])]), "wandbConfig": '{"t": 1}'}
        )

    def _body(self):
        sent = self.rfile.read(int(self.headers["content-length"] or 0))
        sent = gzip.decompress(sent) if self.headers.get("content-encoding") == "gzip" else sent
        return (
            json.loads(sent)
            if self.path == "/graphql" or self.path.endswith("/file_stream")
            else {}
        )

    def _answer(self, value):
        sent = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass
