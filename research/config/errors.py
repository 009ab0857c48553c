"""Explains a user's mistake in one line: what is wrong, where, what would be valid, and the nearest
name.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from research.config import schema
from research.config.config_files import describe_yaml_error
from research.config.fields import written
from research.config.packages import describe_missing_package, describe_missing_sweeper, is_foreign
from research.config.quoting import is_like_path, quote_override, quote_text
from research.config.resources import resource_dir
from research.config.suggestions import (
    SETTING_SYNONYMS,
    find_nearest,
    format_suggestion,
    is_synonym,
)
from research.config.system_errors import explain_system_error
from research.config.validation import (
    choices_of,
    describe_name_not_valid,
    describe_valid_values,
    suggest_numeric_setting,
)
from research.config.wording import join_words

PATH = r"[+~]*[\w./@-]+"
# Signs that text processors write, and those of the keyboard that they stand for.
PLAIN_SIGNS = str.maketrans("−–—“”„«»‘’\u00a0", '---"""""\'\' ')
EXTRA_GROUPS = ("experiment", "debug")  # groups of ``conf/`` that are no part of a run


class UsageError(SystemExit):
    """The request was wrong, and the message has been printed. ``except Exception`` misses it.

    Attributes:
        message: what was wrong, in one line; empty where that is not known.
    """

    def __init__(self, code: int, message: str = ""):
        super().__init__(code)
        self.message = message


class SweepEnded(Exception):
    """A sweep is over and its table has been shown. Carries the exit code through Hydra."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


def explain(error: BaseException) -> str | None:
    """One line for an error that the user's request caused; None for a defect of Fathom."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _explain_missing_option(cause)
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_bad_value(cause, error)
    if isinstance(error, OverrideParseException):
        return describe_syntax_error(error.override)
    message = _first_line(error)
    several = re.match(r"Ambiguous value for argument '(.*)'", message) or re.match(
        r"Sweep parameters '(.*)' requires --multirun", message
    )
    if several:
        override = several.group(1)
        path, _, value = override.partition("=")
        if path.lstrip("+").startswith("hydra."):
            return (
                f"{path} must have one value, because it acts on all runs of a sweep, got {value}"
                f"{_suggest_one_value(path, value)}"
            )
        if value.startswith("glob(") and path in schema.setting_paths():
            return describe_glob(path, override)
        return describe_several_values(override, "fathom train")
    missing = re.match(
        r"(?:In '(.+)': )?Could not (?:override|delete) .*?'(.+?)'(?:\. No match| does not|$)",
        message,
    )
    if missing:
        file, path = missing.groups()
        if path in schema.setting_paths():
            return f"{path} cannot be deleted; leave it out, and it has its default value"
        return f"{file}: {unknown_setting(path)}" if file else unknown_setting(path)
    if message.startswith("Expected header format"):
        return (
            f"the header of a file must be # @package _global_, got # {message.split(chr(39))[1]}"
        )
    twice = re.match(r"Multiple values for (\S+)\. |.* already at '(\S+)'", message)
    if twice:
        path = twice.group(1) or twice.group(2)
        return f"{path} is set already; write {path}=… without + to change it"
    if isinstance(error, ModuleNotFoundError) and is_foreign(error.name):
        return describe_missing_package(str(error.name))
    if isinstance(error, HydraException | ValueError):
        return message
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}{describe_yaml_error(error)}"
    return explain_system_error(error)


