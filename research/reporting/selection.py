"""Selects recorded runs by the words of a command line, such as ``skip=none model.depth>30``."""

import functools
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from research.config.arguments import naming_option
from research.config.schema import iter_declared, setting_paths
from research.config.suggestions import SETTING_SYNONYMS, format_suggestion
from research.config.system_errors import describe_in_way
from research.config.validation import choices_of
from research.config.yaml_files import parse_yaml
from research.diagnosis.findings import HEALTHY, KINDS
from research.gauges.table import METRICS
from research.records.run_info import DamagedRecord, DamagedTable
from research.records.runs import STATUSES, Run, find_runs

ROOT = Path("outputs")
NAMED_RUNS = 4  # how many runs an error message lists
LAST = "last"
FILTER = re.compile(r"\s*([\w.]+)\s*(!=|>=|<=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
SIGNS = re.compile(r"[=<>]")
NEXT_SETTING = re.compile(r",(?=[\w.]+=)")  # in the name of a run, such as depth=4,skip=none
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
Result = TypeVar("Result")
FINAL_METRICS = tuple(metric.name for metric in METRICS if metric.is_final)
RESULTS = ("status", "verdict", "steps", *FINAL_METRICS)
SYNONYMS: Mapping[str, str] = {  # names of settings and results; other words for them
    **SETTING_SYNONYMS,
    "train_loss": "loss training_loss loss_train",
    "eval_loss": "val_loss test_loss valid_loss validation_loss loss_eval",
    "train_accuracy": "train_acc acc_train",
    "eval_accuracy": "accuracy acc val_acc val_accuracy test_acc test_accuracy eval_acc top1",
    "status": "state",
    "verdict": "finding kind diagnosis health",
}


@dataclass(frozen=True)
class Filter:
    """A condition on a setting or a result.

    Attributes:
        path: the dotted path of the setting, or one of ``RESULTS``.
        comparison: ``=``, ``!=``, or one of ``COMPARISONS``.
        value: what is compared with; several values are separated by commas.
    """

    path: str
    comparison: str
    value: str

    def matches(self, run: Run) -> bool:
        """Whether a run fulfils the condition."""
        value = _value_of(run, self.path)
        if self.comparison in COMPARISONS:
            compare = COMPARISONS[self.comparison]
            return _is_number(value) and compare(float(value), float(self.value))
        is_equal = any(_equals(value, text) for text in _split_values(self.value))
        return is_equal == (self.comparison == "=")


def leave_out_damaged(runs: Iterable[Run]) -> list[Run]:
    """The runs whose record can be read. A line on standard error names the file of each other."""
    return RecordCheck()(runs)


class RecordCheck:
    """``leave_out_damaged`` for a command that looks for runs several times: each line once."""

    def __init__(self):
        self._reported: set[str] = set()

    def __call__(self, runs: Iterable[Run]) -> list[Run]:
        """The runs whose record can be read."""
        readable = []
        for run in runs:
            try:
                run.check()
            except DamagedRecord as error:
                self._report(str(error))
            else:
                readable.append(run)
        return readable

    def _report(self, fault: str) -> None:
        if fault not in self._reported:
            self._reported.add(fault)
            print(f"fathom: left out: {fault}", file=sys.stderr)


def without_damaged_tables(
    use: Callable[..., Result],
    *groups: Sequence[Run],
) -> Result:
    """What a function makes of groups of runs, without the runs of which it cannot read a table.

    A line on standard error names the table of each run that is left out.

    Args:
        use: is called with the groups, and again without those runs.
        *groups: the runs.

    Raises:
        DamagedTable: no run of a group is left.
    """
    readable = [list(runs) for runs in groups]
    while True:
        try:
            return use(*readable)
        except DamagedTable as error:
            found = error
        rest = []
        for runs in readable:
            rest.append([run for run in runs if not run.find_damage(found.table)])
        if not all(rest) or rest == readable:
            raise found
        for runs in readable:
            report_damaged(runs, found.table)
        readable = rest


def report_damaged(runs: Iterable[Run], table: str) -> None:
    """Names the runs of which a table is left out, because it is damaged, on standard error."""
    for run in runs:
        damage = run.find_damage(table)
        if damage:
            print(f"fathom: left out: {damage}", file=sys.stderr)


def is_condition(word: str) -> bool:
    """Whether a word is a condition or ``last``, and not a name or a part of one.

    >>> is_condition("skip=none,identity"), is_condition("depth=4,skip=none")
    (True, False)
    """
    if word == LAST:
        return True
    return bool(FILTER.fullmatch(word)) and not NEXT_SETTING.search(word)


def describe_no_runs(root: Path) -> str:
    """Why no run was found in a folder: none of them can be read, or there is none."""
    if _is_in_way(root):
        return describe_in_way(root.absolute())
    if find_runs(root):
        return f"no run under {root.absolute()} can be read"
    return f"there are no runs under {root.absolute()}; fathom train makes one"


def _is_in_way(root: Path) -> bool:
    """Whether something else than a folder stands where the folder of runs should be."""
    return os.path.lexists(root) and not root.is_dir()


def select_runs(words: Sequence[str], root: Path = ROOT) -> list[Run]:
    """The runs under ``root`` that match every word.

    A word is a condition such as ``skip=none,identity``, ``model.depth>30`` or ``status!=done``, or
    a part of the path of a run, or ``last`` for the newest of the runs that match the others.

    Args:
        words: the conditions.
        root: the folder that is searched.

    Raises:
        ValueError: there are no runs, none can be read, none matches, or a condition cannot be
            understood.
    """
    readable = RecordCheck()
    found = _runs_by_path(words, root)
    if words and len(found) == 1:
        found[0].check()
    runs = readable(found)
    if words and found and not runs:
        text = " ".join(words)
        raise ValueError(f"no run under {root.absolute()} whose path fits {text} can be read")
    runs = runs or readable(find_runs(root))
    if not runs:
        raise ValueError(describe_no_runs(root))
    return match_runs(runs, words, root)


def _runs_by_path(words: Sequence[str], root: Path) -> list[Run]:
    """The runs whose path has every word that is no condition. Their records are not read."""
    runs = find_runs(root)
    for part in words:
        if is_condition(part):
            continue
        has_part = _make_path_matcher(part, runs)
        runs = [run for run in runs if has_part(run)]
    return runs


def _make_path_matcher(part: str, runs: Sequence[Run]) -> Callable[[Run], bool]:
    """The function that says whether a word stands in the path of a run.

    Where it is the name of a folder, such as that of a sweep, it stands for that folder alone, and
    not for others whose names it is a part of.
    """
    is_in_folder = _make_folder_matcher(part, runs)
    if is_in_folder is not None:
        return is_in_folder

    def is_below(run: Run) -> bool:
        return part in run.directory.parts

    def has_part(run: Run) -> bool:
        return part in _path_without_setting_names(run)

    if not part.strip("./"):  # a folder that holds more than runs
        return is_below
    return is_below if any(map(is_below, runs)) else has_part


def _make_folder_matcher(word: str, runs: Sequence[Run]) -> Callable[[Run], bool] | None:
    """The function that says whether a run is in the folder that a word names, however written.

    None where the word is no folder with runs, such as ``./outputs/depth/`` or an absolute path.
    """
    folder = os.path.abspath(word)
    if not word.strip("./") or not os.path.isdir(folder):
        return None

    def is_in_folder(run: Run) -> bool:
        return f"{os.path.abspath(run.directory)}/".startswith(f"{folder}/")

    return is_in_folder if any(map(is_in_folder, runs)) else None


def match_runs(
    runs: Sequence[Run],
    words: Sequence[str],
    root: Path = ROOT,
) -> list[Run]:
    """Those of ``runs`` that match every word.

    Args:
        runs: at least one.
        words: the conditions; see ``select_runs``.
        root: the folder that a message names.

    Raises:
        ValueError: none matches, or a condition cannot be understood.
    """
    matching = list(runs)
    for word in words:
        if word != LAST:
            matches = _make_matcher(word, runs)
            matching = [run for run in matching if matches(run)]
    if not matching:
        text = " ".join(words)
        place = root.absolute()
        fault = f"none of the {len(runs)} runs under {place} fits {text}"
        if len(runs) == 1:
            fault = f"the only run under {place} does not fit {text}"
        hint = _filter_hint(words, runs[0]) or _hint_at_each(words, runs)
        raise ValueError(f"{fault}{hint or _nearest_folder(words, runs)}")
    return _newest(matching) if LAST in words else matching


def find_named_runs(words: Sequence[str]) -> list[Run]:
    """The runs that ``fathom show`` prints: those that the words name, or the one that fits them.

    Raises:
        ValueError: no run or several runs fit the words.
    """
    named = [_run_in(word) for word in words]
    if all(named):
        return [run for run in named if run is not None]
    try:
        matching = _select_by_name(words)
    except ValueError:
        if len(words) > 1:
            _check_each_name(words)
        raise
    if len(matching) == 1:
        return matching
    paths = [str(_relative_path(run)) for run in matching]
    names = ", ".join(paths[:NAMED_RUNS])
    more = " …" if len(matching) > NAMED_RUNS else ""
    raise ValueError(
        f"{' '.join(words)} fits {len(matching)} runs: {names}{more}; "
        f"add a filter, or {LAST} for the newest"
    )


def _check_each_name(words: Sequence[str]) -> None:
    """Checks that each of several names alone, which together fit no run, fits one.

    Raises:
        ValueError: naming the first that does not.
    """
    if not any(map(is_condition, words)):
        for word in words:
            find_named_runs([word])


def _run_in(word: str) -> Run | None:
    """The run that a word names by its directory, or that is the only one of a study."""
    for directory in (Path(word), ROOT / word):
        if (directory / "run.json").exists():
            return Run(directory)
        if word.strip("./") and directory.is_dir():
            runs = find_runs(directory)
            if len(runs) == 1:
                return runs[0]
    return None


def _select_by_name(
    words: Sequence[str],
    readable: Callable[[Iterable[Run]], list[Run]] = leave_out_damaged,
) -> list[Run]:
    """The runs that match every word, which may also be a part of a run's path as it is.

    Args:
        words: the conditions.
        readable: leaves out the runs that cannot be read.

    Raises:
        ValueError: there is none, or a condition cannot be understood.
    """
    found = find_runs(ROOT)
    runs = readable(found)
    if not runs:
        raise ValueError(describe_no_runs(ROOT))
    matching = runs
    for word in words:
        if word != LAST:
            matches = _make_name_matcher(word, runs)
            matching = [run for run in matching if matches(run)]
    if not matching:
        hint = _nearest_folder(words, runs)
        raise ValueError(f"there is no run {' '.join(words)} under {ROOT.absolute()}{hint}")
    return _newest(matching) if LAST in words else matching


def _make_name_matcher(word: str, runs: Sequence[Run]) -> Callable[[Run], bool]:
    """As ``_make_matcher``, but a word may also be a part of a run's path as it is.

    Raises:
        ValueError: the word is no part of a path, and no condition that can be understood.
    """
    is_in_folder = _make_folder_matcher(word, runs)
    if is_in_folder is not None:
        return is_in_folder
    part = word.removeprefix("./").removeprefix(f"{ROOT}/").rstrip("/")

    def is_name(run: Run) -> bool:
        return part in (str(_relative_path(run)), run.directory.name)

    def has_part(run: Run) -> bool:
        return bool(part.strip(".")) and part in str(_relative_path(run))

    if not is_condition(part) and any(map(is_name, runs)):
        return is_name
    try:
        matches = _make_matcher(part, runs)
    except ValueError:
        if "/" in part or any(map(has_part, runs)):
            return has_part
        raise
    is_part = not is_condition(part) and not any(map(matches, runs))
    return has_part if is_part else matches


def _newest(runs: Sequence[Run]) -> list[Run]:
    return [max(runs, key=operator.attrgetter("start_time"))]


def _relative_path(run: Run) -> Path:
    return run.directory.relative_to(ROOT)


def _make_matcher(word: str, runs: Sequence[Run]) -> Callable[[Run], bool]:
    """The function that says whether a run matches a word.

    Raises:
        ValueError: the word is a condition on a setting that does not exist, or that compares with
            something else than a number.
    """
    parts = FILTER.fullmatch(word)
    if not parts or not is_condition(word):
        matches = _make_path_matcher(word, runs)
        if SIGNS.search(word) and not any(map(matches, runs)):
            raise ValueError(_describe_no_filter(word))
        return matches
    path, comparison, value = parts.groups()
    comparison = "=" if comparison == "==" else comparison
    if comparison == "=" and value.startswith(("<", ">")):
        raise ValueError(f"{word} compares with {value[0]}=: write {path}{value[0]}={value[1:]}")
    known = list(dict.fromkeys(_known_paths(runs)))
    condition = Filter(_full_path(path, known), comparison, value)
    if comparison in COMPARISONS and not _is_number(_parse_number(value)):
        raise ValueError(f"{word} must compare with a number, got {value or 'nothing'}")
    if comparison not in COMPARISONS:
        _check_values(condition, runs)
        return condition.matches
    names = _known_names(condition.path)
    if names:
        hint = format_suggestion(path, RESULTS, SYNONYMS)
        raise ValueError(f"{word} must compare numbers, got one of {', '.join(names)}{hint}")
    return condition.matches


def _describe_no_filter(word: str) -> str:
    """The line for a word that looks like a condition and is none."""
    plain = word.lstrip("~+-!/ ")
    others = [plain]
    if NEXT_SETTING.search(plain):
        filters = " ".join(NEXT_SETTING.split(plain))
        return f"{word} is no run and no filter; did you mean the filters {filters}?"
    if word.startswith(("~", "!", "-")) and "!=" not in plain:
        others = [plain.replace("=", "!=", 1)]
    hints = [other for other in others if FILTER.fullmatch(other)]
    hint = f"; did you mean {hints[0]}?" if hints else ""
    return f"{word} is no filter such as skip=none, seed!=0 or model.depth>30{hint}"


def _check_values(condition: Filter, runs: Iterable[Run]) -> None:
    """Raises ValueError for a value that no run has and that the setting or result cannot have.

    Values that some run has are right, such as names of earlier versions.
    """
    known = _known_names(condition.path)
    is_number = condition.path in _settings_of_numbers()
    if not known and not is_number:
        return
    recorded = [_value_of(run, condition.path) for run in runs]
    for text in _split_values(condition.value):
        if text in known or any(_equals(value, text) for value in recorded):
            continue
        if is_number:
            if _parse_number(text) is None and text != "null":
                raise ValueError(
                    f"{condition.path} must be compared with numbers between commas, as in "
                    f"seed=0,1, got {condition.value or 'an empty value'}"
                )
            continue
        short = condition.path.removesuffix(".kind").removesuffix(".name")
        raise ValueError(
            f"{short} must be compared with {', '.join(known)}, got {text or 'an empty value'}"
            f"{format_suggestion(text, known)}"
        )


@functools.cache
def _settings_of_numbers() -> frozenset[str]:
    """The paths of settings that are numbers, or null."""
    paths = set()
    others = set()
    for item in iter_declared():
        is_number = item.field.type in (int, float, int | None, float | None)
        group = paths if is_number else others
        group.add(item.path)
    return frozenset(paths - others)


def _known_names(path: str) -> list[str]:
    """The names that a setting or result can have; none where it has other values."""
    if path == "status":
        return list(STATUSES)
    if path == "verdict":
        return [HEALTHY, *(kind.name for kind in KINDS)]
    return choices_of(path) if path in setting_paths() else []


def _known_paths(runs: Iterable[Run]) -> Iterable[str]:
    yield from RESULTS
    yield from setting_paths()
    for run in runs:  # also settings of earlier versions
        yield from run.config


def find_setting(
    word: str,
    runs: Sequence[Run],
    option: str = "",
) -> str:
    """The path of the setting that a word names: ``depth`` → ``model.depth``.

    Args:
        word: a path, a group, or the last word of a path.
        runs: the runs, which may have settings of earlier versions or of a user's own loop.
        option: the option that the word is the value of, for the message; empty for none.

    Raises:
        ValueError: there is no such setting, or there are several; the message has the nearest.
    """
    known = [path for path in dict.fromkeys(_known_paths(runs)) if path not in RESULTS]
    with naming_option(option):
        return _full_path(word, known)


def find_runs_of(
    word: str,
    readable: Callable[[Iterable[Run]], list[Run]] = leave_out_damaged,
) -> list[Run]:
    """The runs that one word names: a directory, a study, a part of a name, or filters.

    Args:
        word: filters are separated by blanks, as in ``"skip=none depth=64"``.
        readable: leaves out the runs that cannot be read.

    Raises:
        ValueError: no run fits, or a condition cannot be understood.
    """
    run = _run_in(word)
    if run is not None:
        run.check()
        return [run]
    for directory in (Path(word), ROOT / word):
        if word.strip("./") and directory.is_dir():
            runs = readable(find_runs(directory))
            if runs:
                return runs
    return _select_by_name(word.split(), readable)


def _full_path(word: str, known: Sequence[str]) -> str:
    """The path that a word stands for: itself, its group, or the only setting with this name.

    Raises:
        ValueError: there is no such setting, or there are several.
    """
    for name in (word, f"{word}.kind", f"{word}.name"):
        if name in known:
            return name
    namesakes = [path for path in known if path.rpartition(".")[2] == word]
    if len(namesakes) == 1:
        return namesakes[0]
    if namesakes:
        raise ValueError(f"{word} is the name of several settings: {', '.join(namesakes)}")
    groups = [path.split(".")[0] for path in known]
    last_words = [path.rpartition(".")[2] for path in known]
    unique_words = [last for last in last_words if last_words.count(last) == 1]
    hint = format_suggestion(word, [*known, *groups, *unique_words], SYNONYMS)
    raise ValueError(f"{word} is not a setting{hint}")


def _value_of(run: Run, path: str) -> Any:
    """A setting or a result of a run; None where it has none."""
    info = run.info
    if path == "status":
        return run.status
    if path == "verdict":
        return (info.get("verdict") or {}).get("kind")
    if path == "steps":
        return run.num_steps
    if path in FINAL_METRICS:
        return (info.get("final") or {}).get(path)
    return run.config.get(path)


def _path_without_setting_names(run: Run) -> str:
    """``outputs/grid/64,none`` for ``outputs/grid/model.depth=64,skip=none``.

    All runs of a sweep have the same setting names in their path, so a search finds values only.
    """
    values = re.sub(r"(^|,)[\w.]+=", r"\1", run.directory.name)
    return str(run.directory.with_name(values))


def _split_values(text: str) -> list[str]:
    """The values between commas; commas in brackets do not separate."""
    return re.split(r",(?![^\[]*\])", text)


def _equals(setting: Any, text: str) -> bool:
    """Whether ``text`` is a way to write a setting's value, such as 1e-2 for 0.01."""
    if str(setting) == text or setting == _parse_yaml(text):
        return True
    if isinstance(setting, list):
        return text in map(str, setting)
    if isinstance(setting, bool | str | None):
        return False
    try:
        return float(setting) == float(text)
    except (TypeError, ValueError):
        return False


def _parse_yaml(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hint_at_each(words: Sequence[str], runs: Sequence[Run]) -> str:
    """What is said of several words of which each alone fits some run; else empty."""
    for word in words:
        if word != LAST and not any(map(_make_matcher(word, runs), runs)):
            return ""
    return "; each word alone fits some, but a run must fit all of them" if len(words) > 1 else ""


def _nearest_folder(words: Sequence[str], runs: Sequence[Run]) -> str:
    """``; did you mean X?`` where a word is similar to the name of a study or run, else nothing."""
    names: dict[str, None] = {}
    for run in runs:
        for folder in (run.directory, run.directory.parent):
            if folder != ROOT:
                names[folder.name] = None
    paths = [str(_relative_path(run)) for run in runs if run.directory.is_relative_to(ROOT)]
    for word in words:
        if not is_condition(word) and word not in names:
            return format_suggestion(word, paths if "/" in word else names, {})
    return ""


def _filter_hint(words: Sequence[str], run: Run) -> str:
    """What was meant by words that fit no run; empty if that is not known.

    A setting may be given without a value, or twice where either of the values is wanted.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        path, sign, value = word.partition("=")
        if sign and FILTER.fullmatch(word):
            values.setdefault(path, []).append(value)
    for path, given in values.items():
        if len(given) > 1:
            return f"; {path}={','.join(given)} fits runs with either"
    for path in run.config:
        short = path.removesuffix(".kind").removesuffix(".name")
        last_word = short.rpartition(".")[2]
        for word in (path, short, last_word):
            if word in words:
                return f"; {word} is a setting: {short}=VALUE"
    return ""
