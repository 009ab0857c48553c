"""Fields of the configuration: each declares its default, meaning and range."""

import dataclasses
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True)
class Setting:
    """What a field of the configuration declares about itself.

    Attributes:
        meaning: one line for the reference page and ``fathom train --help``.
        bounds: the range, by the names ``gt``, ``ge``, ``lt`` and ``le``.
        traced: the number is an argument of the compiled program, so runs that differ in it share
            one program.
        shared: it is an argument, but all runs of one group have the same value.
        switch: zero or not zero is part of the compiled program.
        only_with: the setting has an effect only if these other fields of the same option have one
            of these values.
        needs: the setting has an effect only if one of these other fields of the same option is
            set; empty: always.
    """

    meaning: str
    bounds: dict[str, float]
    traced: bool = False
    shared: bool = False
    switch: bool = False
    only_with: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def has_effect(self, option: Any) -> bool:
        """Whether the setting has an effect, given the other fields of ``option``."""
        for name, values in self.only_with.items():
            if getattr(option, name) not in values:
                return False
        return not self.needs or any(is_set(getattr(option, name)) for name in self.needs)


def is_set(value: Any) -> bool:
    """Whether a setting that another one needs is set: not null, false or empty. 0 is a value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number or bool(value)


def setting(
    default: Any,
    meaning: str,
    *,
    traced: bool = False,
    shared: bool = False,
    switch: bool = False,
    only_with: dict[str, tuple[Any, ...]] | None = None,
    needs: str | tuple[str, ...] = (),
    **bounds: float,
) -> Any:
    """A field of an option's dataclass.

    Args:
        default: its default value.
        meaning: what it does, in one line.
        traced: see ``Setting``, as are ``shared``, ``switch`` and ``only_with``.
        shared: whether all runs of one group have the same value.
        switch: whether zero or not zero selects the compiled program.
        only_with: other fields of the option, and the values at which this one has an effect.
        needs: another field of the option without which this one has no effect, or several of
            which one must be set.
        **bounds: the range: ``gt``, ``ge``, ``lt``, ``le``.
    """
    declared = Setting(
        meaning=meaning,
        bounds=bounds,
        traced=traced,
        shared=shared,
        switch=switch,
        only_with=only_with or {},
        needs=(needs,) if isinstance(needs, str) else needs,
    )
    return field(default=default, metadata={"setting": declared})


def setting_of(item: dataclasses.Field) -> Setting:
    """What a dataclass field declares about itself."""
    return item.metadata["setting"]


def settings_of(option: Any) -> Iterator[tuple[str, Setting]]:
    """The name and declaration of every setting of an option, a class or an instance of one."""
    for item in dataclasses.fields(option):
        if "setting" in item.metadata:
            yield item.name, setting_of(item)


def traced_names(option: Any) -> list[str]:
    """The fields of an option that are arguments of the compiled program."""
    return [name for name, declared in settings_of(option) if declared.traced]


def replace_traced(option: Any, convert: Callable[[str, Setting, Any], Any]) -> Any:
    """The option with each traced value replaced by ``convert(name, setting, value)``."""
    changes = {}
    for name, declared in settings_of(option):
        if declared.traced:
            changes[name] = convert(name, declared, getattr(option, name))
    return dataclasses.replace(option, **changes)


def without_traced_values(option: Any) -> Any:
    """The option with traced values at their defaults: what the compiled program depends on.

    A setting with ``switch`` becomes 0 or 1, because the program depends on whether it is zero.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(option)}

    def reset(
        name: str,
        declared: Setting,
        value: Any,
    ) -> Any:
        if declared.switch:
            return 1.0 if value > 0 else 0.0
        return defaults[name]

    return replace_traced(option, reset)


def to_plain(value: Any) -> Any:
    """A setting's value as JSON has it: the name of an enumeration's member, a list for a tuple."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple):
        return list(value)
    return value


def written(value: Any) -> str:
    """A value as it is written on the command line.

    >>> written(True)
    'true'
    """
    plain = to_plain(value)
    if plain is None:
        return "null"
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
