"""Which setting is on which axis of a figure: as asked for, or what suits the runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.config.naming import given_values
from research.records.runs import Run
from research.reporting.quantities import has_several_steps
from research.reporting.selection import find_setting
from research.reporting.varied_settings import (
    NAMES,
    PREFERRED,
    SEED,
    differing_settings,
    distinct_values,
    independent_settings,
    is_balanced,
    is_numeric,
    is_recording,
    setting_text,
    setting_value,
    short_name,
    value_order,
    values_of,
    varied_settings,
)

MAX_FACETS = 9  # panels of a setting that is chosen without being asked for
MAX_COLORS = 8  # that a reader can distinguish
MANY_SETTINGS = 3  # of one colour: from here on, a legend names only what is unusual
MAX_STYLES = 4  # kinds of lines
MAX_TITLE_SETTINGS = 2  # in the title of an arm
# The order of groups in a title; the length of the training is not part of it.
TITLE_GROUPS = ("activation", "skip", "norm", "data", "model", "init", "loss", "optimizer")
LEAST_LINES = 2  # in each panel, or of each kind of line


@dataclass(frozen=True)
class Layout:
    """The settings that a figure shows, by path.

    Attributes:
        x: on the horizontal axis; empty where that shows steps or layers.
        colors: each combination of their values has a colour.
        facet: each value has a panel; empty for a single panel.
        style: each value has a kind of line; empty where all lines are solid.
        is_color_given: whether a user asked for colours, which a legend then names, also one alone.
    """

    x: str = ""
    colors: tuple[str, ...] = ()
    facet: str = ""
    style: str = ""
    is_color_given: bool = False

    @property
    def facets(self) -> list[str]:
        """The setting that has panels, as a list; empty for a single panel."""
        return [self.facet] if self.facet else []

    def is_crowded(self, runs: Sequence[Run]) -> bool:
        """Whether there are more colours than a reader can distinguish, or of many settings."""
        colors = {values_of(run, self.colors) for run in runs}
        return len(colors) > MAX_COLORS or len(self.colors) >= MANY_SETTINGS

    @property
    def series(self) -> list[str]:
        """The settings that distinguish the lines of a panel."""
        if self.style:
            return [*self.colors, self.style]
        return list(self.colors)


def choose_layout(
    runs: Sequence[Run],
    *,
    x: str = "",
    color: str = "",
    facet: str = "",
    has_x: bool = True,
    has_styles: bool = False,
    has_facets: bool = True,
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
        has_facets: whether a setting can have panels without being asked for.

    Raises:
        ValueError: there is no such setting, or one is named twice.
    """
    x_path = find_setting(x, runs, "--x") if x else ""
    color_path = find_setting(color, runs, "--color") if color else ""
    facet_path = find_setting(facet, runs, "--facet") if facet else ""
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
    if not facet_path and has_facets:
        facet_path = _choose_facet(runs, rest, [color_path, *rest])
    rest = [path for path in rest if path != facet_path]
    style = _choose_style(runs, rest, [color_path, *rest]) if has_styles else ""
    rest = [path for path in rest if path != style]
    colors = [color_path, *rest] if color_path else rest
    line = [*colors, facet_path, style]
    colors += _varied_along_lines(runs, x_path, [path for path in line if path])
    return Layout(x_path, tuple(colors), facet_path, style, is_color_given=bool(color))


