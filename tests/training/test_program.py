"""Laws of a run as a pure function: what it depends on, and what must not change it."""

import contextlib
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import (
    BlockScale,
    Level,
    NormScale,
    Parametrization,
    Placement,
    SkipKind,
)
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_hparams, make_program_config
from .programs import (
    assert_equal,
    initial_params,
    make_data,
    make_losses,
    make_pair_config,
    repeat_first_example,
    to_float64,
    train,
)

LEVELS = [option.name for option in Level]
# The compiler fuses the two branches of a conditional, measured and other steps, each in its own
# way: sums run in another order, and the last bit differs.
FUSION_ERROR = 1e-6


def take_run(tree, run):
    """The part of one run, still with a runs axis."""
    return jax.tree.map(lambda leaf: leaf[run : run + 1], tree)


@contextlib.contextmanager
def no_tracing():
    """JAX raises an error where it would trace a function."""
    jax.config.update("jax_no_tracing", True)
    try:
        yield
    finally:
        jax.config.update("jax_no_tracing", False)


def other_number(value):
    is_integer = jnp.issubdtype(value.dtype, jnp.integer)
    return jnp.full_like(value, 3 if is_integer else 0.37)


def test_runs_that_differ_in_numbers_share_one_trace():
    spec = make_program_config(level="off", capacity=11)
    hp = make_hparams(spec)
    other_seed = make_hparams(spec, {"seed": 2**32 - 1})
    other_numbers = jax.tree.map(other_number, hp)
    data = make_data()
    program = make_program(spec)
    train(spec, hp, data, chunks=(10,))
    with no_tracing():
        train(spec, other_seed, data, chunks=(3, 4))
        train(spec, other_numbers, data, chunks=(1, 11))
    assert make_program(spec) is program


def test_a_batch_of_runs_equals_the_runs_alone():
    spec = make_program_config()
    numbers = {"seed": [0, 1, 2], "optimizer.learning_rate": [0.1, 0.01, 0.3]}
    hp = make_hparams(spec, numbers, runs=3)
    batch = train(spec, hp)
    for run in range(3):
        alone = train(spec, take_run(hp, run))
        assert_equal(alone, take_run(batch, run))


def list_variants():
    """Each shortcut, placement and scale of a norm, parametrization and number format."""
    variants = []
    for skip in SkipKind:
        if skip is not SkipKind.deepnorm:  # for transformers
            variants.append({"skip": skip.name})
    normalised = {"skip": "identity", "norm": "layer"}
    for placement in Placement:
        variants.append(normalised | {"placement": placement.name})
    for scale in NormScale:
        variants.append(normalised | {"scale": scale.name})
    for name in Parametrization:
        bases = {"base_width": 2, "base_depth": 1, "optimizer": "adam"}
        variants.append({"skip": "identity", "parametrization": name.name, **bases})
    for block_scale in BlockScale:
        variants.append({"precision": "float4_e2m1", "block_scale": block_scale.name})
    return variants


@pytest.mark.slow
@pytest.mark.parametrize("changes", list_variants(), ids=str)
def test_a_batch_of_runs_of_every_option_equals_the_runs_alone(changes):
    spec = dataclasses.replace(make_program_config(**changes), fast_compile=False)
    numbers = {"seed": [0, 1], "optimizer.learning_rate": [0.1, 0.03]}
    if changes.get("skip") in ("hyper", "mhc"):
        numbers["skip.mixing_noise"] = [0.1, 0.3]
    hp = make_hparams(spec, numbers, runs=2)
    batch = train(spec, hp, chunks=(3,))
    alone = train(spec, take_run(hp, 1), chunks=(3,))
    assert_equal(alone, take_run(batch, 1))


def test_the_seed_decides_the_run():
    spec = make_program_config()
    first = train(spec, make_hparams(spec, {"seed": 5}))
    same_seed = train(spec, make_hparams(spec, {"seed": 5}))
    _, rows = first
    _, other_rows = train(spec, make_hparams(spec, {"seed": 6}))
    assert_equal(first, same_seed)
    assert not np.any(rows["train_loss"] == other_rows["train_loss"])


@pytest.mark.parametrize("chunks", [(3, 3, 4), (1, 9), (7, 3)], ids=str)
def test_chunks_do_not_change_the_run(chunks):
    """An epoch has three steps: chunks end within epochs and between them."""
    spec = make_program_config()
    whole = train(spec, make_hparams(spec), chunks=(10,))
    in_chunks = train(spec, make_hparams(spec), chunks=chunks)
    assert_equal(in_chunks, whole)
    state, _ = whole
    assert int(state.step[0]) == 10


