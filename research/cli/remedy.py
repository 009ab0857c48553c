"""``fathom remedy``: trains what the findings of runs advise, and says which changes help."""

import contextlib
from collections.abc import Sequence

from research.records.runs import Run
from research.reporting.selection import ROOT, find_named_runs, select_runs
from research.reporting.tables import console

FILTER_SIGNS = "=<>"


def main(words: Sequence[str]) -> int:
    """Trains the advised changes of runs for three seeds, and prints which of them help.

    Raises:
        ValueError: no run is named, or nothing is advised for any of them.
    """
    if not words:
        raise ValueError("remedies for which run? give its directory, a filter, or last")
    runs = _find_runs(words)
    _check_own(runs)
    return _try_remedies(runs)


def _find_runs(words: Sequence[str]) -> list[Run]:
    """The named runs, or all that fit filters."""
    if any(sign in word for word in words for sign in FILTER_SIGNS):
        with contextlib.suppress(ValueError):
            return find_named_runs(words)
        return select_runs(words)
    return find_named_runs(words)


def _check_own(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.is_watched:
            raise ValueError(
                f"{run.directory} was trained by another loop, which fathom remedy cannot repeat; "
                "fathom show prints its advice"
            )


def _try_remedies(runs: Sequence[Run]) -> int:
    from research.records.tried import write_tried
    from research.reporting.remedies import command_to_copy, describe_tried, remedies_table
    from research.runner.session import Session
    from research.runner.signals import terminable
    from research.sweeps.remedies import Trial, plan_trials, summarize, train_trials

    trials: dict[str, list[Trial]] = {}
    problems = []
    for run in runs:
        try:
            trials[str(run.directory)] = plan_trials(run, ROOT)
        except ValueError as error:
            problems.append(str(error))
    if not trials:
        raise ValueError(problems[0])
    session = Session()
    everything = [trial for of_run in trials.values() for trial in of_run]
    with terminable(), session.progress:
        results = train_trials(everything, session)
    out = console(pipe_width=1000)
    for of_run in trials.values():
        run = of_run[0].run
        tried = summarize(of_run, results)
        write_tried(run.directory, tried)
        out.print(f"{run.directory}  {tried.steps} steps", markup=False, soft_wrap=True)
        out.print(remedies_table(tried))
        out.print(describe_tried(tried), markup=False, soft_wrap=True)
        if tried.best is not None:
            out.print(command_to_copy(run, tried.best), markup=False, soft_wrap=True)
    for problem in problems:
        out.print(problem, markup=False, soft_wrap=True)
    return 0
