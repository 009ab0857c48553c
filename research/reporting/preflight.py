"""What is expected of runs before they train: the table and the JSON of ``fathom predict``."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from research.config.naming import NOT_IN_RUN_NAME
from research.config.schema import Config, flatten
from research.diagnosis.measurement import factor_per_layer, log10_ratio
from research.diagnosis.preflight import Preflight
from research.reporting.tables import format_number, format_ratio
from research.reporting.varied_settings import setting_text, short_name

SURE = 0.9  # from this probability on, or from 1 minus it down, a prediction is a decision
HEADINGS = ("trains", "per layer", "first/last", "rate/ceiling", "what speaks against it")
NOTHING = "nothing"


def preflight_table(configs: Sequence[Config], expected: Sequence[Preflight]) -> Table:
    """One row for each run: the settings that differ, its probability, and the weightiest reason.

    Args:
        configs: the runs.
        expected: what is expected of each.
    """
    settings = [flatten(config) for config in configs]
    differing = _differing_paths(settings)
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for path in differing or ["run"]:
        table.add_column(short_name(path))
    for heading in HEADINGS[:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(HEADINGS[-1])
    for of_run, each in zip(settings, expected, strict=True):
        cells = _setting_cells(of_run, differing) or [Text("1")]
        cells += _result_cells(each)
        table.add_row(*cells)
    return table


def _setting_cells(settings: dict[str, Any], paths: Sequence[str]) -> list[Text]:
    """A cell with the value of each setting."""
    cells = []
    for path in paths:
        value = _plain(settings.get(path))
        cells.append(Text(setting_text(value)))
    return cells


def _differing_paths(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that differ between runs and matter for training."""
    paths: dict[str, None] = {}
    for of_run in settings:
        paths |= dict.fromkeys(of_run)
    differing = []
    for path in paths:
        group = path.partition(".")[0]
        values = {str(of_run.get(path)) for of_run in settings}
        if len(values) > 1 and group not in NOT_IN_RUN_NAME:
            differing.append(path)
    return differing


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _result_cells(expected: Preflight) -> list[Text]:
    measured = expected.measured
    ratio = None
    if measured.ceiling is not None:
        ratio = measured.learning_rate / measured.ceiling
    reason = NOTHING
    if expected.reasons:
        reason = expected.reasons[0].text
    probability = expected.probability
    return [
        Text(format_number(probability, 2), style=_color_of(probability)),
        Text(format_number(factor_per_layer(measured))),
        Text(format_ratio(log10_ratio(measured))),
        Text(format_number(ratio, 2)),
        Text(reason),
    ]


def _color_of(probability: float) -> str:
    """Green where a run will train, red where it will not, yellow where that is not sure."""
    if probability >= SURE:
        return "green"
    if probability <= 1 - SURE:
        return "red"
    return "yellow"


def preflight_object(config: Config, expected: Preflight) -> dict[str, Any]:
    """What is expected of a run as a JSON object with stable keys.

    Args:
        config: the run.
        expected: what is expected of it.
    """
    return {"settings": flatten(config), **expected.to_json()}