@pytest.mark.parametrize("level", LEVELS)
def test_measuring_does_not_change_the_run(level):
    plain_spec = make_program_config(level="norms")
    spec = make_program_config(level=level)
    plain_state, plain_rows = train(plain_spec, make_hparams(plain_spec))
    state, rows = train(spec, make_hparams(spec))
    assert_equal(plain_state, state)
    for name in ("train_loss", "train_accuracy", "learning_rate"):
        assert_array_equal(plain_rows[name], rows[name])


def train_measured_every(steps):
    spec = make_program_config(level="full", every=steps)
    return train(spec, make_hparams(spec))


def test_measuring_at_an_interval_does_not_change_the_run(distance):
    plain, plain_rows = train_measured_every(1)
    spaced, spaced_rows = train_measured_every(5)
    assert distance(spaced.params, plain.params) < FUSION_ERROR
    assert_allclose(spaced_rows["train_loss"], plain_rows["train_loss"], rtol=FUSION_ERROR)


def test_between_measured_steps_gauges_are_nan():
    _, plain = train_measured_every(1)
    _, spaced = train_measured_every(5)
    plain_gauges = plain["profile"] | {"total_norm": plain["grad_norm"]}
    spaced_gauges = spaced["profile"] | {"total_norm": spaced["grad_norm"]}
    is_measured = np.arange(10) % 5 == 0
    for name, values in spaced_gauges.items():
        assert np.all(np.isnan(values[:, ~is_measured])), name
        assert_allclose(
            values[:, is_measured],
            plain_gauges[name][:, is_measured],
            rtol=FUSION_ERROR,
            atol=1e-8,  # in a mean, terms cancel
            err_msg=name,
        )
    assert np.all(spaced["finite"])


def test_levels_add_gauges():
    entries = {}
    for level in LEVELS:
        spec = make_program_config(level=level)
        _, rows = train(spec, make_hparams(spec))
        profile = rows.get("profile", {})
        entries[level] = jax.tree.map(lambda values: values.shape[-1], profile)
    norms = {"signal_grad": 4, "activation_rms": 4, "activation_mean": 4, "grad_norm": 3}
    only_in_full = {
        "signal_variation": 4,
        "signal_correlation": 4,
        "branch_grad": 3,
        "skip_grad": 3,
        "weight_norm": 3,
        "update_norm": 3,
        "update_ratio": 3,
        "saturated": 3,
        "dead": 3,
    }
    assert entries == {"off": {}, "norms": norms, "full": norms | only_in_full}


def test_the_loss_at_initialisation_is_log_classes():
    spec = make_program_config()
    numbers = {"init.gain": [0.0, 1.0, 1.0], "seed": [0, 1, 2]}
    hp = make_hparams(spec, numbers, runs=3)
    _, rows = train(spec, hp)
    first_losses = rows["train_loss"][:, 0]
    assert_allclose(first_losses[0], np.log(4), rtol=1e-6)
    assert_allclose(first_losses[1:], np.log(4), atol=0.5)


def test_a_small_set_is_learned_by_heart():
    spec = make_program_config()
    hp = make_hparams(spec, {"optimizer.learning_rate": 0.1})
    _, rows = train(spec, hp, chunks=(16,) * 25)
    last_epoch = slice(-3, None)
    assert np.max(rows["train_loss"][0, last_epoch]) < 0.01
    assert np.all(rows["train_accuracy"][0, last_epoch] == 1)


def test_an_exploded_run_is_reported_as_such():
    spec = make_program_config()
    hp = make_hparams(spec, {"optimizer.learning_rate": 1e38})
    _, rows = train(spec, hp)
    assert rows["finite"][0, 0]
    assert not np.all(rows["finite"])


def visited_pairs(losses, step_losses):
    """The two examples of each step, from the losses of single examples and those of the steps."""
    pairs = np.array(list(itertools.combinations(range(len(losses)), 2)))
    means = losses[pairs].mean(axis=1)
    distances = np.abs(step_losses[:, None] - means)
    matches_per_step = np.sum(distances < 1e-5, axis=1)
    assert np.all(matches_per_step == 1)
    return pairs[np.argmin(distances, axis=1)]


def test_each_epoch_visits_each_example_at_most_once():
    """At a learning rate of 0 a step's loss tells which two of the seven examples it saw."""
    spec = make_pair_config()
    data = make_data(7, classes=2)
    numbers = {
        "optimizer.learning_rate": 0.0,
        "seed": [4, 4, 5],
        "init.gain": [1.0, 2.0, 1.0],
    }
    hp = make_hparams(spec, numbers, runs=3)
    state, rows = train(spec, hp, data, chunks=(5, 7))
    epochs_of_runs = []
    for run in range(3):
        losses_of_params = make_losses(spec, hp, data, run=run)
        losses = np.asarray(losses_of_params(to_float64(state.params, run)))
        order = visited_pairs(losses, rows["train_loss"][run])
        epochs = np.reshape(order, (4, 6)).tolist()
        for epoch in epochs:
            assert len(set(epoch)) == 6
        epochs_of_runs.append(epochs)
    first, same_seed, other_seed = epochs_of_runs
    assert first == same_seed
    assert first != other_seed
    assert len({tuple(epoch) for epoch in first}) == 4, "epochs have the same order"


