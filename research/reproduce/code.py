"""The code of an experiment: ``claims.py`` and ``figure.py``, checked first and called later."""

import ast
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from research.config.packages import describe_missing_package
from research.config.resources import resource_dir
from research.config.schema import setting_paths
from research.config.suggestions import format_suggestion
from research.gauges.table import METRICS
from research.records.runs import Run
from research.reproduce.experiments import load_module, source_folder

PARTS = ("claims", "figure")  # the files, and the function that each of them defines


def check_code(key: str) -> None:
    """Checks the code of an experiment without executing it, so that no run is trained in vain.

    Raises:
        ValueError: a file or its function is missing, it has a syntax error, or it imports a
            package that is not installed. The message names the file and the line.
    """
    for part in PARTS:
        _check_part(source_folder(key) / f"{part}.py", part)


def call_code(key: str, part: str, runs: Sequence[Run]) -> Any:
    """Calls the function of a file of an experiment and returns what it returns.

    Args:
        key: the experiment.
        part: the file and its function: ``claims`` or ``figure``.
        runs: the runs of the experiment.

    Raises:
        ValueError: the code raises an exception. The message names the file and the line.
    """
    try:
        return getattr(load_module(key, part), part)(runs)
    except Exception as error:
        place = _find_place(error) or str(_displayed(source_folder(key) / f"{part}.py"))
        raise ValueError(f"{place}: {_describe(error)}") from error


def _check_part(file: Path, function: str) -> None:
    displayed = _displayed(file)
    try:
        source = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{displayed} is missing: an experiment needs its function {function}(runs)"
        ) from None
    try:
        tree = ast.parse(source, str(file))
        compile(tree, str(file), "exec")
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{displayed}{line}: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise ValueError(f"{displayed}: {error}") from error
    names = []
    for statement in tree.body:
        _check_imports(statement, displayed)
        names += _names_bound_by(statement)
    if function not in names and "*" not in names:
        hint = format_suggestion(function, names, synonyms={})
        raise ValueError(f"{displayed} has no function {function}(runs){hint}")


def _check_imports(statement: ast.stmt, displayed: Path) -> None:
    modules = []
    if isinstance(statement, ast.Import):
        modules = [alias.name for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        modules = [statement.module]
    for module in modules:
        package = module.partition(".")[0]
        if find_spec(package) is None:
            missing = describe_missing_package(package)
            raise ValueError(f"{displayed}, line {statement.lineno}: {missing}")


def _names_bound_by(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    names = []
    for node in ast.walk(statement):  # assignments, also those in if and try
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.FunctionDef):
            names.append(node.name)
    return names


def _find_place(error: Exception) -> str:
    """The last line of experiments that led to an exception; empty if there is none."""
    folder = resource_dir("experiments")
    if isinstance(error, SyntaxError) and error.filename:  # in a module that is imported
        return f"{_displayed(Path(error.filename))}, line {error.lineno}"
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(folder):
            place = f"{_displayed(Path(frame.filename))}, line {frame.lineno}"
    return place


def _displayed(file: Path) -> Path:
    """A file as it is shown: from the working directory, if it is below it."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


def _describe(error: Exception) -> str:
    """An exception in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return describe_missing_package(error.name)
    if isinstance(error, SyntaxError):
        return error.msg
    message = str(error).strip().split("\n")[0]
    if isinstance(error, KeyError):
        name = str(error.args[0]) if error.args else ""
        known = [*setting_paths(), *(metric.name for metric in METRICS)]
        message = f"there is no {name}{format_suggestion(name, known, synonyms={})}"
    if isinstance(error, ValueError) and message:
        return message
    return f"{type(error).__name__}: {message}".removesuffix(": ")
