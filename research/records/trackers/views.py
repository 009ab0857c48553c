"""Saved views and reports of W&B: their specifications in a study's directory, sent once each.

``workspace.json`` in the directory of a study holds them. Saving again changes the same view,
because its name follows from the study, and its id is kept once the server has given it one.
"""

import hashlib
import json
from pathlib import Path

from research.records.record import write_json
from research.records.runs import JsonObject
from research.records.trackers.server import (
    CannotAsk,
    PresentServer,
    ServerError,
    ask_server,
    server_address,
)

FILE = "workspace.json"
SENT = ("id", "sent", "server")  # what the server calls a view, what it got, and which server
ENTITY = "__ENTITY__"  # stands for the user's default entity, which the server knows
SECONDS = 20.0
VIEWER = "query Viewer { viewer { id entity } }"
UPSERT_VIEW = """
mutation UpsertView(
    $id: ID, $entityName: String, $projectName: String, $type: String, $name: String,
    $displayName: String, $description: String, $spec: String
) {
  upsertView(input: {
      id: $id, entityName: $entityName, projectName: $projectName, name: $name,
      displayName: $displayName, description: $description, type: $type, spec: $spec,
      createdUsing: WANDB_SDK
  }) {
    view { id name }
    inserted
  }
}
"""


def view_name(study: str, kind: str) -> str:
    """The name of a view by which the server knows it, always the same for a study."""
    digest = hashlib.sha256(f"{kind} of {study}".encode()).hexdigest()
    return f"nw-{digest[:11]}-v" if kind == "workspace" else digest[:12]


def write_views(directory: Path, views: list[JsonObject]) -> bool:
    """Writes the specifications; those that the server has already keep their id.

    Args:
        directory: the directory of the study.
        views: the ``kind``, ``type``, ``name``, ``title``, ``project``, ``entity`` and ``spec`` of
            each.

    Returns:
        Whether something differs from what the server has.
    """
    earlier = {view["name"]: view for view in read_views(directory)}
    for view in views:
        known = earlier.get(view["name"], {})
        for name in SENT:
            view[name] = known.get(name)
    write_json(directory / FILE, {"views": views})
    return any(is_pending(view) for view in views)


def read_views(directory: Path) -> list[JsonObject]:
    """The specifications in the directory of a study; none where there is no readable file."""
    try:
        content = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    views = content.get("views") if isinstance(content, dict) else None
    return [view for view in views or [] if isinstance(view, dict) and "spec" in view]


def is_pending(view: JsonObject) -> bool:
    """Whether the present server lacks a view as it is."""
    return view.get("sent") != _fingerprint(view) or not PresentServer().is_at(view.get("server"))


def has_pending_views(directory: Path) -> bool:
    """Whether the server lacks a view of a study."""
    return any(is_pending(view) for view in read_views(directory))


def send_views(directory: Path) -> None:
    """Sends the views of a study that the server lacks, and notes their ids.

    Raises:
        ServerError: the server has not taken them.
    """
    views = read_views(directory)
    for view in views:
        if is_pending(view):
            if not PresentServer().is_at(view.get("server")):
                view["id"] = None
            view["id"] = _send(view)
            view["sent"] = _fingerprint(view)
            view["server"] = server_address()
            write_json(directory / FILE, {"views": views})


def _send(view: JsonObject) -> str:
    """Sends a view; returns the id that the server has given it."""
    entity = view["entity"] or _default_entity()
    variables = {
        "id": view.get("id"),
        "entityName": entity,
        "projectName": view["project"],
        "type": view["type"],
        "name": view["name"],
        "displayName": view["title"],
        "description": "",
        "spec": json.dumps(view["spec"]).replace(ENTITY, entity),
    }
    answer = _ask(UPSERT_VIEW, variables)
    saved = (answer.get("upsertView") or {}).get("view") or {}
    if not saved.get("id"):
        raise ServerError(f"W&B's server has not saved the {view['kind']}")
    return saved["id"]


def _default_entity() -> str:
    viewer = _ask(VIEWER, {}).get("viewer") or {}
    if not viewer.get("entity"):
        raise ServerError("W&B's server does not say who you are: set tracker.entity")
    return viewer["entity"]


def _ask(query: str, variables: JsonObject) -> JsonObject:
    try:
        return ask_server(query, variables, SECONDS)
    except CannotAsk:
        raise ServerError("W&B's server cannot be asked with these certificates") from None


def _fingerprint(view: JsonObject) -> str:
    content = {name: view.get(name) for name in ("title", "project", "entity", "type", "spec")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
