"""Every allowed combination of model, cell, skip, norm and placement, as a small run."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax

from research.config import options
from research.config.compatibility import check_compatibility
from research.runner.run_setup import make_run_setup
from research.training.precision import precision_context
from research.training.program_config import ProgramConfig

from ..builders import has_setting, make_config

SKIPS = [kind.name for kind in options.SkipKind]
NORMS = [kind.name for kind in options.NormKind]
PLACEMENTS = [placement.name for placement in options.Placement]
DEPTHS = {
    "mlp": 3,
    "cnn": 3,
    "resnet_cifar": 8,
    "resnet": 18,
    "transformer": 2,
    "rnn": 4,
}
LAYERS = {
    "mlp": 3,
    "cnn": 3,
    "resnet_cifar": 3,
    "resnet": 4,  # with one block in each group, see ``ONE_BLOCK_PER_GROUP``
    "transformer": 4,
    "rnn": 4,
}
ONE_BLOCK_PER_GROUP = (1, 1, 1, 1)


@dataclass(frozen=True)
class Network:
    """A model, and for ``rnn`` its cell."""

    model: str
    cell: str = ""

    def __str__(self):
        return self.cell or self.model


def _list_networks():
    networks = []
    for kind in options.ModelKind:
        if kind is options.ModelKind.rnn:
            networks += [Network("rnn", cell.name) for cell in options.CellKind]
        else:
            networks.append(Network(kind.name))
    return networks


NETWORKS = _list_networks()


@dataclass(frozen=True)
class Combination:
    """A choice in each of the groups that wire a network."""

    network: Network
    skip: str
    norm: str
    placement: str

    @property
    def model(self):
        """The name of the model."""
        return self.network.model

    @property
    def choices(self):
        """The choices by group."""
        return {
            "network": self.network,
            "skip": self.skip,
            "norm": self.norm,
            "placement": self.placement,
        }

    def __str__(self):
        return "-".join(map(str, self.choices.values()))


SETTINGS = {
    "model.width": 4,
    "model.heads": 2,
    "model.expansion": 2,
    "skip.branch_scale": 0.7,
    "skip.shortcut_scale": 0.9,
    "skip.growth": 2,
    "norm.groups": 2,
}
OTHER_GROUPS = {
    "activation": "tanh",
    "init": "lecun",
    "init.sigma_b": 0.1,
    "optimizer": "sgd",
    "optimizer.learning_rate": 0.5,
    "data": "noise",
    "data.shape": (8, 8, 1),
    "data.classes": 3,
    "data.examples": 8,
    "train.steps": 2,
    "train.batch_size": 4,
    "measure": "full",
}


def configure(combination, **changes):
    """A configuration of a small run that measures everything.

    Args:
        combination: the choices.
        **changes: further settings; ``__`` in a name stands for the dot of its path.
    """
    chosen = {
        "model": combination.model,
        "skip": combination.skip,
        "norm": combination.norm,
    }
    values = chosen | OTHER_GROUPS
    for path, value in SETTINGS.items():
        group, _, name = path.partition(".")
        if has_setting(group, chosen[group], name):
            values[path] = value
    values["model.depth"] = DEPTHS[combination.model]
    values["norm.placement"] = combination.placement
    if combination.network.cell:
        values["model.cell"] = combination.network.cell
    for name, value in changes.items():
        values[name.replace("__", ".")] = value
    return make_config(values)


def is_allowed(combination):
    try:
        check_compatibility(configure(combination))
    except ValueError:
        return False
    return True


def _list_allowed():
    allowed = []
    for choices in itertools.product(NETWORKS, SKIPS, NORMS, PLACEMENTS):
        combination = Combination(*choices)
        if is_allowed(combination):
            allowed.append(combination)
    return allowed


MATRIX = _list_allowed()


@dataclass(frozen=True)
class PreparedRun:
    """A run before its first step.

    Attributes:
        spec: what its program is compiled for.
        hp: its hyperparameters.
        batch: inputs and labels of four examples.
    """

    spec: ProgramConfig
    hp: Any
    batch: tuple[Any, Any]


@functools.cache
def prepare(combination, **changes):
    """A run of a combination; ``changes`` are those of ``configure``."""
    config = configure(combination, **changes)
    with precision_context(config.precision.kind.name):
        setup = make_run_setup(config)
        x = setup.data["x"][:4].astype(setup.program_config.architecture.dtype)
        y = setup.data["y"][:4]
        hp = jax.tree.map(lambda leaf: leaf[0], setup.hp)
        return PreparedRun(setup.program_config, hp, (x, y))
