"""The typed configuration of one run: its root, the table of options, walks over all settings."""

import dataclasses
import enum
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from research.config import data_options, options
from research.config.fields import (
    Setting,
    is_set,
    setting,
    setting_of,
    settings_of,
    to_plain,
)

SELECTORS = {"data": "name", "measure": "level"}  # the field that names the option: else "kind"


@dataclass(frozen=True)
class Config:
    """One run. A group is a folder of ``conf/`` and holds one of its options."""

    seed: int = setting(0, "Seed of every random draw of the run.", ge=0, lt=2**32, traced=True)
    name: str | None = setting(
        None, "Folder of the run under outputs/; null: the time of the start."
    )
    tags: tuple[str, ...] = setting((), "Words to find the run by, such as [baseline,night].")
    notes: str = setting("", "A remark about the run.")
    train: options.Train = options.Train()
    model: options.Model = options.FullyConnected()
    skip: options.Skip = options.Skip()
    norm: options.Norm = options.Norm()
    activation: options.Activation = options.Activation()
    init: options.Init = options.ScaledInit()
    optimizer: options.Optimizer = options.Momentum()
    precision: options.Precision = options.Precision()
    loss: options.Loss = options.Loss()
    data: data_options.Data = data_options.ImageData()
    measure: options.Measure = options.MeasureNorms()
    tracker: options.Tracker = options.Tracker()
    mesh: options.Mesh = options.Mesh()
    checkpoint: options.Checkpoint = options.Checkpoint()
    diagnose: options.Diagnose = options.Diagnose()


def _by_kind(
    kinds: type[enum.Enum],
    usual: type,
    **others: type,
) -> dict[str, type]:
    """The dataclass of each option of a group: ``usual``, except for those named."""
    classes = {}
    for kind in kinds:
        classes[kind.name] = others.get(kind.name, usual)
    return classes


OPTIONS: Mapping[str, Mapping[str, type]] = {
    "model": _by_kind(
        options.ModelKind,
        options.FullyConnected,
        cnn=options.Convolutional,
        resnet_cifar=options.ResNet,
        resnet=options.ResNet,
        transformer=options.Transformer,
        rnn=options.Recurrent,
    ),
    "skip": _by_kind(
        options.SkipKind,
        options.Skip,
        scaled=options.ScaledSkip,
        skipinit=options.SkipInit,
        highway=options.GatedSkip,
        gated=options.GatedSkip,
        dropout=options.RandomSkip,
        stochastic_depth=options.RandomSkip,
        dense=options.DenseSkip,
        hyper=options.StreamSkip,
        mhc=options.StreamSkip,
    ),
    "norm": _by_kind(
        options.NormKind,
        options.AffineNorm,
        none=options.Norm,
        group=options.GroupNorm,
    ),
    "activation": _by_kind(options.ActivationKind, options.Activation),
    "init": _by_kind(
        options.InitKind,
        options.ScaledInit,
        gaussian=options.GaussianInit,
        schur=options.SchurInit,
        zeros=options.Init,
    ),
    "optimizer": _by_kind(
        options.OptimizerKind,
        options.Optimizer,
        momentum=options.Momentum,
        nesterov=options.Momentum,
        adagrad=options.AdaGrad,
        rmsprop=options.RMSProp,
        adam=options.Adam,
        adamw=options.Adam,
        lion=options.Lion,
        muon=options.Muon,
    ),
    "precision": _by_kind(
        options.PrecisionKind,
        options.Precision,
        bfloat16=options.BFloat16,
        float8_e4m3=options.Float8,
        float8_e5m2=options.Float8,
        float4_e2m1=options.Float4,
    ),
    "loss": _by_kind(options.LossKind, options.Loss),
    "data": _by_kind(
        data_options.DataKind,
        data_options.CatalogImages,
        digits=data_options.ImageData,
        python_docs=data_options.TextData,
        function=data_options.FunctionData,
        noise=data_options.NoiseData,
        folder=data_options.FolderData,
        arrays=data_options.ArrayData,
        tiny_shakespeare=data_options.CatalogText,
        imdb_reviews=data_options.CatalogText,
        trec=data_options.CatalogText,
        tfds=data_options.AnyCatalogData,
    ),
    "measure": _by_kind(
        options.Level,
        options.Measure,
        norms=options.MeasureNorms,
        full=options.MeasureFull,
    ),
    "mesh": _by_kind(options.MeshKind, options.Mesh, distributed=options.DistributedMesh),
}


def selector_of(group: str) -> str:
    """The field of a group that names the option."""
    return SELECTORS.get(group, "kind")


def make_option(
    group: str,
    name: str,
    **values: Any,
) -> Any:
    """An option of a group with its default values, except for those given.

    >>> make_option("skip", "scaled", branch_scale=0.5).branch_scale
    0.5
    """
    kinds: Any = type(getattr(OPTIONS[group][name](), selector_of(group)))
    return OPTIONS[group][name](**{selector_of(group): kinds[name]}, **values)


def is_group(value: Any) -> bool:
    """Whether a field of ``Config`` holds an option rather than a value."""
    return dataclasses.is_dataclass(value)


@dataclass(frozen=True)
class SettingValue:
    """A setting of one configuration.

    Attributes:
        path: its dotted path.
        value: what it is set to.
        declared: what its field declares; None for the field that names the option.
    """

    path: str
    value: Any
    declared: Setting | None


