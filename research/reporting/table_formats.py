"""A summary table as text, Markdown, LaTeX, CSV or JSON."""

import csv
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from research.reporting.aggregation import Summary, format_mean, seeds_in_words
from research.reporting.json_output import json_value
from research.reporting.quantities import Quantity
from research.reporting.summary_table import Row, SummaryTable

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
# What pdfLaTeX has no glyph for in its usual fonts, in the texts that tables hold.
LATEX_SYMBOLS = {
    "–": "--",
    "σ": r"$\sigma$",
    "∂": r"$\partial$",
    "‖": r"$\Vert$",
    "²": r"$^2$",
    "₁": r"$_1$",
    "₀": r"$_0$",
    "±": r"$\pm$",
}


def cell_text(summary: Summary | None, quantity: Quantity) -> str:
    """A cell as text: the mean, its interval, and how many seeds it has where some are missing."""
    if summary is None:
        return ""
    mean = format_mean(summary, is_factor=quantity.is_factor)
    return f"{mean} {seeds_in_words(summary)}".rstrip()


def terminal_table(table: SummaryTable) -> Table:
    """The table for a terminal; the best mean of a column is bold and has a star."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in table.row_headings:
        shown.add_column(heading, overflow="fold")
    for column in table.columns:
        shown.add_column(column.heading, justify="right", no_wrap=True)
    for row in table.rows:
        cells = [Text(text) for text in table.row_texts(row)]
        for column, summary, is_best in zip(table.columns, row.cells, row.best, strict=True):
            text = cell_text(summary, column.quantity)
            cells.append(Text(f"{text} *", "bold") if is_best else Text(f"{text}  "))
        shown.add_row(*cells)
    return shown


def to_markdown(table: SummaryTable) -> str:
    """The table in Markdown, with the title above and the notes below."""
    headings = _headings(table)
    aligned = ["---"] * len(table.row_headings) + ["---:"] * len(table.columns)
    lines = [_markdown_row(headings), f"| {' | '.join(aligned)} |"]
    for row in table.rows:
        cells = table.row_texts(row)
        for text, is_best in zip(_row_cells(table, row), row.best, strict=True):
            cells.append(f"**{text}**" if is_best else text)
        lines.append(_markdown_row(cells))
    before = [table.title, ""] if table.title else []
    after = []
    for note in table.notes:
        after += ["", note.replace("* best", "Bold: best")]
    return "\n".join([*before, *lines, *after]) + "\n"


def _headings(table: SummaryTable) -> list[str]:
    headings = list(table.row_headings)
    for column in table.columns:
        headings.append(column.heading)
    return headings


def _markdown_row(cells: list[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _row_cells(table: SummaryTable, row: Row) -> list[str]:
    cells = []
    for column, summary in zip(table.columns, row.cells, strict=True):
        cells.append(cell_text(summary, column.quantity))
    return cells


def to_latex(table: SummaryTable) -> str:
    """The table in LaTeX, for the package booktabs; title and notes are comments."""
    headings = _headings(table)
    columns = "l" * len(table.row_headings) + "r" * len(table.columns)
    lines = []
    for comment in (table.title, *table.notes):
        if comment:
            lines.append(f"% {comment.replace('* best', 'bold: best')}")
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines.append(_latex_row([latex_text(heading) for heading in headings]))
    lines.append("\\midrule")
    for row in table.rows:
        cells = [latex_text(text) for text in table.row_texts(row)]
        for column, summary, is_best in zip(table.columns, row.cells, row.best, strict=True):
            cells.append(_latex_cell(summary, column.quantity, is_best))
        lines.append(_latex_row(cells))
    lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex_cell(
    summary: Summary | None,
    quantity: Quantity,
    is_best: bool,
) -> str:
    if summary is None:
        return ""
    if not summary.count:
        return f"-- {seeds_in_words(summary)}".rstrip()
    text = format_mean(summary, is_factor=quantity.is_factor)
    formula = _latex_formula(text)
    if is_best:
        formula = f"\\mathbf{{{formula}}}"
    return f"${formula}$ {seeds_in_words(summary)}".rstrip()


def _latex_formula(text: str) -> str:
    """The text of a mean as a formula; powers of ten are written as such."""
    words = []
    for word in text.replace("±", "\\pm").split(" "):
        number, exponent_sign, exponent = word.partition("e")
        if exponent_sign and exponent.lstrip("+-").rstrip(")").isdigit():
            power = exponent.rstrip(")")
            end = exponent[len(power) :]
            word = f"{number} \\times 10^{{{int(power)}}}{end}"
        if word == "to":
            word = "\\text{ to }"  # amsmath
        words.append(word)
    return " ".join(words)


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    escaped = []
    for character in text:
        special = LATEX_SPECIAL.get(character, character)
        escaped.append(LATEX_SYMBOLS.get(character, special))
    return "".join(escaped)


def to_csv(table: SummaryTable) -> str:
    """The table in long form: one line for each cell, with all its numbers unrounded."""
    file = io.StringIO()
    records = cell_records(table)
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        left_out = [f"{count} {reason}" for reason, count in record["left_out"].items()]
        writer.writerow(json_value({**record, "left_out": "; ".join(left_out)}))
    return file.getvalue()


def cell_records(table: SummaryTable) -> list[dict[str, Any]]:
    """One dictionary for each cell: its settings by path, the quantity and its statistics.

    ``left_out`` counts by reason; numbers that do not exist are NaN.
    """
    records = []
    for row in table.rows:
        for column, summary in zip(table.columns, row.cells, strict=True):
            if summary is None:
                continue
            record = dict(zip(table.row_settings, row.values, strict=True))
            if table.column_setting:
                record[table.column_setting] = column.value
            record["quantity"] = column.quantity.name
            record["unit"] = column.quantity.unit_in(table.runs)
            records.append(record | summary_record(summary))
    return records


def summary_record(summary: Summary) -> dict[str, Any]:
    """The numbers of a summary; NaN where there is none."""
    return {
        "mean": summary.mean,
        "low": summary.low,
        "high": summary.high,
        "n": summary.count,
        "seeds": summary.num_seeds,
        "left_out": dict(summary.left_out),
    }


def to_json_object(table: SummaryTable) -> dict[str, Any]:
    """The table as JSON values: what it is made of, and ``cell_records``."""
    return {
        "rows": list(table.row_settings),
        "columns": table.column_setting or None,
        "quantities": list(dict.fromkeys(column.quantity.name for column in table.columns)),
        "level": 0.95,
        "cells": cell_records(table),
    }


def to_html(table: SummaryTable) -> str:
    """The table for a notebook; everything that comes from runs is escaped."""
    headings = _headings(table)
    lines = ["<table>"]
    if table.title:
        lines.append(f"<caption>{html.escape(table.title)}</caption>")
    cells = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines.append(f"<thead><tr>{cells}</tr></thead><tbody>")
    for row in table.rows:
        parts = [f"<td>{html.escape(text)}</td>" for text in table.row_texts(row)]
        for text, is_best in zip(_row_cells(table, row), row.best, strict=True):
            escaped = html.escape(text)
            parts.append(f"<td><b>{escaped}</b></td>" if is_best else f"<td>{escaped}</td>")
        lines.append(f"<tr>{''.join(parts)}</tr>")
    lines.append("</tbody></table>")
    for note in table.notes:
        lines.append(f"<p>{html.escape(note.replace('* best', 'Bold: best'))}</p>")
    return "\n".join(lines)


def page_table(table: SummaryTable) -> dict[str, Any]:
    """The table as a page shows it: its texts, and for each cell whether it is the best one."""
    rows = []
    for row in table.rows:
        texts = table.row_texts(row)
        best = [False] * len(texts) + list(row.best)
        rows.append({"cells": texts + _row_cells(table, row), "best": best})
    notes = [note.replace("* best", "Bold: best") for note in table.notes]
    return {
        "title": table.title,
        "headings": _headings(table),
        "rows": rows,
        "notes": notes,
    }


FORMATS: Mapping[str, Callable[[SummaryTable], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}
