"""Which settings differ between runs, what they are called, and in which order they come."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from research.config.naming import NOT_IN_RUN_NAME, given_values
from research.config.schema import Config, flatten, options_with, selector_of, setting_paths
from research.config.validation import choices_of
from research.config.wording import pluralize
from research.records.runs import Run, natural_order

DEFAULTS = flatten(Config())
SEED = "seed"
# Groups and settings that say what is recorded, not what is trained.
RECORDING = ("measure", "watch", "train.eval_every")
RUN = "run"  # stands for the name of a run that has no settings
WRITTEN_BY_MONITOR = ("watch", "tracker")
# Settings with the same number of values: the first of these is the more informative one.
PREFERRED = ("model.depth", "init.sigma_w", "optimizer.learning_rate", "model.width")
# What a figure says of runs that agree in it.
FIXED = ("data.name", "activation.kind", "model.depth")
LENGTHS = ("train.steps", "train.epochs")
MAX_WRITTEN = 4  # further settings that a figure names
# The last words of several settings, which need their group to be understood.
NAMES = (".kind", ".name")  # a group's first setting, on which its others depend
AMBIGUOUS = ("kind", "level", "every")
SYMBOLS = {"init.sigma_w": "σ_w", "init.sigma_b": "σ_b"}
MAX_DIGITS = 6  # of a number; longer ones are rounded
LEAST_SHARE = 0.3  # of an equal share, which each value of a balanced setting has at least


Order = tuple[int, float, list[Any]]  # a sort key


def setting_value(run: Run, path: str) -> Any:
    """A setting's value; None where the run's options do not have it.

    ``run`` is the name of a run of a loop that has no settings.
    """
    if path == RUN and has_no_settings(run):
        return f"{run.directory.absolute().parent.name}/{run.directory.name}"
    if path in run.config:
        return _freeze(run.config[path])
    return _freeze(_default_of_earlier_version(run, path))


def _default_of_earlier_version(run: Run, path: str) -> Any:
    """The default of a setting that was added after a run was recorded.

    None where there is no such setting, where the run's settings are not Fathom's, and where the
    option that the run has is none of those with the setting, as of ``optimizer.momentum`` Adam.
    """
    if run.is_watched:
        return None
    group = path.partition(".")[0]
    option = run.config.get(f"{group}.{selector_of(group)}")
    options = options_with(path)
    if option is not None and options and option not in options:
        return None
    return DEFAULTS.get(path)


def has_no_settings(run: Run) -> bool:
    """Whether ``fathom.Monitor`` recorded a run without ``settings``."""
    groups = {path.split(".")[0] for path in run.config}
    return run.is_watched and groups <= set(WRITTEN_BY_MONITOR)


def _freeze(value: Any) -> Any:
    """A value that can be an element of a set: lists become tuples."""
    if isinstance(value, list):
        return tuple(map(_freeze, value))
    return value


def values_of(
    run: Run,
    paths: Sequence[str],
) -> tuple[Any, ...]:
    """The values of several settings."""
    return tuple(setting_value(run, path) for path in paths)


def values_order(
    paths: Sequence[str],
    values: Sequence[Any],
) -> list[Any]:
    """The sort key of the values of several settings."""
    key = []
    for path, value in zip(paths, values, strict=True):
        key.append(value_order(path, value))
    return key


def setting_text(value: Any) -> str:
    """A setting's value as it is shown; a dash for null."""
    if value is None:
        return "–"
    text = str(value)
    if isinstance(value, tuple):
        words = ", ".join(map(str, value))
        return f"[{words}]"
    is_long = len(text) > MAX_DIGITS
    if is_long and isinstance(value, float):
        return f"{value:.4g}"
    return text


def setting_order(run: Run, path: str) -> Order:
    """A sort key: numbers by value, then text in natural order, then runs without the setting.

    The names of options are in the order in which they are declared.
    """
    return value_order(path, setting_value(run, path))


def value_order(path: str, value: Any) -> Order:
    """The sort key of one value of a setting; see ``setting_order``."""
    if value is None:
        return (2, 0.0, [])
    if isinstance(value, int | float):
        return (0, float(value), [])
    names = []
    if path in setting_paths():
        names = choices_of(path)
    position = len(names)
    if value in names:
        position = names.index(value)
    words = natural_order(str(value))
    return (1, float(position), words)


