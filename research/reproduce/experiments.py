"""A reproduction: its swept runs, its figure and its claims, found by name."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from research.config.errors import nearest
from research.config.hydra_config import resource_dir
from research.config.naming import run_name
from research.records.record import read_info, write_json
from research.records.runs import Run, find_runs
from research.reporting.figures import style
from research.reporting.tables import DEFAULTS, console, number
from research.reproduce.claims import Claim
from research.runner.run_spec import OUTSIDE
from research.sweeps.jobs import expand_jobs

FORMATS = ("png", "svg", "pdf")
DATELESS = {
    "png": None,
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}  # the same runs, the same bytes
SCALES = ("paper",)  # larger configurations, for accelerators


def names(scale: str = "") -> list[str]:
    """Every reproduction that has a configuration, a figure and claims; at a ``scale`` as ``paper/NAME``.

    Raises:
        ValueError: there is no such scale.
    """
    if scale and scale not in SCALES:
        raise ValueError(
            f"there is no scale {scale}{nearest(scale, SCALES)} valid: {', '.join(SCALES)}"
        )
    place = resource_dir("conf") / "experiment"
    return sorted(
        str(file.relative_to(place).with_suffix("")) for file in (place / scale).glob("*.yaml")
    )


def checked(name: str, scale: str = "") -> str:
    """The reproduction ``name`` at a ``scale``, if there is one.

    Raises:
        ValueError: with the nearest name and all names.
    """
    known = {key.rpartition("/")[2]: key for key in names(scale)}
    if name not in known:
        what = f"no experiment {name}" + f" at --scale {scale}" * bool(scale)
        raise ValueError(f"there is {what}{nearest(name, known)} valid: {', '.join(known)}")
    return known[name]


def study(key: str) -> str:
    """The folder under outputs/ that an experiment's runs lie in: NAME, or NAME-paper."""
    return "-".join(reversed(key.split("/")))


def _command(key: str) -> str:
    scale, _, name = key.rpartition("/")
    return f"fathom reproduce {name}" + f" --scale {scale}" * bool(scale)


def expected_runs(name: str) -> dict[str, dict[str, Any]]:
    """What each run of the experiment's sweep is set to, by dotted path, by the name of its directory."""
    from research.sweeps.composition import compose_jobs

    sweeper = yaml.safe_load((resource_dir("conf") / "experiment" / f"{name}.yaml").read_text())[
        "hydra"
    ]["sweeper"]
    jobs = expand_jobs(sweeper.get("params", {}), sweeper.get("arms"))
    settings = compose_jobs([f"experiment={name}"], jobs)
    return {run_name(job): own for job, own in zip(jobs, settings, strict=True)}