def iter_fields(config: Config) -> Iterator[SettingValue]:
    """Every setting of a configuration that has an effect, in order."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if is_group(value):
            yield from _fields_of_option(item.name, value)
        else:
            yield SettingValue(item.name, value, setting_of(item))


def _fields_of_option(group: str, option: Any) -> Iterator[SettingValue]:
    declarations = dict(settings_of(option))
    for item in dataclasses.fields(option):
        declared = declarations.get(item.name)
        if declared is None or declared.has_effect(option):
            yield SettingValue(f"{group}.{item.name}", getattr(option, item.name), declared)


def flatten(config: Config) -> dict[str, Any]:
    """Every setting that has an effect, by dotted path, as JSON values."""
    return {item.path: to_plain(item.value) for item in iter_fields(config)}


def to_dict(config: Config) -> dict[str, Any]:
    """The same as nested dictionaries."""
    nested: dict[str, Any] = {}
    for path, value in flatten(config).items():
        group, _, name = path.rpartition(".")
        inside = nested.setdefault(group, {}) if group else nested
        inside[name] = value
    return nested


def settings_with_effect(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded configuration of a run without the settings that have no effect.

    Args:
        tree: nested dictionaries of JSON values. Options that are unknown here stay whole.
    """
    settings: dict[str, Any] = {}
    for group, values in tree.items():
        settings[group] = values
        if isinstance(values, Mapping):
            settings[group] = _values_with_effect(group, values)
    return settings


def _values_with_effect(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    option_name = values.get(selector_of(group))
    cls = OPTIONS.get(group, {}).get(str(option_name))
    if cls is None:
        default = getattr(Config(), group, None)
        cls = type(default) if is_group(default) else None
    kept = dict(values)
    if cls is None:
        return kept
    for name, declared in settings_of(cls):
        if name in kept and not _has_effect(declared, values):
            del kept[name]
    return kept


def _has_effect(declared: Setting, values: Mapping[str, Any]) -> bool:
    """Whether a setting has an effect, given the recorded values of its option."""
    for name, valid in declared.only_with.items():
        if values.get(name) not in [to_plain(value) for value in valid]:
            return False
    return not declared.needs or any(is_set(values.get(name)) for name in declared.needs)


@dataclass(frozen=True)
class DeclaredSetting:
    """A setting that at least one option has.

    Attributes:
        path: its dotted path.
        field: the dataclass field, with its type and default.
        declared: what the field declares; None for the field that names the option.
        options: the options that have it, such as ``skip=scaled``; empty where all have it.
    """

    path: str
    field: dataclasses.Field
    declared: Setting | None
    options: tuple[str, ...]


def iter_declared() -> Iterator[DeclaredSetting]:
    """Every setting that can be set, from the dataclasses alone.

    A setting whose default differs between options appears once for each dataclass that declares
    it.
    """
    for item in dataclasses.fields(Config):
        if is_group(item.default):
            yield from _declared_in_group(item.name, type(item.default))
        else:
            yield DeclaredSetting(item.name, item, setting_of(item), ())


def _declared_in_group(group: str, default: type) -> Iterator[DeclaredSetting]:
    classes = OPTIONS.get(group, {group: default})
    fields: dict[tuple[str, int], dataclasses.Field] = {}
    having: dict[tuple[str, int], list[str]] = {}
    for option, cls in classes.items():
        for item in dataclasses.fields(cls):
            key = item.name, id(item.metadata.get("setting"))  # one for each declaration
            fields.setdefault(key, item)
            having.setdefault(key, []).append(f"{group}={option}")
    for key, item in fields.items():
        names = having[key]
        some_lack_it = len(names) < len(classes)
        yield DeclaredSetting(
            path=f"{group}.{item.name}",
            field=item,
            declared=item.metadata.get("setting"),
            options=tuple(names) if some_lack_it else (),
        )


@functools.cache
def setting_paths() -> tuple[str, ...]:
    """Every dotted path that some option has."""
    return tuple(dict.fromkeys(declared.path for declared in iter_declared()))


@functools.cache
def paths_of_type(type_: type) -> frozenset[str]:
    """The paths of settings of a type, such as ``bool``, that may be null or not."""
    paths = [item.path for item in iter_declared() if item.field.type in (type_, type_ | None)]
    return frozenset(paths)


@functools.cache
def enum_paths() -> frozenset[str]:
    """The paths of settings that are one of several names."""
    paths = [item.path for item in iter_declared() if isinstance(item.field.default, enum.Enum)]
    return frozenset(paths)


@functools.cache
def text_paths() -> frozenset[str]:
    """The paths of settings that are text, or a list of words."""
    words = [item.path for item in iter_declared() if item.field.type == tuple[str, ...]]
    return paths_of_type(str).union(words)


@functools.cache
def list_paths() -> frozenset[str]:
    """The paths of settings that take a list."""
    paths = set()
    for item in iter_declared():
        kinds = (item.field.type, *typing.get_args(item.field.type))  # also tuple[int, ...] | None
        if any(typing.get_origin(kind) is tuple for kind in kinds):
            paths.add(item.path)
    return frozenset(paths)


@functools.cache
def options_with(path: str) -> tuple[str, ...]:
    """The options that have the setting at ``path``: empty where all options of its group do."""
    names: list[str] = []
    for declared in iter_declared():
        if declared.path == path:
            names += declared.options
    return tuple(names)


@functools.cache
def default_of(path: str) -> Any:
    """The default of the setting at ``path``, as a JSON value; of the first option that has it.

    >>> default_of("skip.growth")
    12
    """
    for declared in iter_declared():
        if declared.path == path:
            return to_plain(declared.field.default)
    raise KeyError(path)
