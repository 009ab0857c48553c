"""The W&B server: whether it works, and how far it has received a run."""

import base64
import functools
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from research.records.runs import JsonObject
from research.records.trackers import MirrorError, describe_error
from research.records.trackers.identity import RUN_CONTEXTS
from research.records.trackers.wandb_caches import use_writable_caches

PROBE_SECONDS = 5.0  # before a run starts to send
ASK_SECONDS = 20.0  # while runs are uploaded
LOOPBACK_NAMES = ("localhost", "::1")
PAUSE_SECONDS = 1.0  # between two attempts

# What W&B itself asks before it resumes a run, and whether the run has ended.
RUN_STATUS = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { id name state historyLineCount historyTail }
  }
}
"""
# What ``wandb launch`` asks; it is true also where a sweep has terminated the run early.
STOP_STATUS = """
query RunStoppedStatus($projectName: String, $entityName: String, $runId: String!) {
  project(name: $projectName, entityName: $entityName) {
    run(name: $runId) { stopped }
  }
}
"""
# What W&B's own Python interface sends to change a run; what is not given stays as it is.
CHANGE_REMARKS = """
mutation ChangeRemarks($id: String!, $tags: [String!], $notes: String) {
  upsertBucket(input: {id: $id, tags: $tags, notes: $notes}) { bucket { id name } }
}
"""
ENDED_STATES = ("finished", "failed")


class ServerError(MirrorError):
    """The server has not received what it should; ``str`` says what is missing or wrong."""


class ServerUnavailable(ServerError):
    """The server cannot be used now; ``str`` says what it does instead of answering."""


class CannotAsk(Exception):
    """W&B can reach the server in ways that this module does not know."""


@dataclass(frozen=True)
class Uploaded:
    """What the server has of a run.

    Attributes:
        num_rows: its history rows.
        last_row: the last one; empty where there is none.
        has_ended: whether the server knows that the run has ended. It learns this after it has
            received the files of the run.
        server_id: what the server calls the run; empty where it does not have it.
    """

    num_rows: int = 0
    last_row: JsonObject | None = None
    has_ended: bool = False
    server_id: str = ""


def server_address() -> str:
    """``WANDB_BASE_URL``, or else the address in the user's W&B settings."""
    address = os.environ.get("WANDB_BASE_URL")
    if not address:
        address = str(_wandb_settings().base_url)
    return address.rstrip("/")


class PresentServer:
    """The server to which runs are sent now. Its address is looked up when it is first needed."""

    def is_at(self, address: Any) -> bool:
        """Whether an address that was recorded is that of the server.

        It is where no address was recorded, as by earlier versions, and where nothing can be sent.

        Args:
            address: what was recorded; None for nothing.
        """
        return not isinstance(address, str) or self._address in (address, None)

    @functools.cached_property
    def _address(self) -> str | None:
        try:
            return server_address()
        except (ServerUnavailable, ImportError):
            return None


