"""An experiment's figure and claims, written next to its runs and uploaded to W&B."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.markup import escape

from research.records.record import write_json
from research.records.runs import METRICS, Run, find_runs
from research.reporting.figures import FIGURE_FORMATS, save_figure, style
from research.reporting.tables import console
from research.reproduce.claims import Claim
from research.reproduce.code import call_code
from research.reproduce.experiments import finished_runs, source_folder
from research.reproduce.tables import claims_table

TRACKER_SETTINGS = ("dir", "project", "entity")


def draw_and_test(
    key: str,
    directory: Path,
    *,
    keep_current: bool = False,
    is_silent: bool = False,
) -> bool:
    """Draws an experiment's figure, tests its claims, and prints them.

    Args:
        key: the experiment.
        directory: the folder of its runs, to which figure and claims are written.
        keep_current: whether results that are newer than the records and the code are kept.
        is_silent: whether nothing is printed.

    Returns:
        Whether all claims hold.
    """
    claims = _read_current_claims(key, directory) if keep_current else []
    if not claims:
        claims = _write_results(key, directory)
    if not is_silent:
        out = console()
        out.print(claims_table(claims))
        place = escape(str(directory))
        files = f"figure: {place}/figure.png .svg .pdf   claims: {place}/claims.json"
        out.print(files, soft_wrap=True)
    return all(claim.holds for claim in claims)


def results_object(key: str, directory: Path) -> dict[str, Any]:
    """The results of an experiment, which ``draw_and_test`` has written, as JSON values.

    Keys: ``experiment``, ``figure`` (the path of the PNG), ``all_hold`` and ``claims``, each with
    the fields of ``Claim``.
    """
    claims = json.loads((directory / "claims.json").read_text(encoding="utf-8"))
    return {
        "experiment": key,
        "figure": str(directory / "figure.png"),
        "all_hold": all(claim["holds"] for claim in claims),
        "claims": claims,
    }


def _write_results(key: str, directory: Path) -> list[Claim]:
    runs = finished_runs(key, directory)
    claims = call_code(key, "claims", runs)
    _check_claims(key, claims)
    with style():
        figure = call_code(key, "figure", runs)
        if not isinstance(figure, Figure):
            kind = type(figure).__name__
            raise ValueError(
                f"figure(runs) of {key} must return a figure of matplotlib, got {kind}"
            )
        save_figure(figure, directory, "figure")
    write_json(directory / "claims.json", [dataclasses.asdict(claim) for claim in claims])
    return claims


def _check_claims(key: str, claims: Any) -> None:
    """Checks what the function ``claims`` of an experiment returned.

    Raises:
        ValueError: it is no list of claims.
    """
    items = claims if isinstance(claims, list | tuple) else [claims]
    for item in items:
        if not isinstance(item, Claim):
            kind = type(item).__name__
            raise ValueError(f"claims(runs) of {key} must return a list of claims, got {kind}")
    if items is not claims:
        raise ValueError(f"claims(runs) of {key} must return a list of claims, got one claim")


def _read_current_claims(key: str, directory: Path) -> list[Claim]:
    """The claims on disk; none if they or the figure are missing or older than records or code."""
    claims_file = directory / "claims.json"
    results = [claims_file]
    for suffix in FIGURE_FORMATS:
        results.append(directory / f"figure.{suffix}")
    if not all(file.exists() for file in results):
        return []
    package = Path(__file__).parent.parent
    # Not run.json, in which tags and uploads change what no claim reads.
    sources = [
        *directory.glob(f"*/{METRICS}.parquet"),
        *package.rglob("*.py"),
        *source_folder(key).glob("*.py"),
    ]
    times = [_modification_time(file) for file in sources]
    times += [Run(file.parent).start_time for file in directory.glob("*/run.json")]
    oldest_result = min(map(_modification_time, results))
    if oldest_result <= max(times):
        return []
    return [Claim(**claim) for claim in json.loads(claims_file.read_text(encoding="utf-8"))]


def _modification_time(file: Path) -> float:
    return file.stat().st_mtime


def upload_results(directory: Path) -> None:
    """Uploads figure and claims to a W&B run in the group of the runs, if the runs are in W&B.

    Results that W&B already has are not sent again. If W&B fails, one line says so and the next
    call tries again; the files in ``directory`` are complete without it.
    """
    first = find_runs(directory)[0]
    if not first.info.get("wandb"):
        return
    receipt = directory / "mirrored.json"
    fingerprint = _fingerprint(directory)
    if receipt.exists():
        sent = json.loads(receipt.read_text(encoding="utf-8"))
        if sent["sent"] == fingerprint:
            return
    from research.records.trackers import BackgroundTrackers, identity
    from research.records.trackers.summary import WandbSummary

    claims_file = directory / "claims.json"
    settings = {name: first[f"tracker.{name}"] for name in TRACKER_SETTINGS}
    summary = WandbSummary(
        settings=identity.with_environment(settings),
        group=identity.run_group(directory.absolute().name),
        figure=directory / "figure.png",
        claims=json.loads(claims_file.read_text(encoding="utf-8")),
    )
    tracker = BackgroundTrackers([summary])
    tracker.start()
    place = tracker.start_info()
    tracker.finish({})
    tracker.wait()
    if tracker.all_working and place:
        write_json(receipt, place | {"sent": fingerprint})


def _fingerprint(directory: Path) -> str:
    """A hash of the files that are uploaded."""
    content = hashlib.sha256()
    for name in ("figure.png", "claims.json"):
        file = directory / name
        if file.exists():
            content.update(file.read_bytes())
    return content.hexdigest()
