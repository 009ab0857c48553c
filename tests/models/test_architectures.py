"""Every combination of options that is allowed.

The tests come in the order of their cost. A part of each always runs; the slow tests run the rest.

* *Every* allowed combination of model, cell, skip, norm and placement is taken from a configuration
  to its program, initialised, and put through the training step by shapes only
  (``jax.eval_shape`` traces everything and computes nothing).
* A covering set, in which every allowed pair of options occurs (model with skip, norm with
  placement …), computes two steps in float64, and the first step again with every scan written out
  as a loop, operation by operation. For ``resnet``, whose blocks are those of ``resnet_cifar``,
  only ``RESNETS`` are computed.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.gauges.table import GAUGES, Entries
from research.models import plan
from research.runner.run_setup import make_run_setup
from research.training.program import init_state, make_program, run_step

from ..compiling import one_in, quick
from .matrix import (
    LAYERS,
    MATRIX,
    NETWORKS,
    NORMS,
    ONE_BLOCK_PER_GROUP,
    PLACEMENTS,
    SKIPS,
    Combination,
    Network,
    configure,
    prepare,
)
from .networks import assert_same_gradients, to_numpy


def test_as_many_combinations_are_allowed_as_the_rules_leave():
    """Most shortcuts go with everything; ``compatibility.py`` has the rules for the others."""
    free = len(SKIPS) - len({"fixup", "deepnorm", "dense", "hyper", "mhc"})
    placed = len(NORMS) - 1  # norms that have a placement: all but none
    placements = len(PLACEMENTS)
    all_norms = 1 + placed * placements
    without_batch = 1 + (placed - 1) * placements
    fixup = 1  # without a norm
    dense = 2  # without a norm, or with batch norm before the branch
    deepnorm = 2  # with layer or rms norm after the sum
    streams = 2 * (1 + placed * (placements - 1))  # hyper and mhc: no norm after the sum
    streams_without_batch = 2 * (1 + (placed - 1) * (placements - 1))
    # In ResNets the placement is the order of operations, and acts without a norm, too.
    orders = placements - len({"peri"})
    resnets = free * len(NORMS) * orders + orders

    counts = Counter(combination.model for combination in MATRIX)

    assert counts == {
        "mlp": free * all_norms + fixup + dense + streams,
        "cnn": free * all_norms + fixup + dense + streams,
        "resnet_cifar": resnets,
        "resnet": resnets,
        "transformer": free * without_batch + deepnorm + streams_without_batch,
        "rnn": 4 * without_batch + 2,  # four shortcuts for Elman cells; none for GRU and LSTM
    }
    assert counts == {
        "mlp": 266,
        "cnn": 266,
        "resnet_cifar": 201,
        "resnet": 201,
        "transformer": 215,
        "rnn": 70,
    }


def assert_complete(row, model, layers):
    """Checks that every gauge has one value for each layer, or for each signal between layers."""
    profile = row["profile"]
    gauges = [gauge for gauge in GAUGES if model == "transformer" or not gauge.of_transformers]
    assert set(profile) == {gauge.name for gauge in gauges}
    for gauge in gauges:
        length = layers + 1 if gauge.entries is Entries.SIGNALS else layers
        assert profile[gauge.name].shape == (length,), gauge.name
    assert row["train_loss"].shape == ()
    assert row["grad_norm"].shape == ()


# --- By shapes ------------------------------------------------------------------------------------


def list_shapes(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def one_block_per_group(monkeypatch):
    """``resnet`` with one block in each group instead of two, which halves the time."""
    monkeypatch.setitem(plan.BLOCKS_PER_GROUP, 18, ONE_BLOCK_PER_GROUP)


@pytest.mark.parametrize("combination", one_in(94, [(each,) for each in MATRIX]), ids=str)
@pytest.mark.usefixtures("one_block_per_group")
def test_every_combination_builds_and_steps(combination):
    """A step takes a state to one of the same shapes, and measures every gauge in every layer."""
    run = prepare(combination)
    state = jax.eval_shape(functools.partial(init_state, run.spec), run.hp)
    step = functools.partial(run_step, run.spec, True)
    new_state, row = jax.eval_shape(step, state, run.hp, run.batch)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert list_shapes(new_state) == list_shapes(state)
    assert_complete(row, combination.model, LAYERS[combination.model])


# --- Two steps ------------------------------------------------------------------------------------


def list_pairs(combination):
    return set(itertools.combinations(combination.choices.items(), 2))


def cover(combinations):
    """A few combinations that contain every pair of choices that occurs in any of them."""
    missing = set()
    for combination in combinations:
        missing |= list_pairs(combination)
    chosen = []
    while missing:
        best = max(combinations, key=lambda each: len(list_pairs(each) & missing))
        chosen.append(best)
        missing -= list_pairs(best)
    return chosen


def mark_slow_except(models, combinations):
    """All combinations; the first one of each of ``models`` always runs, the others are slow."""
    parameters = []
    remaining = list(models)
    for combination in combinations:
        marks = [pytest.mark.slow]
        if combination.model in remaining:
            remaining.remove(combination.model)
            marks = []
        parameters.append(pytest.param(combination, marks=marks))
    return parameters


WITHOUT_RESNETS = [combination for combination in MATRIX if combination.model != "resnet"]
COVERING = cover(WITHOUT_RESNETS)
ORDERS = [placement for placement in PLACEMENTS if placement != "peri"]
RESNETS = [Combination(Network("resnet"), "identity", "batch", placement) for placement in ORDERS]


def loop_instead_of_scan(body, carry, xs):
    """``jax.lax.scan`` as a loop over slices."""
    outs = []
    length = len(jax.tree.leaves(xs)[0])
    for number in range(length):
        x = jax.tree.map(lambda leaf, number=number: leaf[number], xs)
        carry, out = body(carry, x)
        outs.append(out)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *outs)


@contextlib.contextmanager
def no_scans(monkeypatch):
    """Traces each scan as a loop."""
    with monkeypatch.context() as patch:
        patch.setattr(jax.lax, "scan", loop_instead_of_scan)
        yield


@dataclasses.dataclass(frozen=True)
class Step:
    """The state after a step, and what the step measured."""

    state: object
    row: dict


def compile_step(run):
    """A training step of a run, which is traced and compiled when it is first called."""
    step = quick(functools.partial(run_step, run.spec, True))

    def take_step(state):
        return Step(*step(state, run.hp, run.batch))

    return take_step


def initialize(run):
    return quick(functools.partial(init_state, run.spec))(run.hp)


def parameter_changes(before, after):
    before = to_numpy(before.params)
    after = to_numpy(after.params)
    return jax.tree.map(lambda new, old: new - old, after, before)


def assert_same_step(measured, expected, before, tolerance):
    """Compares what two steps from the same state did.

    That is the change of every parameter (its gradient), the loss, every gauge and the running
    statistics.
    """
    changes = parameter_changes(before, measured.state)
    expected_changes = parameter_changes(before, expected.state)
    assert_same_gradients(changes, expected_changes, tolerance)
    values = to_float64((measured.row, measured.state.model_state))
    expected_values = to_float64((expected.row, expected.state.model_state))
    largest_signal = np.max(expected_values[0]["profile"]["activation_rms"])
    pairs = zip(
        jax.tree.leaves_with_path(values),
        jax.tree.leaves(expected_values),
        strict=True,
    )
    for (path, value), expected_value in pairs:
        name = jax.tree_util.keystr(path)
        scale = np.max(np.abs(np.nan_to_num(expected_value)), initial=0)
        if "mean" in name:  # it cancels, so its error is that of the elements
            scale = largest_signal
        atol = tolerance * scale
        assert_allclose(value, expected_value, tolerance, atol, err_msg=name)


def to_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


# ``test_residual_networks.py`` compares ``resnet_cifar`` with its formula.
ALWAYS = ("mlp", "cnn", "transformer", "rnn")


@pytest.mark.parametrize("combination", mark_slow_except(ALWAYS, COVERING), ids=str)
@pytest.mark.usefixtures("float64")
def test_two_steps_are_finite_and_scan_equals_a_loop(combination, monkeypatch):
    """In float64, 1e-9 separates another computation from another order of the same sums."""
    changes = {}
    layers = LAYERS[combination.model]
    if combination.model == "resnet_cifar":
        # At depth 8 there is one block a stage, and no scan.
        changes["model__depth"] = 14
        layers = 6
    run = prepare(combination, precision="float64", **changes)
    state = initialize(run)

    take_step = compile_step(run)
    first = take_step(state)
    second = take_step(first.state)
    with no_scans(monkeypatch):
        unrolled = compile_step(run)(state)

    for step in (first, second):
        assert_complete(step.row, combination.model, layers)
        assert step.row["finite"]
        assert np.all(np.isfinite(step.row["profile"]["signal_grad"]))
    assert_same_step(first, unrolled, state, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("combination", one_in(3, [(each,) for each in RESNETS]), ids=str)
@pytest.mark.usefixtures("one_block_per_group")
def test_a_resnet_for_imagenet_takes_two_steps(combination):
    run = prepare(combination)
    state = initialize(run)
    take_step = compile_step(run)
    for _ in range(2):
        step = take_step(state)
        state = step.state
        assert_complete(step.row, "resnet", LAYERS["resnet"])
        assert step.row["finite"]


def list_recomputed():
    """``resnet`` is left out."""
    combinations = []
    for network in NETWORKS:
        combination = Combination(network, "identity", "layer", "branch")
        if combination in WITHOUT_RESNETS:
            combinations.append(combination)
    return mark_slow_except(("mlp", "rnn"), combinations)


@pytest.mark.parametrize("combination", list_recomputed(), ids=str)
@pytest.mark.usefixtures("float64")
def test_recomputing_activations_changes_no_number(combination):
    run = prepare(combination, precision="float64")
    recomputed_run = prepare(combination, precision="float64", model__recompute=True)
    state = initialize(run)
    usual = compile_step(run)(state)
    recomputed = compile_step(recomputed_run)(state)
    assert_same_step(recomputed, usual, state, 1e-12)


# --- Random numbers -------------------------------------------------------------------------------

SOURCES = {
    "skip": "rate",
    "train": "input_noise",
    "model": "dropout",
}
RANDOM = [
    ("mlp", "dropout"),
    ("rnn", "none"),
]
SLOW_RANDOM = [
    ("transformer", "stochastic_depth"),
    ("cnn", "dropout"),
    ("resnet_cifar", "dropout"),
    ("transformer", "dropout"),
    ("mlp", "stochastic_depth"),
]


def list_random():
    cases = []
    for case in RANDOM:
        cases.append(pytest.param(*case))
    for case in SLOW_RANDOM:
        cases.append(pytest.param(*case, marks=pytest.mark.slow))
    return cases


class RandomRuns:
    """Runs of full-batch descent: one without random numbers, then one for each source of them."""

    def __init__(self, model, skip):
        network = Network(model, "elman" if model == "rnn" else "")
        changes = {"optimizer": "gd", "train__input_noise": 0.5}
        if model != "rnn":
            changes["model__dropout"] = 0.5
        config = configure(Combination(network, skip, "none", "pre"), **changes)
        setup = make_run_setup(config)
        sources = []
        for group, name in SOURCES.items():
            if hasattr(getattr(setup.hp, group), name):
                sources.append((group, name))
        self.num_runs = 1 + len(sources)
        self.data = setup.data
        self.program = make_program(setup.program_config)
        self.hp = jax.tree.map(self._repeat, setup.hp)
        for number, (group, name) in enumerate(sources):
            values = jnp.zeros(self.num_runs).at[1 + number].set(0.5)
            option = dataclasses.replace(getattr(self.hp, group), **{name: values})
            self.hp = dataclasses.replace(self.hp, **{group: option})

    def _repeat(self, leaf):
        return jnp.broadcast_to(leaf, (self.num_runs,))

    def _with_keys(self, state, seeds):
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        return dataclasses.replace(state, key=keys)

    def train(self, seed):
        """The losses [M, 2] of two steps, and the state after them."""
        state = self.program.init(self.hp)
        state = self._with_keys(state, [seed] * self.num_runs)
        start = np.int32(0)
        steps = np.int32(2)
        state, rows = self.program.chunk(state, self.hp, self.data, start, steps)
        return np.asarray(rows["train_loss"])[:, :2], state

    def evaluate(self, state, first_seed):
        seeds = first_seed + np.arange(self.num_runs)
        return self.program.evaluate(self._with_keys(state, seeds), self.hp, self.data)


@pytest.mark.parametrize("model, skip", list_random())
def test_only_training_is_random_and_by_its_key_alone(model, skip):
    runs = RandomRuns(model, skip)
    losses, state = runs.train(seed=1)
    same_seed_losses, _ = runs.train(seed=1)
    other_losses, _ = runs.train(seed=2)
    evaluation = runs.evaluate(state, first_seed=0)
    other_evaluation = runs.evaluate(state, first_seed=1)

    differs_in_some_step = np.any(losses != other_losses, axis=1)
    assert np.all(np.isfinite(losses))
    assert_array_equal(losses, same_seed_losses)
    assert not differs_in_some_step[0]
    assert np.all(differs_in_some_step[1:])
    jax.tree.map(assert_array_equal, evaluation, other_evaluation)