def import_wandb() -> Any:
    """The package ``wandb``, which reports no usage and no errors unless the user asks for it.

    The reports would hold up the end of a process whose server does not answer.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # W&B refuses an empty one
    if not os.environ.get("WANDB_RUN_ID"):
        _leave_contexts()
    import wandb

    use_writable_caches(wandb)
    return wandb


def _leave_contexts() -> None:
    """Removes what a shell has kept of a W&B search: without the id of a trial, this is none.

    W&B would give the run another id, under which ``fathom sync`` would not find its rows.
    """
    for name in RUN_CONTEXTS:
        if os.environ.pop(name, None):
            print(f"fathom: {name} is ignored, because there is no WANDB_RUN_ID", file=sys.stderr)


def _wandb_settings() -> Any:
    """W&B's settings of this process, in which W&B itself prints nothing.

    Raises:
        ServerUnavailable: W&B refuses what the environment sets.
    """
    wandb = import_wandb()
    try:
        return wandb.setup(wandb.Settings(silent=True)).settings
    except ValueError as error:
        raise ServerUnavailable(describe_error(error)) from None


def ask_for_run(
    *,
    project: str,
    entity: str | None,
    run_id: str,
    seconds: float,
    attempts: int = 1,
) -> Uploaded | None:
    """What the server has of a run.

    Args:
        project: the W&B project.
        entity: the W&B entity; None for the user's default.
        run_id: the W&B id.
        seconds: how long the server may take to answer, for all attempts.
        attempts: how often it is asked if it does not answer as it should.

    Returns:
        None where the server cannot be asked.

    Raises:
        ServerUnavailable: it does not answer as a W&B server does.
    """
    variables = {"project": project, "entity": entity, "name": run_id}
    deadline = time.monotonic() + seconds
    for attempt in range(1, attempts + 1):
        try:
            answer = ask_server(RUN_STATUS, variables, max(1.0, deadline - time.monotonic()))
            break
        except CannotAsk:
            return None
        except ServerUnavailable:
            if attempt == attempts or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
    model = answer.get("model") or {}
    bucket = model.get("bucket")
    if not bucket:
        return Uploaded()
    return Uploaded(
        num_rows=bucket.get("historyLineCount") or 0,
        last_row=_last_row(bucket.get("historyTail")),
        has_ended=bucket.get("state") in ENDED_STATES,
        server_id=bucket.get("id") or "",
    )


def change_remarks(server_id: str, remarks: JsonObject, seconds: float = ASK_SECONDS) -> None:
    """Gives a run on the server other tags or notes.

    Args:
        server_id: what the server calls the run.
        remarks: the new ``tags`` or ``notes``, or both.
        seconds: how long the server may take to answer.

    Raises:
        ServerUnavailable: it does not answer as a W&B server does.
    """
    ask_server(CHANGE_REMARKS, {"id": server_id} | remarks, seconds)


def ask_for_stop(
    *,
    project: str,
    entity: str | None,
    run_id: str,
    seconds: float,
) -> bool:
    """Whether a run was stopped on the server; no where the server does not answer.

    Args:
        project: the W&B project.
        entity: the W&B entity; None for the user's default.
        run_id: the W&B id.
        seconds: how long the server may take to answer.
    """
    variables = {"projectName": project, "entityName": entity, "runId": run_id}
    try:
        answer = ask_server(STOP_STATUS, variables, seconds)
    except (ServerUnavailable, CannotAsk):
        return False
    run = (answer.get("project") or {}).get("run") or {}
    return bool(run.get("stopped"))


def _last_row(tail: str | None) -> JsonObject | None:
    """The last row of a history tail, which is a JSON list of rows that are JSON texts."""
    try:
        rows = json.loads(tail or "[]")
        return json.loads(rows[-1]) if rows else None
    except (ValueError, TypeError):
        return None


def ask_server(
    query: str,
    variables: JsonObject,
    seconds: float,
) -> JsonObject:
    """The data that the server answers to a GraphQL query.

    Args:
        query: the query or mutation.
        variables: its variables.
        seconds: how long the server may take.

    Raises:
        ServerUnavailable: it does not answer as a W&B server does.
        CannotAsk: the server cannot be asked in this way.
    """
    address = server_address()
    content = json.dumps({"query": query, "variables": variables}).encode()
    try:
        request = urllib.request.Request(f"{address}/graphql", content)
    except ValueError:
        raise ServerUnavailable(f"{address} is not the address of a server") from None
    for name, value in _headers(address).items():
        request.add_header(name, value)
    opener = _opener(address)
    try:
        with opener.open(request, timeout=seconds) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise ServerUnavailable(_describe_status(address, error.code)) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLError):
            raise CannotAsk from None  # W&B may have been given other certificates
        raise ServerUnavailable(f"{address} does not answer") from None
    try:
        data = json.loads(text).get("data")
    except (ValueError, AttributeError):
        raise ServerUnavailable(f"{address} does not answer as a W&B server does") from None
    if not isinstance(data, dict):
        raise ServerUnavailable(f"{address} refuses the request")
    return data


def _opener(address: str) -> urllib.request.OpenerDirector:
    """Sends requests through the user's proxy, but not to this machine; W&B does the same."""
    host = urlsplit(address).hostname or ""
    if host in LOOPBACK_NAMES or host.startswith("127."):
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _describe_status(address: str, status: int) -> str:
    if status in (401, 403):
        return f"{address} refuses the API key (HTTP {status}): wandb login"
    return f"{address} answers HTTP {status}"


def _headers(address: str) -> dict[str, str]:
    """The headers of a request, with the user's API key.

    Raises:
        ServerUnavailable: there is no API key, or W&B refuses what the environment sets.
        CannotAsk: the user has another proof of identity.
    """
    wandb = import_wandb()
    from wandb.sdk.lib import wbauth

    settings = _wandb_settings()
    key = os.environ.get("WANDB_API_KEY") or settings.api_key
    key = key or wbauth.read_netrc_auth(host=address)
    if not key:
        if settings.identity_token_file:
            raise CannotAsk
        raise ServerUnavailable(f"there is no API key for {address}: wandb login")
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {
        "Authorization": f"Basic {token}",
        "Content-Type": "application/json",
        "User-Agent": f"wandb/{wandb.__version__}",
    }
    return headers | dict(settings.x_extra_http_headers or {})