def distinct_values(runs: Iterable[Run], path: str) -> list[Any]:
    """The values that the runs have for a setting, in order, each once."""
    values = {setting_value(run, path) for run in runs}
    return sorted(values, key=lambda value: value_order(path, value))


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The paths of settings that differ between the runs, those with the fewest values first."""
    num_values = {}
    for path in _all_paths(runs):
        group = path.split(".")[0]
        values = {setting_value(run, path) for run in runs}
        if len(values) > 1 and group not in NOT_IN_RUN_NAME:
            num_values[path] = len(values)
    return sorted(num_values, key=lambda path: (num_values[path], path))


def listed_settings(runs: Sequence[Run]) -> list[str]:
    """``differing_settings`` for a list of runs in which other training loops may be, too.

    Of the settings that only Fathom's runs have, or only those of other loops, these are the ones
    that differ between the runs that have them.
    """
    watched = [run for run in runs if run.is_watched]
    trained = [run for run in runs if not run.is_watched]
    differing = differing_settings(runs)
    if not watched or not trained:
        return differing
    listed = {*differing_settings(watched), *differing_settings(trained)}
    for path in differing:
        if all(path in run.config for run in runs):
            listed.add(path)
    return [path for path in differing if path in listed]


def _all_paths(runs: Sequence[Run]) -> set[str]:
    paths = set()
    for run in runs:
        paths |= run.config.keys()
    return paths


def varied_settings(runs: Sequence[Run], *, has_determined: bool = False) -> list[str]:
    """The settings that distinguish the runs, apart from the seed; the most informative first.

    A setting that follows from those before it, such as the momentum of an optimizer, is left out.
    Balanced settings, of which each value has a fair share of the runs, come before others; names
    of options before numbers; few values before many. Runs that have no settings differ in ``run``.

    Args:
        runs: the runs.
        has_determined: whether settings that follow from others are among them.
    """
    candidates = []
    for path in differing_settings(runs):
        if path != SEED:
            candidates.append(path)

    def priority(path: str) -> tuple[Any, ...]:
        rank = len(PREFERRED)
        if path in PREFERRED:
            rank = PREFERRED.index(path)
        return (
            is_recording(path),
            not is_balanced(runs, path),
            is_numeric(runs, path),
            len(distinct_values(runs, path)),
            not path.endswith(NAMES),
            rank,
            path,
        )

    candidates.sort(key=priority)
    if len(distinct_values(runs, RUN)) > 1:
        # Nothing is known of them, so they may differ in everything.
        num_trained = sum(not is_recording(path) for path in candidates)
        candidates.insert(num_trained, RUN)
    if has_determined:
        return candidates
    return independent_settings(runs, candidates)


def is_balanced(runs: Sequence[Run], path: str) -> bool:
    """Whether each value of a setting has a fair share of the runs."""
    counts = Counter(setting_value(run, path) for run in runs)
    fair_share = len(runs) / len(counts)
    return min(counts.values()) >= LEAST_SHARE * fair_share


def independent_settings(
    runs: Sequence[Run],
    paths: Sequence[str],
    given: Sequence[str] = (),
) -> list[str]:
    """The settings of ``paths`` that do not follow from ``given`` and from those before them.

    Args:
        runs: the runs.
        paths: settings in order.
        given: settings that distinguish the runs already.
    """
    chosen = list(given)
    kept = []
    for path in paths:
        if path in chosen or _is_determined(runs, path, chosen):
            continue
        chosen.append(path)
        kept.append(path)
    return kept


def _is_determined(
    runs: Sequence[Run],
    path: str,
    chosen: Sequence[str],
) -> bool:
    """Whether runs that agree in ``chosen`` agree in ``path`` as well."""
    value_of: dict[tuple[Any, ...], Any] = {}
    for run in runs:
        key = values_of(run, chosen)
        value = setting_value(run, path)
        if value_of.setdefault(key, value) != value:
            return False
    return True


def is_recording(path: str) -> bool:
    """Whether a setting says what is recorded and changes no number of the training."""
    return path.split(".")[0] in RECORDING or path in RECORDING


def is_numeric(runs: Iterable[Run], path: str) -> bool:
    """Whether a setting has numbers in all runs that have it, and in at least one."""
    is_found = False
    for run in runs:
        value = setting_value(run, path)
        if value is None:
            continue
        if not is_number(value):
            return False
        is_found = True
    return is_found


def is_number(value: Any) -> bool:
    """Whether a value is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short_name(path: str) -> str:
    """``model.depth`` → ``depth``, ``skip.kind`` → ``skip``, ``data.name`` → ``data``."""
    if path in SYMBOLS:
        return SYMBOLS[path]
    group_or_setting = path.removesuffix(".kind").removesuffix(".name")
    name = group_or_setting.rpartition(".")[2].replace("_", " ")
    return path if name in AMBIGUOUS else name


def named_value(path: str, value: Any) -> str:
    """``tanh``, but ``bias False`` and ``learning rate 0.1``: names speak for themselves."""
    if value is None:
        return f"no {short_name(path)}"
    if isinstance(value, str) and value != "none":
        return value
    return f"{short_name(path)} {setting_text(value)}"


def fixed_in_words(runs: Sequence[Run]) -> str:
    """What all runs have in common, such as ``fashion_mnist, tanh, depth 64, 300 steps``.

    These are the data, the activation, the depth and the length of the training, and a few settings
    that were written for every run and are not the default. It is empty for runs that have none.
    """
    parts = []
    written = [path for path in _written_for_all(runs) if path not in (*FIXED, *LENGTHS)]
    for path in [*FIXED, *written[:MAX_WRITTEN]]:
        values = distinct_values(runs, path)
        if len(values) == 1 and values[0] is not None:
            parts.append(named_value(path, values[0]))
    length = length_in_words(runs)
    if length:
        parts.append(length)
    return ", ".join(parts)


def length_in_words(runs: Iterable[Run]) -> str:
    """``300 steps`` if all runs that ended well have as many; else empty."""
    recorded = [run.info.get("steps") for run in runs if run.status == "done"]
    lengths = {steps for steps in recorded if steps is not None}
    if len(lengths) != 1:
        return ""
    (steps,) = lengths
    return pluralize(steps, "step")


def _written_for_all(runs: Sequence[Run]) -> list[str]:
    """The settings that were written for every run, without those of the record and the data."""
    first, *others = [given_values(run.overrides) for run in runs]
    paths = []
    for word in first:
        path = word if word in DEFAULTS else f"{word}.kind"
        is_shared = all(word in other for other in others)
        is_hidden = is_recording(path) or path == SEED or path.startswith("data.")
        if not is_shared or is_hidden or path not in DEFAULTS:
            continue
        if distinct_values(runs, path) != [DEFAULTS[path]]:
            paths.append(path)
    return paths
