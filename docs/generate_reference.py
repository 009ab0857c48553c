"""Generates the reference pages from the code while MkDocs builds the site.

MkDocs calls ``on_files`` (see ``hooks`` in ``mkdocs.yml``). The pages of the experiments are added
to the site too, under the paths that they have in the repository.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.cli.help import train_help
from research.cli.parser import COMMANDS, add_commands
from research.config.reference import (
    OptionRow,
    SettingGroup,
    SettingRow,
    format_value,
    options_in_words,
    setting_groups,
)
from research.gauges.table import (
    DIAGNOSTICS,
    EXPONENT_GAUGES,
    GAUGES,
    METRICS,
    Diagnostic,
    Gauge,
    Metric,
)
from research.records.trackers.layers import TRACKED_PROFILES, layers_section

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
API = {
    "Your own runs": [
        "research.interface.runs.load",
        "research.reporting.collection.Runs",
        "research.interface.runs.RecordedRun",
        "research.interface.training.train",
        "research.interface.training.sweep",
        "research.interface.model.TrainedModel",
        "research.reporting.summary_table.SummaryTable",
        "research.reporting.named_array.NamedArray",
        "research.reporting.plots.arrangement.Drawing",
        "research.reporting.comparison.Comparison",
    ],
    "Your own model": [
        "research.watching.watch.watch",
        "research.watching.watch.Watch",
        "research.watching.gauges.Gauges",
        "research.watching.marks.tap",
        "research.watching.monitor.Monitor",
    ],
    "Reading runs": ["research.records.runs.Run", "research.records.runs.find_runs"],
    "Selecting runs and their numbers": ["research.records.queries"],
    "Drawing figures": ["research.reporting.figures", "research.reporting.panels"],
    "Claims of an experiment": ["research.reproduce.claims"],
    "The table of gauges": ["research.gauges.table"],
    "Mean-field theory": ["research.theory.mean_field"],
    "Profiles over depth": ["research.theory.profiles"],
    "Variance of initial weights": ["research.theory.variance"],
    "Optimizers": ["research.theory.update_rules"],
    "Attention with random weights": ["research.theory.attention"],
    "Products of mixing matrices": ["research.theory.streams"],
    "Number formats": ["research.theory.formats"],
}


def on_files(files: "Files", config: Any) -> "Files":
    """Adds the generated pages and the pages of the experiments to the site."""
    from mkdocs.structure.files import File

    for path, content in generate_pages().items():
        files.append(File.generated(config, path, content=content))
    experiments = ROOT / "experiments"
    pages = [experiments / "lessons.md", *experiments.rglob("README.md")]
    for source in [*pages, *experiments.rglob("*.png")]:
        path = source.relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def generate_pages() -> dict[str, str]:
    """The reference pages by their path in the site."""
    return {
        "reference/settings.md": settings_page(),
        "reference/gauges.md": gauges_page(),
        "reference/commands.md": commands_page(),
        "reference/api.md": api_page(),
    }


def settings_page() -> str:
    """Every group with its options and settings."""
    parts = [
        "# Settings",
        "Set a setting with `path=value` on the command line, and choose an option of a group with "
        "`group=option`. `fathom train --help` prints the same lists, and `fathom train --cfg job` "
        "prints the configuration that a command line gives.",
        "A setting exists only for the options that it acts on; the column *options* names them "
        "where not all have it. A **traced** setting is an argument of the compiled program: runs "
        "that differ only in traced settings share one program; where 0 is another program, so do "
        "those without 0. `train.steps=1` is another program, too. The default of some options "
        "differs from the usual one; then it follows in brackets.",
    ]
    for group in setting_groups():
        parts += _group_section(group)
    return _join(parts)


def _group_section(group: SettingGroup) -> list[str]:
    parts = [f"## {group.name or 'General'}"]
    if group.meaning:
        parts.append(group.meaning)
    if group.options:
        rows = [_option_cells(option, group) for option in group.options]
        parts.append(_table(["option", "meaning", "sets"], rows))
    if group.settings:
        rows = [_setting_cells(group, row) for row in group.settings]
        headings = ["setting", "default", "takes", "traced", "options", "meaning"]
        parts.append(_table(headings, rows))
    return parts


def _option_cells(option: OptionRow, group: SettingGroup) -> list[str]:
    is_default = option.name == f"{group.name}={group.default}"
    values = []
    for path, value in option.values.items():
        values.append(f"`{path}={format_value(value)}`")
    name = f"`{option.name}`"
    return [f"{name} (default)" if is_default else name, option.meaning, ", ".join(values)]


def _setting_cells(group: SettingGroup, row: SettingRow) -> list[str]:
    default = f"`{row.default}`"
    if row.other_defaults:
        others = [f"`{value}` with `{option}`" for option, value in row.other_defaults.items()]
        default += f" ({', '.join(others)})"
    meaning = row.meaning
    if row.condition:
        meaning += f" Has an effect only with {row.condition}."
    return [
        f"`{row.path}`",
        default,
        row.valid,
        traced_in_words(row),
        options_in_words(group, row),
        meaning,
    ]


def traced_in_words(row: SettingRow) -> str:
    """Whether runs that differ in a setting share one compiled program."""
    if row.is_switch:
        return "yes; 0 is another program"
    return "yes" if row.is_traced else ""


def gauges_page() -> str:
    """Every quantity that a run records."""
    parts = [
        "# Gauges and metrics",
        "What a run records. [What is measured](../guides/measurements.md) explains the "
        "quantities. N is the number of layers; a list of N entries has one for each layer, a list "
        "of N+1 has one for the input of layer 0 and one for the output of each layer.",
        "## Gauges: `profiles.parquet`",
        "Measured inside the training step: on its batch, with its masks and noise, and before its "
        "update. The column *reduction* says how the values of devices "
        "that share a batch are combined.",
        _table(
            ["gauge", "meaning", "entries", "measure", "where", "reduction", "W&B"],
            [_gauge_cells(gauge) for gauge in GAUGES],
        ),
        "## Exponents: `profiles.parquet` with `measure=full`",
        "Counted every `measure.exponents_every` steps, on the batch of the step and before its "
        "update; gradients times the loss scale. The bins of a histogram are the exponents from "
        "−149 to 127; smaller and larger ones, which only float64 has, count at the ends.",
        _diagnostics_table(EXPONENT_GAUGES),
        "## Diagnostics: `inspections.parquet`",
        "Measured every `measure.inspect_every` steps for the names in `measure.inspect`, of the "
        "weights before the step's update and in float32 or wider. Examples are read as they are "
        "stored, without augmentation, and are fewer where there are fewer; of streamed data they "
        "are those of the step's batch. With `optimizer=gd`, `train.batch_size` stands for all of "
        "them. A training loss has label smoothing, the statistics of its examples in batch norm, "
        "and the masks and noise of the step; weight decay is no part of it. *In evaluation* means "
        "without masks, and with the running statistics of batch norm; signals as the head would "
        "read them are in evaluation, too. D is the "
        "width of the network, H the number of step sizes, K that of examples, T of tokens, A of "
        "coordinates, m of iterations, P of parameters.",
        _diagnostics_table(DIAGNOSTICS),
        "## Metrics: `metrics.parquet`",
        "One row a step. `run.json` has the final value of some: the mean over as many of the last "
        "steps as an epoch has, or the last evaluation. Of a loop that `fathom.Monitor` records, "
        "the mean is over the last tenth of the steps that were logged.",
        _table(
            ["metric", "meaning", "has a value at", "final", "W&B"],
            [_metric_cells(metric) for metric in METRICS],
        ),
    ]
    return _join(parts)


def _metric_cells(metric: Metric) -> list[str]:
    return [
        f"`{metric.name}`",
        metric.meaning,
        metric.source.value,
        "yes" if metric.is_final else "",
        f"`{metric.key}`",
    ]


def _gauge_cells(gauge: Gauge) -> list[str]:
    return [
        f"`{gauge.name}`",
        gauge.meaning,
        f"`{gauge.entries.value}`",
        f"`{gauge.level.name}`",
        gauge.site.value,
        gauge.reduction.value,
        _tracker_keys(gauge.name) if gauge.tracked else "",
    ]


def _tracker_keys(name: str) -> str:
    """The keys of a profile in W&B: the numbers that summarise it, and the pattern of layers."""
    (profile,) = (profile for profile in TRACKED_PROFILES if profile.name == name)
    keys = ", ".join(f"`{number}`" for number in profile.summary)
    layers = f"; `{layers_section(name)}/depth_…`" if profile.has_spread else ""
    return f"`{name}/` {keys}{layers}"


def _diagnostics_table(diagnostics: Iterable[Diagnostic]) -> str:
    rows = []
    for diagnostic in diagnostics:
        name = diagnostic.name
        key = ""
        if diagnostic.tracked:
            key = f"`inspect/{name}`" if diagnostic.is_number else _tracker_keys(name)
        shape = "number" if diagnostic.is_number else f"`{diagnostic.shape}`"
        asked_by = f"`{diagnostic.inspection}`" if diagnostic.inspection else ""
        rows.append([f"`{name}`", diagnostic.meaning, shape, asked_by, key])
    return _table(["column", "meaning", "shape", "measure.inspect", "W&B"], rows)


def commands_page() -> str:
    """The help of every command."""
    rows = []
    for name, command in COMMANDS.items():
        rows.append([f"[`fathom {name}`](#fathom-{name})", command.help])
    parts = [
        "# Commands",
        "`python -m research` is the same as `fathom`. The exit code is 0 for success, 1 where a "
        "run failed or a claim does not hold, and 2 where the request was wrong.",
        _table(["command", "what it does"], rows),
    ]
    parsers = add_commands(argparse.ArgumentParser("fathom"))
    for name, parser in parsers.items():
        text = train_help() if name == "train" else parser.format_help()
        parts += [f"## fathom {name}", f"```text\n{text.strip()}\n```"]
    return _join(parts)


def api_page() -> str:
    """The functions and classes that notebooks and experiments import."""
    parts = [
        "# Python API",
        "What you import in a notebook or in an experiment's `claims.py` and `figure.py`. None of "
        "them imports JAX before a network is trained or loaded.",
    ]
    for heading, names in API.items():
        parts.append(f"## {heading}")
        for name in names:
            parts.append(f"::: {name}")
    return _join(parts)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without columns that are empty in every row."""
    shown = []
    for column in range(len(headings)):
        if any(cells[column] for cells in rows):
            shown.append(column)
    lines = [_row(headings, shown), _row(["---"] * len(headings), shown)]
    for cells in rows:
        lines.append(_row(cells, shown))
    return "\n".join(lines)


def _row(cells: Sequence[str], columns: Iterable[int]) -> str:
    escaped = []
    for column in columns:
        escaped.append(cells[column].replace("|", "\\|"))
    return f"| {' | '.join(escaped)} |"


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"
