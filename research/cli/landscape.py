"""``fathom landscape``: the loss around the final weights of a run, as a figure."""

from collections.abc import Sequence

import numpy as np

from research.records.runs import Run
from research.reporting.quantities import BY_NAME
from research.reporting.selection import find_named_runs
from research.reporting.tables import console

MAX_RUNS = 2


def main(words: Sequence[str]) -> int:
    """Draws the loss around a run's final weights, and between those of two runs.

    Raises:
        ValueError: no run or more than two are named, or a run kept no checkpoint.
    """
    if not words:
        raise ValueError(
            "the landscape of which run? give its directory, a part of its name, or last; "
            "it needs checkpoint.keep=true"
        )
    runs = find_named_runs(words)
    if len(runs) > MAX_RUNS:
        raise ValueError(f"a landscape is that of one run or two, got {len(runs)}")
    directories = [run.directory.absolute() for run in runs]
    if len(set(directories)) < len(runs):
        raise ValueError(f"the way between two runs needs two, got {runs[0].directory} twice")
    for run in runs:
        run.check()
    _draw(runs)
    return 0


def _draw(runs: Sequence[Run]) -> None:
    from research.reporting.landscape import draw_landscape, save_landscape
    from research.runner.landscape import measure_landscape
    from research.runner.session import prepare_jax

    prepare_jax()
    directory = runs[0].directory
    other = runs[1].directory if len(runs) == MAX_RUNS else None
    landscape = measure_landscape(directory, other)
    label = BY_NAME["train_loss"].heading(runs[:1])
    place = save_landscape(directory, draw_landscape(landscape, label))
    centre = landscape.surface.shape[0] // 2
    half = len(landscape.coordinates) // 4
    out = console()
    out.print(
        f"training loss of the first {landscape.num_examples:,} stored examples: "
        f"{landscape.surface[centre, centre]:.3g} at the final weights, and "
        f"{np.mean(landscape.lines[:, [half, -1 - half]]):.3g} in the mean half a filter's norm "
        "away",
        soft_wrap=True,
    )
    if landscape.between is not None:
        out.print(
            f"greatest loss on the line between the two runs: {landscape.between.max():.3g}",
            soft_wrap=True,
        )
    out.print(f"figure: {place}", soft_wrap=True, markup=False)