def describe_glob(path: str, word: str) -> str:
    """The line for names that are selected where a setting has none.

    Args:
        path: the setting.
        word: the override as it was written.
    """
    return (
        f"{word} selects named options, which {path} does not have: "
        f"a sweep lists its values, as in fathom train -m {path}=…,…"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, each once: an error that is raised again may lead to itself.

    What was raised ``from None`` says everything itself.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def describe_syntax_error(word: str) -> str:
    """The line for an override that Hydra cannot parse."""
    path, equals, value = word.partition("=")
    if not word.strip():
        return "an empty word is no setting: write setting=value, such as model.depth=8"
    if not equals:
        return f"{word} cannot be parsed: write setting=value{_hint_without_value(word)}"
    plain = word.translate(PLAIN_SIGNS)
    if _is_unquoted_text(path, value):
        return _advise_quotes(path, value)
    if plain != word:
        signs = "".join(sorted({sign for sign in word if ord(sign) in PLAIN_SIGNS}))
        return f"{word} cannot be parsed: {signs} is no sign of settings; did you mean {plain}?"
    if not re.fullmatch(PATH, path):
        if re.fullmatch(PATH, path.strip()):
            return f"{word} cannot be parsed: did you mean {path.strip()}={value.strip()}?"
        return (
            f"{word} cannot be parsed: a setting is a dotted path such as model.depth, "
            f"got {path or 'nothing'} before the ="
        )
    open_sign = _find_unclosed(value)
    if open_sign:
        return f"{word} cannot be parsed: {open_sign} is not closed"
    if value.startswith("=") or value.endswith("="):
        return f"{word} cannot be parsed: did you mean {path}={value.strip('=')}?"
    if value.startswith(",") or value.endswith(",") or ",," in value:
        return f"{word} cannot be parsed: a value is missing before or after a comma"
    if re.search(r"\s[\w.]+=", value):
        return f"{word} cannot be parsed: each setting is a word of its own, without quotes"
    call = re.match(r"(\w+)\(", value)
    if call:
        return (
            f"{word} cannot be parsed: a list of values is range(start,stop,step) of numbers, "
            "choice(a,b), glob(pattern), shuffle(…) or sort(…)"
        )
    if path in schema.setting_paths() and path not in schema.text_paths():
        return (
            f"{word} cannot be parsed: {path} must be {describe_valid_values(path)}; several "
            "values of a sweep stand between commas"
        )
    return _advise_quotes(path, value)


def describe_several_values(word: str, command: str) -> str:
    """The line for values of several runs where a command runs one.

    Args:
        word: the override as it was written.
        command: the command, which has the option ``-m``.
    """
    path, _, value = word.partition("=")
    return (
        f"{word} holds several values, which make a sweep: "
        f"{command} -m {shlex.quote(word)}{_suggest_one_value(path, value)}"
    )


def _suggest_one_value(path: str, value: str) -> str:
    """How values with commas are written as a list, or as one path if they seem to be one."""
    if set(value) & set("'\"[]()"):
        return ""
    if path in schema.list_paths():
        typed = shlex.quote(f"{path}=[{value}]")
        return f"; a list stands in brackets: {typed}"
    if not _takes_text(path) or not is_like_path(value):
        return ""
    typed = shlex.quote(f"{path}={quote_text(value)}")
    return f"; a path with commas is quoted: {typed}"


def _takes_text(path: str) -> bool:
    """Whether a setting is a text, as far as that is known: Hydra's own settings may be one."""
    return path in schema.text_paths() or path.startswith("hydra.")


def _is_unquoted_text(path: str, value: str) -> bool:
    """Whether a value that cannot be parsed is a text such as a path or a note, without quotes."""
    value = value.translate(PLAIN_SIGNS)
    if not _takes_text(path) or value.startswith(("'", '"')):
        return False
    is_list = value.startswith("[") and path in schema.list_paths()
    is_call = re.match(r"\w+\(", value)
    lacks_value = re.search(r"^,|,$|,,", value)
    if is_list or is_call or lacks_value:
        return False
    return is_like_path(value) or " " in value.strip()


def _advise_quotes(path: str, value: str) -> str:
    """The line for a text that Hydra's grammar does not have, with the word as it is typed."""
    word = f"{path}={value}"
    typed = quote_override(path, value, is_list=path in schema.list_paths())
    for name in re.findall(r"\s([\w./@-]+)=", value):
        if name in (*schema.setting_paths(), *schema.OPTIONS, *EXTRA_GROUPS):
            return (
                f"{word} cannot be parsed: each setting is a word of its own, without quotes; "
                f"if it is one text, it is quoted: {typed}"
            )
    return (
        f"{word} cannot be parsed: quote a value with signs or letters other than a to z, "
        f"for the shell and for Hydra: {typed}"
    )


def _hint_without_value(word: str) -> str:
    """What was meant by a word without ``=``, which may have another sign in its place."""
    path, sign, value = word.strip().partition(":")
    if not sign:
        path, sign, value = word.strip().partition(" ")
    hint = suggest_override(path.lstrip("-+~"), value.strip())
    return hint or ", such as model.depth=8"


def suggest_override(path: str, value: str) -> str:
    """``; did you mean setting=value?`` for the setting that ``path`` stands for, or nothing."""
    setting = find_setting(path)
    if not setting:
        return ""
    if "=" in setting:
        return f"; did you mean {setting}?"
    return f"; did you mean {setting}={value or '…'}?"


def _find_unclosed(value: str) -> str | None:
    """The quote or bracket of a value that has no partner."""
    pairs = {")": "(", "]": "[", "}": "{"}
    quote = ""
    opened = []
    for sign in value:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            opened.append(sign)
        elif sign in pairs and (not opened or opened.pop() != pairs[sign]):
            return sign
    return quote or (opened[-1] if opened else None)


def _explain_missing_option(error: Any) -> str:
    """The line for an option that its group does not have."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:  # the folder of the configuration is missing: the second line names it
        return " ".join(str(error).split())
    missing = describe_missing_sweeper(option) if group == "hydra/sweeper" else None
    if missing:
        return missing
    file, _, inner = group.partition("/")
    if file in EXTRA_GROUPS and inner in schema.OPTIONS:
        return f"a file of {file} chooses an option with override: - override /{inner}: {option}"
    folder = resource_dir("conf") / group
    options = sorted(error.options or [file.stem for file in folder.glob("*.yaml")])
    listed = ", ".join(options)
    if group == "data":
        listed += f"; another one of the TFDS catalogue is data=tfds data.dataset={option}"
    return f"there is no {group}={option}{format_suggestion(option, options)} (valid: {listed})"


def _explain_bad_value(cause: Any, error: BaseException) -> str:
    """The line for a setting that OmegaConf refuses.

    Args:
        cause: OmegaConf's error, which knows the setting.
        error: the error that Hydra raised from it, which may know more of the setting's path.
    """
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        InterpolationResolutionError,
        MissingMandatoryValue,
    )

    path = cause.full_key or ""
    message = _first_line(cause)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and not isinstance(
        cause, InterpolationResolutionError
    ):
        override = re.search(r"Could not override '([^']+)'", str(error))
        if override:
            path = max(path, override.group(1), key=len)
        return unknown_setting(path, cause.parent_node)
    path = path.partition("[")[0]  # the setting of an item in a list
    if isinstance(cause, InterpolationResolutionError):
        path = "the option of a group" if path == "_dummy_" else path
        return f"{path} cannot be worked out: {message[0].lower()}{message[1:]}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{path} has no value: ??? stands for one that must be given"
    if path in schema.setting_paths() and cause.value == {}:
        inner = re.search(rf"{path}\.[\w.]+", str(error))
        return unknown_setting(inner.group() if inner else path)
    if "does not support deletion" in message:
        return f"{path} cannot be deleted; leave it out, and it has its default value"
    if any(name.startswith(f"{path}.") for name in schema.setting_paths()):
        return explain_group(path)
    expected = re.search(r"expected one of \[(.*)\]", message)
    if expected:  # also of settings of Hydra
        is_ours = path in schema.setting_paths()
        names = choices_of(path) if is_ours else expected.group(1).split(", ")
        return describe_name_not_valid(path, names, written(cause.value))
    if path not in schema.setting_paths():
        return message if path in message else f"{path}: {message}"
    value = "null" if "not Optional" in message else written(cause.value)
    if message.startswith("Cannot merge DictConfig"):  # OmegaConf's error has no value then
        override = re.search(rf"override [+]*{re.escape(path)}=(.*)", str(error))
        value = override.group(1) if override else "a dictionary"
    names = choices_of(path)
    hint = "" if value in names else format_suggestion(value, names)
    hint = suggest_numeric_setting(path, value) or hint
    if isinstance(cause.value, list) and not names:
        hint = "; several values of a sweep stand between commas, without brackets"
    if isinstance(cause.value, float) and cause.value.is_integer() and not hint:
        hint = f"; did you mean {int(cause.value)}?"
    return f"{path} must be {describe_valid_values(path)}, got {value or 'an empty value'}{hint}"


def explain_group(group: str) -> str:
    """The line for a group of settings that was set to a value."""
    settings = [name for name in schema.setting_paths() if name.startswith(f"{group}.")]
    return f"{group} is a group of settings and has no value; set {join_words(settings, 'or')}"


def unknown_setting(path: str, option: Any = None) -> str:
    """The line for a setting that does not exist, or not for the option that was chosen.

    Args:
        path: the dotted path of the setting.
        option: the chosen option of the setting's group, where there is one.
    """
    if path.startswith("hydra."):
        return f"{path} is not a setting of Hydra here; fathom train --cfg hydra lists them all"
    group = path.rpartition(".")[0]
    choice = _choice(group, option)
    options = schema.options_with(path)
    if options:
        return f"{path} is not a setting of {choice}, only of {join_words(options, 'and')}"
    if path in schema.setting_paths():  # the group was replaced by something else
        return explain_group(group)
    hint = _nearest_setting(path)
    settings = _settings_of_choice(group, choice)
    if not settings:
        return f"{path} is not a setting{hint}"
    return f"{path} is not a setting{hint} ({choice} has: {', '.join(settings)})"


def _choice(group: str, option: Any) -> str:
    """The option as it is chosen on the command line, such as ``skip=identity``."""
    if group not in schema.OPTIONS:
        return group
    kind = getattr(option, schema.selector_of(group), None)
    if kind is None:
        return f"the chosen {group}"
    return f"{group}={kind.name}"


def _settings_of_choice(group: str, choice: str) -> list[str]:
    """The names of the settings that a choice has, or of all settings of the group."""
    names = []
    for item in schema.iter_declared():
        is_of_group = item.path.rpartition(".")[0] == group != ""
        is_selector = item.declared is None
        is_of_choice = not item.options or choice in item.options or "=" not in choice
        name = item.path.rpartition(".")[2]
        if is_of_group and is_of_choice and not is_selector and name not in names:
            names.append(name)
    return names


SELECTOR_WORDS = ("name", "kind", "type", "level", "class", "_target_", "mode")


def _nearest_setting(path: str) -> str:
    """``; did you mean X?`` for the setting or group that ``path`` stands for, or is similar to.

    A setting of the same group comes first, then a group, then any setting.
    """
    name = find_setting(path)
    return f"; did you mean {name}?" if name else ""


def find_setting(path: str) -> str | None:
    """The setting or group that a path stands for, or is most similar to."""
    paths = list(schema.setting_paths())
    groups = [
        *dict.fromkeys(each.partition(".")[0] for each in paths if "." in each),
        *EXTRA_GROUPS,
    ]
    typed_group, _, name = path.replace("/", ".").rpartition(".")
    group = find_nearest(typed_group, groups, SETTING_SYNONYMS) if typed_group else None
    siblings = [each for each in paths if group and each.startswith(f"{group}.")]
    roots = [each for each in paths if "." not in each]
    for candidates in (siblings, [*groups, *roots], [*paths, "hydra.run.dir"]):
        if group in schema.OPTIONS and candidates is not siblings and name in SELECTOR_WORDS:
            return group
        named = _find_named(name, candidates)
        if named:
            return named
    for option_group, classes in schema.OPTIONS.items():
        if name in classes and option_group == (group or option_group):
            return f"{option_group}={name}"
    if typed_group in paths:
        return typed_group
    if siblings:
        own_names = {each.rpartition(".")[2]: each for each in siblings}
        sibling = find_nearest(name, own_names, {})
        return own_names[sibling] if sibling else None
    return find_nearest(path, [*groups, *paths], SETTING_SYNONYMS)


def _find_named(name: str, paths: Sequence[str]) -> str | None:
    """The path that ``name`` is another word for, or whose last part it is.

    The former comes first: most who write ``layers`` mean ``model.depth``, not ``tracker.layers``.
    """
    for path in paths:
        if is_synonym(name, path, SETTING_SYNONYMS):
            return path
    for path in paths:
        if path.rpartition(".")[2] == name:
            return path
    return None
