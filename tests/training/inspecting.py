"""The diagnostics of a small network, and the snapshot that they were taken of."""

import jax
import numpy as np

from research.training.inspections import Snapshot
from research.training.objective import normalize_inputs
from research.training.program import make_program

from ..builders import make_hparams, make_program_config, select_existing
from .programs import make_data

EXAMPLES = 24


def make_hp(
    spec,
    runs: int | None = 1,
    changes=None,
):
    numbers = {"init.sigma_w": 1.0, "init.sigma_b": 0.1} | (changes or {})
    return make_hparams(spec, select_existing(spec, numbers), runs=runs)


def inspect_network(
    *inspections,
    data=None,
    numbers=None,
    **changes,
):
    """The diagnostics of a network at initialisation, and the run's ``Snapshot`` there.

    Args:
        inspections: entries of ``measure.inspect``.
        data: the examples; random ones without.
        numbers: traced numbers by dotted path.
        changes: the network and its training, as ``make_program_config`` takes them.
    """
    settings = {"precision": "float64", "depth": 3, "width": 5} | changes
    spec = make_program_config(inspect=inspections, **settings)
    program = make_program(spec)
    hp = make_hp(spec, changes=numbers)
    data = make_data(EXAMPLES) if data is None else data
    states = program.init(hp)
    diagnostics = {}
    for name, values in program.inspections(states, hp, data).items():
        diagnostics[name] = np.asarray(values)[0]
    state = jax.tree.map(lambda leaf: leaf[0], states)
    hp_of_run = make_hp(spec, runs=None, changes=numbers)
    return diagnostics, Snapshot(spec, state, hp_of_run, data)


def inputs_of(snapshot, examples=EXAMPLES):
    """What the network reads of the first examples."""
    return normalize_inputs(snapshot.arch, snapshot.data, snapshot.data["x"][:examples])