def test_the_total_norm_is_that_of_all_layers_with_embedding_and_head():
    """One step of descent at a learning rate of 1 changes the parameters by the gradient."""
    with precision_context("float64"):
        spec = make_program_config(
            precision="float64", optimizer="gd", activation="relu", bias=False
        )
        hp = make_hparams(spec, {"optimizer.learning_rate": 1.0})
        before = initial_params(spec, hp)
        state, rows = train(spec, hp, make_data(8), chunks=(1,))
        gradient = jax.tree.map(np.subtract, before, to_float64(state.params))
        kernels = gradient["stages"][0]["branch"]["weights"][0]["kernel"]
        layers = np.linalg.norm(kernels, axis=(1, 2))
        embedding = np.linalg.norm(gradient["embed"]["kernel"])
        head = np.linalg.norm(gradient["head"]["kernel"])
        total = np.linalg.norm([*layers, embedding, head])
        assert_allclose(rows["profile"]["grad_norm"][0, 0], layers, rtol=1e-12)
        assert_allclose(rows["grad_norm"][0, 0], total, rtol=1e-12)


def test_evaluation_uses_running_statistics_and_no_smoothing():
    spec = make_program_config(norm="batch", level="off")
    hp = make_hparams(spec, {"loss.label_smoothing": 0.1})
    without_smoothing = make_hparams(spec)
    data = make_data()
    state, _ = train(spec, hp, data, chunks=(5,))
    evaluated = make_program(spec).evaluate(state, hp, data)
    losses = make_losses(spec, without_smoothing, data, split="eval_")
    expected = losses(to_float64(state.params), running=to_float64(state.model_state))
    assert_allclose(evaluated["eval_loss"], [np.mean(expected)], rtol=1e-5)
    assert evaluated["eval_accuracy"].shape == (1,)


def test_running_statistics_accumulate_from_step_to_step():
    """Of one repeated example h: the mean becomes (1 - 0.9^S) h, the variance 0.9^S + 0."""
    spec = make_program_config(norm="batch", level="off")
    hp = make_hparams(spec, {"optimizer.learning_rate": 0.0})
    data = repeat_first_example(make_data())
    state, _ = train(spec, hp, data, chunks=(2, 3))
    embed = to_float64(state.params)["embed"]
    running = to_float64(state.model_state)["stages"][0]["norm"]
    example = np.asarray(data["x"][0], np.float64)
    h = example @ embed["kernel"] + embed["bias"]
    decay = 0.9**5
    assert_allclose(running["mean"][0], (1 - decay) * h, rtol=1e-5)
    assert_allclose(running["var"][0], decay, rtol=1e-5)


def flat_layers(state):
    """The parameters of each of three layers, [3, …]."""
    flat = []
    for leaf in jax.tree.leaves(to_float64(state.params)["stages"]):
        flat.append(leaf.reshape(3, -1))
    return np.concatenate(flat, axis=1)


def test_update_gauges_are_those_of_the_stored_parameters():
    spec = make_program_config(level="full")
    hp = make_hparams(spec)
    before, _ = train(spec, hp, chunks=(4,))
    after, rows = train(spec, hp, chunks=(5,))
    weight = np.linalg.norm(flat_layers(before), axis=1)
    update = np.linalg.norm(flat_layers(after) - flat_layers(before), axis=1)
    profile = jax.tree.map(lambda values: values[0, 4], rows["profile"])
    assert_allclose(profile["weight_norm"], weight, rtol=1e-5)
    assert_allclose(profile["update_norm"], update, rtol=1e-5)
    assert_allclose(profile["update_ratio"], update / weight, rtol=1e-5)


def test_full_batch_steps_see_every_example():
    with precision_context("float64"):
        spec = make_program_config(
            precision="float64", optimizer="gd", activation="relu", bias=False
        )
        hp = make_hparams(spec, {"optimizer.learning_rate": 0.0})
        data = make_data(8)
        state, rows = train(spec, hp, data, chunks=(3,))
        expected = jnp.mean(make_losses(spec, hp, data)(to_float64(state.params)))
        assert_allclose(rows["train_loss"][0], float(expected), rtol=1e-12)