def finished_runs(name: str, directory: Path) -> list[Run]:
    """The experiment's runs in ``directory``, all of them and no others.

    Raises:
        ValueError: naming a run that is missing, has not ended, or is of another configuration: a figure of what is
            there would mislead.
    """
    wanted = expected_runs(name)
    again = _command(name)
    found = {run.directory: run for run in find_runs(directory)}
    runs = {directory / run: settings for run, settings in wanted.items()}
    for run in found:
        if run not in runs:
            raise ValueError(f"{run} is no run of {name}: move it elsewhere")
    missing = [run.name for run in runs if run not in found or not read_info(run)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{directory} lacks the run {missing[0]}{more}: {again}")
    for run, settings in runs.items():
        if difference := _difference(found[run], settings):
            raise ValueError(
                f"{run} does not belong to {name} ({difference}): remove that folder, then {again}"
            )
        if (status := found[run].info["status"]) not in ("done", "diverged"):
            raise ValueError(f"{run} is {status}, not done: {again}")
    return [found[run] for run in runs]


def _difference(run: Run, settings: dict[str, Any]) -> str:
    """The first setting that the run was trained with and the experiment does not have, in words; nothing if none.

    A setting that a record of an earlier version does not know is what it is by default.
    """
    if not (run.directory / ".hydra" / "config.yaml").exists():
        return "its configuration is missing"
    for path, value in settings.items():
        recorded = run.config.get(path, DEFAULTS.get(path))
        if recorded != value and path != "name" and not path.startswith(OUTSIDE):
            return f"{path} is {recorded} there and {value} in the experiment"
    return ""


@functools.cache
def _module(name: str, part: str) -> ModuleType:
    place = "/".join(reversed(name.split("/")))  # NAME, or NAME/paper
    file = resource_dir("experiments") / place / f"{part}.py"
    spec = importlib.util.spec_from_file_location(
        f"experiments.{place.replace('/', '.')}.{part}", file
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_and_judge(name: str, directory: Path, again: bool = True) -> bool:
    """Draws the figure and tests the claims from the records in ``directory``; returns whether all hold.

    Without ``again`` what lies there is left as it is where it is newer than all that it is made of.
    """
    claims = [] if again else _judged(name, directory)
    if not claims:
        runs = finished_runs(name, directory)
        claims = _module(name, "claims").claims(runs)
        with style():
            figure = _module(name, "figure").figure(runs)
            for suffix in FORMATS:
                figure.savefig(directory / f"figure.{suffix}", metadata=DATELESS[suffix])
        write_json(directory / "claims.json", [dataclasses.asdict(claim) for claim in claims])
    out = console()
    place = escape(str(directory))
    out.print(claims_table(claims))
    out.print(f"figure: {place}/figure.png .svg .pdf   claims: {place}/claims.json", soft_wrap=True)
    return all(claim.holds for claim in claims)


def _judged(name: str, directory: Path) -> list[Claim]:
    """The claims as they were judged, if since then neither the records nor the code have changed; else none."""
    made = [directory / "claims.json", *(directory / f"figure.{suffix}" for suffix in FORMATS)]
    package = Path(__file__).parent.parent
    place = resource_dir("experiments") / "/".join(reversed(name.split("/")))
    sources = [*directory.glob("*/run.json"), *package.rglob("*.py"), *place.glob("*.py")]
    if not all(file.exists() for file in made) or _changed(made, min) <= _changed(sources, max):
        return []
    return [Claim(**claim) for claim in json.loads(made[0].read_text())]


def _changed(files: Sequence[Path], which: Callable) -> float:
    return which(file.stat().st_mtime for file in files)


def mirror(directory: Path) -> None:
    """Writes figure and claims into a W&B run of their own, in the group of the runs, where those are recorded there.

    What W&B has already is left as it is. A dashboard's failure is told in one line, and the next call tries again:
    the files in ``directory`` are complete without it.
    """
    first = find_runs(directory)[0]
    sent = _fingerprint(directory)
    mark = directory / "mirrored.json"
    if not first.info.get("wandb") or (
        mark.exists() and json.loads(mark.read_text())["sent"] == sent
    ):
        return
    from research.records.trackers import Background
    from research.records.trackers.summary import WandbSummary

    settings = {name: first[f"tracker.{name}"] for name in ("dir", "project", "entity")}
    claims = json.loads((directory / "claims.json").read_text())
    group = directory.absolute().name
    figure = directory / "figure.png"
    summary = Background(
        [WandbSummary(settings=settings, group=group, figure=figure, claims=claims)]
    )
    summary.start()
    place = summary.described()
    summary.finish({})
    if summary.is_whole and place:
        write_json(mark, place | {"sent": sent})


def _fingerprint(directory: Path) -> str:
    """Of the files that a dashboard is sent, as they lie there."""
    files = (directory / name for name in ("figure.png", "claims.json"))
    return hashlib.sha256(
        b"".join(file.read_bytes() for file in files if file.exists())
    ).hexdigest()


def closing_table(judged: Mapping[Path, bool]) -> Table:
    """One row an experiment, by its directory and whether its claims were judged: how many hold, and which do not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("experiment", "claims that hold", "what does not hold (measured; expected)"):
        table.add_column(column, overflow="fold")
    for directory, is_judged in judged.items():
        if not is_judged:
            table.add_row(directory.name, "[red]none: runs failed[/]", "")
            continue
        claims = json.loads((directory / "claims.json").read_text())
        wrong = [
            f"{c['statement']} ({number(c['measured'])}; {c['expected']})"
            for c in claims
            if not c["holds"]
        ]
        table.add_row(
            directory.name,
            f"{len(claims) - len(wrong)} of {len(claims)}",
            Text("\n".join(wrong), "red"),
        )
    return table


def claims_table(claims: Sequence[Claim]) -> Table:
    """One row a claim, the verdict last."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("claim", "source", "expected", "measured (median, range)", "n", "holds"):
        table.add_column(column, overflow="fold", justify="right" if column == "n" else "left")
    for claim in claims:
        low, high = claim.interval
        measured = f"{number(claim.measured)} ({number(low)} to {number(high)})"
        holds = "[green]yes[/]" if claim.holds else "[red]NO[/]"
        table.add_row(claim.statement, claim.source, claim.expected, measured, str(claim.n), holds)
    return table
