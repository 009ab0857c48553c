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
        cells = [setting_text(_plain(of_run.get(path))) for path in differing] or ["1"]
        table.add_row(*map(Text, cells), *_result_cells(each))
    return table


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
    ratio = None if measured.ceiling is None else measured.learning_rate / measured.ceiling
    reason = expected.reasons[0].text if expected.reasons else NOTHING
    probability = expected.probability
    colour = "green" if probability >= SURE else "red" if probability <= 1 - SURE else "yellow"
    return [
        Text(format_number(probability, 2), style=colour),
        Text(format_number(factor_per_layer(measured))),
        Text(format_ratio(log10_ratio(measured))),
        Text(format_number(ratio, 2)),
        Text(reason),
    ]


def preflight_object(config: Config, expected: Preflight) -> dict[str, Any]:
    """What is expected of a run as a JSON object with stable keys.

    Args:
        config: the run.
        expected: what is expected of it.
    """
    return {"settings": flatten(config), **expected.to_json()}
