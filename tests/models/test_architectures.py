"""Every combination of options that is allowed.

What there is of the matrix, in the order of its cost; a part of each is run always, all of it by ``make test-all``:

* *Every* allowed (model and cell, skip, norm, placement) is taken from a ``Config`` to its ``Job``, initialised and put
  through the training step by shapes alone (``jax.eval_shape``: everything is traced, nothing computed).
* A covering set, in which every allowed pair of options occurs (model with skip, norm with placement …), computes two
  steps in float64, and the first of them again with every scan written out as a loop, operation by operation. Of
  ``resnet``, whose blocks are those of ``resnet_cifar``, only ``RESNETS`` are computed.
"""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.models import plan
from research.runner import run_setup as job
from research.training import program
from research.training.precision import scope

from ..compiling import one_in, quick
from .matrix import ALLOWED, GROUPS, INSIDE, KINDS, LAYERS, MATRIX, SIGNALS, configured, prepared


def test_as_many_are_allowed_as_the_rules_leave():
    """12 shortcuts that suit every network, fixup without norms alone, and the rules of combinations.py."""
    found = {kind: sum(model[0] == kind for model, *_ in MATRIX) for kind in ALLOWED}
    assert found == ALLOWED
    # all shortcuts but fixup, deepnorm and dense
    free = 11
    placements = 3
    norms = 6
    assert ALLOWED["mlp"] == free * norms * placements + placements + (
        placements + 1
    )  # fixup; dense
    assert ALLOWED["resnet"] == free * norms * placements + placements
    assert (
        ALLOWED["transformer"] == free * (norms - 1) * placements + 2
    )  # deepnorm with layer and with rms
    assert ALLOWED["rnn"] == 4 * (norms - 1) * placements + 2 * placements


def assert_complete(row, layers):
    """Every gauge is there, with one value a layer, of signals one more."""
    assert set(row["profile"]) == INSIDE | SIGNALS
    for name, values in row["profile"].items():
        assert values.shape == (layers + (name in SIGNALS),), name
    assert row["train_loss"].shape == row["grad_norm"].shape == ()


@pytest.mark.parametrize(
    ("model", "skip"),
    one_in(19, itertools.product(KINDS, GROUPS[1])),
    ids=lambda part: "".join(part),
)
def test_every_combination_builds_and_steps(model, skip, monkeypatch):
    """By shapes: a step takes a state to one of the same shapes, and measures every gauge in every layer.

    ``resnet`` with one block a stage instead of two, which halves the time.
    """
    monkeypatch.setitem(plan.BLOCKS, 18, (1, 1, 1, 1))
    for options in MATRIX:
        if options[:2] == (model, skip):
            spec, hp, batch = prepared(options)
            state = jax.eval_shape(functools.partial(program._init, spec), hp)
            after, row = jax.eval_shape(
                functools.partial(program._step, spec, True), state, hp, batch
            )
            assert jax.tree.structure(after) == jax.tree.structure(state), options
            assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [
                (b.shape, b.dtype) for b in jax.tree.leaves(state)
            ], options
            assert_complete(row, LAYERS[model[0]])


def covering(combinations):
    """A few of the combinations in which every pair of options of two groups occurs that occurs in any of them."""

    def pairs(options):
        return set(itertools.combinations(enumerate(options), 2))

    missing, chosen = set().union(*map(pairs, combinations)), []
    while missing:
        best = max(combinations, key=lambda options: len(pairs(options) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


RESNETS = [(("resnet", "elman"), "identity", "batch", placement) for placement in GROUPS[3]]
COVERING = covering([options for options in MATRIX if options[0][0] != "resnet"])


@contextlib.contextmanager
def scans_written_out(monkeypatch):
    """Operation by operation, each scan as a loop over slices."""

    def loop(body, carry, xs):
        outs = []
        for n in range(len(jax.tree.leaves(xs)[0])):
            carry, out = body(carry, jax.tree.map(lambda leaf: leaf[n], xs))
            outs.append(out)
        return carry, jax.tree.map(lambda *each: jnp.stack(each), *outs)

    with monkeypatch.context() as patch, jax.disable_jit():
        patch.setattr(jax.lax, "scan", loop)
        yield


def in_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def assert_same_step(one, other, before, tolerance):
    """Loss, every gauge, running statistics and every parameter's change, which is its gradient."""
    (state, row) = one
    (wanted, expected) = other
    old, new, like = (
        in_numpy(nnx.to_pure_dict(part)) for part in (before.params, state.params, wanted.params)
    )
    moved, should = (jax.tree.map(lambda a, b: a - b, part, old) for part in (new, like))
    whole = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(should)))
    for (path, a), b in zip(jax.tree.leaves_with_path(moved), jax.tree.leaves(should), strict=True):
        # Some gradients are zero but for rounding (a bias in front of batch norm): hence a part of the whole.
        slack = tolerance * np.linalg.norm(b) + 0.1 * tolerance * whole
        assert np.linalg.norm(a - b) <= slack, jax.tree_util.keystr(path)
    rows = in_numpy((row, state.model_state)), in_numpy((expected, wanted.model_state))
    signals = np.max(rows[1][0]["profile"]["activation_rms"])
    for (path, a), b in zip(
        jax.tree.leaves_with_path(rows[0]), jax.tree.leaves(rows[1]), strict=True
    ):
        name = jax.tree_util.keystr(path)
        # A mean cancels, so its error is that of the elements.
        size = signals if "mean" in name else np.max(np.abs(np.nan_to_num(b)), initial=0)
        np.testing.assert_allclose(a, b, tolerance, tolerance * size, err_msg=name)


