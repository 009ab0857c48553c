"""``fathom replay``: computes the steps at which a run went wrong again, and says what happened."""

import sys
from collections.abc import Sequence

from research.records.runs import Run
from research.reporting.selection import find_named_runs
from research.reporting.tables import console


def main(
    words: Sequence[str],
    *,
    to: str,
    steps: str,
    no_search: bool,
    json: bool,
) -> int:
    """Replays runs, prints what went wrong in each, and keeps it in the run's directory.

    Args:
        words: the runs, or filters that fit one run.
        to: the last step; empty for the step at which the run went wrong.
        steps: how many steps before it are measured.
        no_search: whether number formats are left as they are.
        json: whether JSON is printed: a list of runs.

    Raises:
        ValueError: no run is named, or one cannot be replayed.
    """
    if not words:
        raise ValueError("replay which run? give its directory, a part of its name, or last")
    last = _whole_number("to", to) if to else None
    num_steps = _whole_number("steps", steps)
    runs = find_named_runs(words)
    for run in runs:
        run.check()
        if run.is_watched:
            raise ValueError(
                f"{run.directory} was trained by another loop, which fathom replay cannot repeat"
            )
    return _replay(runs, last, num_steps, has_search=not no_search, json=json)


def _whole_number(name: str, word: str) -> int:
    if not word.isdecimal():
        raise ValueError(f"--{name} must be a whole number ≥ 0, got {word}")
    return int(word)


def _report(words: str) -> None:
    print(f"fathom: {words}", file=sys.stderr)


def _replay(
    runs: Sequence[Run],
    last: int | None,
    num_steps: int,
    *,
    has_search: bool,
    json: bool,
) -> int:
    from research.records.replayed import write_replayed
    from research.reporting.json_output import print_json
    from research.reporting.replays import (
        describe_batch,
        describe_replayed,
        events_table,
        replayed_object,
        trials_table,
    )
    from research.runner.replay import replay_run
    from research.runner.session import prepare_jax

    prepare_jax()
    out = console(pipe_width=1000)
    objects = []
    for run in runs:
        replayed = replay_run(
            run,
            to=last,
            num_steps=num_steps,
            has_search=has_search,
            report=_report,
        )
        write_replayed(run.directory, replayed)
        if json:
            objects.append({"run": str(run.directory)} | replayed_object(replayed))
            continue
        out.print(f"{run.directory}", markup=False, soft_wrap=True)
        if replayed.events:
            out.print(events_table(replayed))
            out.print(describe_batch(replayed), markup=False, soft_wrap=True)
        if replayed.trials:
            out.print(trials_table(replayed))
        elif replayed.events and replayed.no_search:
            out.print(f"no search for number formats: {replayed.no_search}", soft_wrap=True)
        out.print(describe_replayed(replayed), markup=False, soft_wrap=True)
    if json:
        print_json(objects)
    return 0