def _varied_along_lines(
    runs: Sequence[Run],
    x: str,
    line: Sequence[str],
) -> list[str]:
    """The settings that vary along a line, but not as a function of its horizontal axis alone.

    Args:
        runs: the runs.
        x: the setting on the horizontal axis.
        line: the settings that distinguish the lines.
    """
    if not x:
        return []
    paths = []
    for path in varied_settings(runs, has_determined=True):
        follows_from_x = not independent_settings(runs, [path], [x])
        if path != x and not follows_from_x and not is_recording(path):
            paths.append(path)
    return independent_settings(runs, paths, line)


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

    Where there are more colours than a reader can distinguish, it need not be balanced.

    Args:
        runs: the runs.
        settings: the candidates.
        colors: the settings that would share the colours.
    """
    num_colors = len({values_of(run, colors) for run in runs})
    for path in settings:
        num_values = len(distinct_values(runs, path))
        is_fair = is_balanced(runs, path) and _splits_fairly(runs, path, colors)
        is_fair = is_fair or num_colors > MAX_COLORS
        if num_values <= MAX_FACETS and is_fair and not is_recording(path):
            return path
    return ""


def _choose_style(
    runs: Sequence[Run],
    settings: Sequence[str],
    colors: Sequence[str],
) -> str:
    """The first setting with few values that has several colours for each of them."""
    for path in settings:
        has_few = len(distinct_values(runs, path)) <= MAX_STYLES
        if has_few and _splits_fairly(runs, path, colors):
            return path
    return ""


def _splits_fairly(
    runs: Sequence[Run],
    path: str,
    colors: Sequence[str],
) -> bool:
    """Whether runs of several colours have each value of a setting.

    Args:
        runs: the runs.
        path: the setting.
        colors: the settings that have colours, with it or without it.
    """
    others = [color for color in colors if color != path]
    if not others:
        return True
    found: dict[Any, set[Any]] = {}
    for run in runs:
        lines = found.setdefault(setting_value(run, path), set())
        lines.add(values_of(run, others))
    return min(map(len, found.values())) >= LEAST_LINES


def split_arms(runs: Sequence[Run]) -> list[list[Run]]:
    """The arms of a sweep: runs for which the same settings were written, whatever their values.

    Arms of which one has all settings of another, and more, stay apart. Runs whose settings are not
    recorded are one arm.
    """
    arms: dict[frozenset[str], list[Run]] = {}
    for run in runs:
        paths = given_values(run.overrides)
        arms.setdefault(frozenset(paths), []).append(run)
    return list(arms.values())


def leave_out_untrained(runs: Sequence[Run], most: float) -> list[Run]:
    """The runs without the arms of a single step, where other arms were trained.

    Args:
        runs: the runs.
        most: the greatest share of the runs that is left out; where it would be more, all stay.
    """
    trained = set()
    for arm in split_arms(runs):
        if any(map(has_several_steps, arm)):
            trained.update(run.directory for run in arm)
    num_left_out = len(runs) - len(trained)
    if not trained or num_left_out > most * len(runs):
        return list(runs)
    return [run for run in runs if run.directory in trained]


def joins_arms(runs: Sequence[Run], layout: Layout) -> bool:
    """Whether a line would join runs of several arms that differ in more than its setting."""
    arm_of = {}
    for number, arm in enumerate(split_arms(runs)):
        for run in arm:
            arm_of[run.directory] = number
    for of_line in _runs_by_line(runs, layout):
        arms = {arm_of[run.directory] for run in of_line}
        if len(arms) > 1 and _differ_beside(of_line, layout.x):
            return True
    return False


def varies_at_random(runs: Sequence[Run], layout: Layout) -> bool:
    """Whether the runs of a line differ in many settings, or in one that does not follow its x.

    So do runs each of which has a seed and a value of its own, as those that were drawn at random.
    """
    for of_line in _runs_by_line(runs, layout):
        if _are_single_draws(of_line, layout.x):
            return True
        others = _differ_beside(of_line, layout.x)
        are_many = len(others) >= MANY_SETTINGS
        if are_many or not all(_follows(of_line, path, layout.x) for path in others):
            return True
    return False


def _are_single_draws(runs: Sequence[Run], x: str) -> bool:
    """Whether no two of several runs have the same seed or the same value of a setting."""
    num_seeds = len({setting_value(run, SEED) for run in runs})
    num_values = len({setting_value(run, x) for run in runs})
    return len(runs) > 2 and num_seeds == num_values == len(runs)


def _follows(
    runs: Sequence[Run],
    path: str,
    x: str,
) -> bool:
    """Whether a number only rises or only falls along another one, as a schedule by design does."""
    if not is_numeric(runs, path):
        return False
    in_order = sorted(runs, key=lambda run: value_order(x, setting_value(run, x)))
    values = [setting_value(run, path) for run in in_order]
    if None in values:
        return False
    gaps = np.diff(np.array(values, float))
    return bool(np.all(gaps >= 0) or np.all(gaps <= 0))


def _runs_by_line(runs: Sequence[Run], layout: Layout) -> list[list[Run]]:
    by_line: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = values_of(run, [*layout.series, *layout.facets])
        by_line.setdefault(key, []).append(run)
    return list(by_line.values())


def _differ_beside(runs: Sequence[Run], path: str) -> list[str]:
    """The settings of their training in which runs differ, apart from one of them and the seed."""
    others = []
    for other in differing_settings(runs):
        if other not in (path, SEED) and not is_recording(other):
            others.append(other)
    return others


def parts_of(runs: Sequence[Run]) -> list[list[Run]]:
    """The arms of a sweep that one panel cannot show; else all runs as a single part."""
    layout = choose_layout(runs)
    if layout.is_crowded(runs) or joins_arms(runs, layout):
        return split_arms(runs)
    return [list(runs)]


def arm_titles(arms: Sequence[Sequence[Run]]) -> list[str]:
    """What sets each arm apart: the fewest settings that its runs share and other arms have not."""
    every_run = [run for arm in arms for run in arm]
    all_paths = [path for path in differing_settings(every_run) if path != SEED]
    all_paths.sort(key=lambda path: _title_order(every_run, path))
    paths = [path for path in all_paths if not is_recording(path)]
    titles = [_arm_title(arm, every_run, paths) for arm in arms]
    if len(set(titles)) < len(titles):
        return [_arm_title(arm, every_run, all_paths) for arm in arms]
    return titles


def _title_order(runs: Sequence[Run], path: str) -> tuple[int, int, bool]:
    """A sort key: names of the network come first in a title, then numbers, the preferred first.

    Names are in the order of their groups. Of a group, the name of the option comes first.
    """
    group = path.split(".")[0]
    place = TITLE_GROUPS.index(group) if group in TITLE_GROUPS else len(TITLE_GROUPS)
    values = distinct_values(runs, path)
    is_name = any(isinstance(value, str) for value in values)
    if is_name and group in TITLE_GROUPS:
        return 0, place, not path.endswith(NAMES)
    if path in PREFERRED:
        return 1, PREFERRED.index(path), False
    return 2, place, False


def _arm_title(
    arm: Sequence[Run],
    every_run: Sequence[Run],
    paths: Sequence[str],
) -> str:
    first = arm[0]
    others = [run for run in every_run if run not in arm]
    words = []
    while others and len(words) < MAX_TITLE_SETTINGS:
        best_path = ""
        fewest = others
        for path in paths:
            same_setting = _runs_like(first, others, path)
            is_shared = distinct_values(arm, path) == [setting_value(first, path)]
            is_set = setting_value(first, path) is not None
            if is_set and is_shared and len(same_setting) < len(fewest):
                best_path = path
                fewest = same_setting
        if not best_path:
            break
        value = setting_value(first, best_path)
        words.append(f"{short_name(best_path)} {setting_text(value)}")
        others = fewest
    return ", ".join(words)


def _runs_like(
    run: Run,
    others: Sequence[Run],
    path: str,
) -> list[Run]:
    """The runs that have the same value for a setting."""
    value = setting_value(run, path)
    return [other for other in others if setting_value(other, path) == value]
