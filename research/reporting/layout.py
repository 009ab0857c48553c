"""Which setting is on which axis of a figure: as asked for, or what suits the runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from research.records.runs import Run
from research.reporting.selection import find_setting
from research.reporting.varied_settings import (
    PREFERRED,
    SEED,
    distinct_values,
    independent_settings,
    is_balanced,
    is_numeric,
    is_recording,
    values_of,
    varied_settings,
)

MAX_FACETS = 9  # panels of a setting that is chosen without being asked for
MAX_COLORS = 8  # that a reader can tell apart
MAX_STYLES = 4  # kinds of lines


@dataclass(frozen=True)
class Layout:
    """The settings that a figure shows, by path.

    Attributes:
        x: on the horizontal axis; empty where that shows steps or layers.
        colors: each combination of their values has a colour.
        facet: each value has a panel; empty for a single panel.
        style: each value has a kind of line; empty where all lines are solid.
    """

    x: str = ""
    colors: tuple[str, ...] = ()
    facet: str = ""
    style: str = ""

    @property
    def facets(self) -> list[str]:
        """The setting that has panels, as a list; empty for a single panel."""
        return [self.facet] if self.facet else []

    @property
    def series(self) -> list[str]:
        """The settings that tell the lines of a panel apart."""
        return [*self.colors, self.style] if self.style else [*self.colors]


def choose_layout(
    runs: Sequence[Run],
    *,
    x: str = "",
    color: str = "",
    facet: str = "",
    has_x: bool = True,
    has_styles: bool = False,
) -> Layout:
    """Puts every setting in which runs differ, but for the seed, somewhere in a figure.

    What varies most is on the horizontal axis, what has few values has colours, the next one has
    panels. What is left shares the colours, so that a mean never covers different settings.

    Args:
        runs: the runs.
        x: the setting on the horizontal axis; chosen if empty.
        color: the setting that has colours; chosen if empty.
        facet: the setting that has panels; chosen if empty.
        has_x: whether a setting is on the horizontal axis at all.
        has_styles: whether kinds of lines can show a setting.

    Raises:
        ValueError: there is no such setting, or one is named twice.
    """
    x_path = find_setting(x, runs) if x else ""
    color_path = find_setting(color, runs) if color else ""
    facet_path = find_setting(facet, runs) if facet else ""
    named = [path for path in (x_path, color_path, facet_path) if path]
    for path in named:
        if named.count(path) > 1:
            raise ValueError(f"{path} can be only one of --x, --color and --facet")
    settings = varied_settings(runs)
    if has_x and not x_path:
        x_path = choose_x(runs, [path for path in settings if path not in named])
    given = [path for path in (x_path, color_path, facet_path) if path]
    rest = independent_settings(runs, settings, given)
    if not color_path and rest:
        color_path = rest.pop(0)
    if not facet_path:
        facet_path = _choose_facet(runs, rest, [color_path, *rest])
    rest = [path for path in rest if path != facet_path]
    style = _choose_style(runs, rest) if has_styles else ""
    rest = [path for path in rest if path != style]
    colors = [color_path, *rest] if color_path else rest
    return Layout(x_path, tuple(colors), facet_path, style)


def choose_x(runs: Sequence[Run], settings: Sequence[str]) -> str:
    """The number with the most values; without a number the setting with the most values."""
    best = ""
    best_rank: tuple[int, ...] = ()
    for path in settings:
        rank = (
            not is_recording(path),
            is_numeric(runs, path),
            len(distinct_values(runs, path)),
            -PREFERRED.index(path) if path in PREFERRED else -len(PREFERRED),
        )
        if not best or rank > best_rank:
            best = path
            best_rank = rank
    seeds = {run.config.get(SEED) for run in runs}
    if not best and len(seeds) > 1:
        return SEED
    return best


def _choose_facet(
    runs: Sequence[Run],
    settings: Sequence[str],
    colors: Sequence[str],
) -> str:
    """The balanced setting with the fewest values, if they fit into a figure.

    Where there are more colours than a reader can tell apart, it need not be balanced.

    Args:
        runs: the runs.
        settings: the candidates.
        colors: the settings that would share the colours.
    """
    num_colors = len({values_of(run, colors) for run in runs})
    for path in settings:
        num_values = len(distinct_values(runs, path))
        is_fair = is_balanced(runs, path) or num_colors > MAX_COLORS
        if num_values <= MAX_FACETS and is_fair and not is_recording(path):
            return path
    return ""


def _choose_style(runs: Sequence[Run], settings: Sequence[str]) -> str:
    for path in settings:
        if len(distinct_values(runs, path)) <= MAX_STYLES:
            return path
    return ""
