"""A report of runs: one HTML file that needs no network, with its data and Plotly inside.

The page runs only the scripts that it holds, which its content security policy names by their
hashes, and may not load anything. Names of runs reach it as JSON and are shown as text.
"""

import base64
import hashlib
import html
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import __version__
from research.records.files import replacing
from research.records.runs import Run
from research.reporting.page_data import (
    detail_for,
    make_details,
    make_index,
    read_claims,
    run_key,
    to_json,
)

WEB = Path(__file__).parent / "web"


def write_report(
    runs: Sequence[Run],
    path: Path,
    title: str,
    root: Path,
) -> None:
    """Writes a report of runs, completely or not at all.

    Args:
        runs: the runs.
        path: the HTML file; its folder is made if needed.
        title: what the report is about.
        root: the folder below which the runs are.
    """
    index = make_index(runs, root)
    detail = detail_for(len(runs))
    details = {}
    for run in runs:
        details[run_key(run, root)] = make_details(run, detail)
    content = {**index, "details": details, "claims": read_claims(runs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        page = make_page(title, content)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def make_page(
    title: str,
    content: dict[str, Any],
    *,
    connect: str = "'none'",
) -> str:
    """The HTML page.

    Args:
        title: what the page is about.
        content: what ``page.js`` shows; see ``research.reporting.page_data``.
        connect: the addresses that the page may ask for further data.
    """
    scripts = [read_plotly(), _read("page.js")]
    data = to_json({"title": title, "version": __version__, **content})
    page = _read("page.html")
    style = _read("page.css")
    script_hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {script_hashes}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": data,
        "PLOTLY": scripts[0],
        "SCRIPT": scripts[1],
    }
    pieces = []
    for piece in page.split("@@"):
        pieces.append(parts.get(piece, piece))
    return "".join(pieces)


def read_plotly() -> str:
    """The script of Plotly, from its Python package.

    Raises:
        ValueError: Plotly is not installed.
    """
    found = importlib.util.find_spec("plotly")  # importing it takes much longer
    if found is None or not found.origin:
        raise ValueError("reports need Plotly: pip install plotly")
    script = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return script.read_text(encoding="utf-8")


def _read(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode())
    return base64.b64encode(digest.digest()).decode()