def named(options):
    (kind, cell), *rest = options
    return "-".join([kind if kind != "rnn" else cell, *rest])


def first_of_each(cases, always):
    """Cases whose first part is a model: the first one of each of the models ``always``, the others where slow."""
    firsts = [next(case for case in cases if case[0][0] == model) for model in always]
    return [
        pytest.param(case, marks=[] if case in firsts else [pytest.mark.slow]) for case in cases
    ]


# That of resnet_cifar is compared with its formula in test_residual_networks.py.
@pytest.mark.parametrize(
    "options", first_of_each(COVERING, ("mlp", "cnn", "transformer", "rnn")), ids=named
)
def test_two_steps_are_finite_and_scan_equals_unrolled(options, monkeypatch):
    """In float64, so that 1e-9 tells another computation from another order of the same sums."""
    kind = options[0][0]
    deep = (
        {"depth": 14} if kind == "resnet_cifar" else {}
    )  # at 8 there is one block a stage, and no scan
    with scope("float64"):
        spec, hp, batch = prepared(options, precision="float64", **deep)
        with jax.disable_jit():
            state = program._init(spec, hp)
        step = quick(functools.partial(program._step, spec, True))
        first = step(state, hp, batch)
        second = step(first[0], hp, batch)
        for _, row in (first, second):
            assert_complete(row, 6 if kind == "resnet_cifar" else LAYERS[kind])
            assert row["finite"] and np.all(np.isfinite(row["profile"]["signal_grad"]))
        with scans_written_out(monkeypatch):
            assert_same_step(first, program._step(spec, True, state, hp, batch), state, 1e-9)


@pytest.mark.parametrize("options", one_in(3, [(options,) for options in RESNETS]), ids=named)
def test_a_resnet_for_imagenet_takes_two_steps(options, monkeypatch):
    """With one block a stage."""
    monkeypatch.setitem(plan.BLOCKS, 18, (1, 1, 1, 1))
    spec, hp, batch = prepared(options)
    state = quick(functools.partial(program._init, spec))(hp)
    step = quick(functools.partial(program._step, spec, True))
    for _ in range(2):
        state, row = step(state, hp, batch)
        assert_complete(row, LAYERS["resnet"])
        assert row["finite"]


AGAIN = [
    options
    for options in MATRIX
    if options[1:] == ("identity", "layer", "branch") and options[0][0] != "resnet"
]


@pytest.mark.parametrize("options", first_of_each(AGAIN, ("mlp", "transformer", "rnn")), ids=named)
def test_computing_activations_again_changes_no_number(options):
    with scope("float64"):
        spec, hp, batch = prepared(options, precision="float64")
        again = dataclasses.replace(
            spec, architecture=dataclasses.replace(spec.architecture, recompute=True)
        )
        with jax.disable_jit():
            state = program._init(spec, hp)
        one, other = (
            quick(functools.partial(program._step, each, True))(state, hp, batch)
            for each in (spec, again)
        )
        assert_same_step(other, one, state, 1e-12)


# --- What is random ---------------------------------------------------------------------------------------------------

SOURCES = (
    "skip.rate",
    "train.input_noise",
    "model.dropout",
)  # the last one of a recurrent network is refused
RANDOM = [("mlp", "dropout"), ("transformer", "stochastic_depth"), ("rnn", "none")]
SLOW = [
    ("cnn", "dropout"),
    ("resnet_cifar", "dropout"),
    ("transformer", "dropout"),
    ("mlp", "stochastic_depth"),
]
RANDOM += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


@pytest.mark.parametrize(("model", "skip"), RANDOM)
def test_training_is_random_by_its_key_alone_and_evaluation_not_at_all(model, skip):
    """Two steps of full-batch descent, of runs that have none of the sources of noise or a single one."""
    sources = (
        SOURCES[: 2 if skip != "none" else 0] + (SOURCES[2:] if model != "rnn" else ())
        or SOURCES[1:2]
    )
    made = configured((model, "elman"), skip, "none", "pre")
    made.optimizer.kind = config.OptimizerKind.gd
    made.train.input_noise = 0.5
    made.model.dropout = 0.5 if model != "rnn" else 0.0
    ready = job.make_run_setup(made)
    runs = 1 + len(sources)
    hp = {path: jnp.broadcast_to(value, (runs,)) for path, value in ready.hp.items()}
    hp |= {path: jnp.zeros(runs) for path in SOURCES}
    hp |= {path: hp[path].at[1 + n].set(0.5) for n, path in enumerate(sources)}
    functions = program.make_program(ready.spec)

    def trained(seed):
        state = functions.init(hp)
        keys = jax.vmap(jax.random.key)(jnp.full(runs, seed, jnp.uint32))
        state, rows = functions.chunk(
            dataclasses.replace(state, key=keys), hp, ready.data, np.int32(0), np.int32(2)
        )
        return np.asarray(rows["train_loss"])[:, :2], state

    (one, state), (same, _), (other, _) = map(trained, (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one[0], other[0])  # without noise the key has no part in it
    assert np.all(np.isfinite(one)) and np.all(
        np.any(one[1:] != other[1:], axis=1)
    )  # in one of the two steps
    evaluations = [
        functions.evaluate(
            dataclasses.replace(state, key=jax.vmap(jax.random.key)(jnp.arange(runs) + n)),
            hp,
            ready.data,
        )
        for n in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, *evaluations)
