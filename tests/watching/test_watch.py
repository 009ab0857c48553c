"""The interface of ``research.watch``: what is chosen, and how mistakes are answered."""

import jax
import jax.numpy as jnp
import pytest

import research
from research.watching.selection import matches

from . import networks

PARAMS = networks.make_params()
BATCH = networks.make_batch()
LINEN = networks.linen_loss(networks.LinenNetwork())
TREE = networks.linen_params(PARAMS)


def names(watch, loss=LINEN, params=TREE):
    return watch.layers(loss, params, BATCH).names


def test_the_stack_of_equal_layers_is_chosen():
    assert names(research.watch()) == [f"block_{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("block_[01]", ["block_0", "block_1"]),
        (["embed", "**/dense"], ["embed", *[f"block_{n}/dense" for n in range(4)]]),
        (networks.LinenBlock, [f"block_{n}" for n in range(4)]),
        (lambda layer: layer.parameters == 24, ["head"]),
    ],
)
def test_layers_are_selected_by_name_class_and_predicate(select, expected):
    assert names(research.watch(select)) == expected


def test_layers_are_selected_by_depth_and_all_of_them():
    assert names(research.watch(depth=2)) == [f"block_{n}/dense" for n in range(4)]
    assert len(names(research.watch("all"))) == 10


def test_globs_stay_within_an_entry_of_the_path():
    assert matches("a/b", "a/*")
    assert not matches("a/b/c", "a/*")
    assert matches("a/b/c", "**/c")


def test_the_table_is_made_without_computing_anything():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE)

    table = research.watch().layers(LINEN, shapes, BATCH)

    assert str(table).splitlines()[1].split() == ["0", "block_0", "LinenBlock", "72"]
    assert "input of the first layer: the input of block_0" in str(table)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("blok_*", r"no layer fits select='blok_\*'; did you mean block_3\?"),
        (int, "no layer is of class int; there are Dense, LinenBlock"),
    ],
)
def test_a_selection_that_fits_nothing(select, message):
    with pytest.raises(ValueError, match=message):
        names(research.watch(select))


def test_a_depth_without_layers():
    with pytest.raises(ValueError, match="no layer is at depth=7; there are layers at 1, 2"):
        names(research.watch(depth=7))


def test_a_loss_without_modules():
    def loss(params, batch):
        return jnp.sum(batch.x @ params.embed)

    with pytest.raises(ValueError, match="no layer was found: .*fathom.tap"):
        names(research.watch(), loss, PARAMS)


def test_float16_needs_a_word_on_the_loss_scale():
    def loss(params, batch):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), (params, batch))
        return networks.scanned_loss(*half)

    with pytest.raises(ValueError, match="layers is in float16.*loss_scale=1"):
        research.watch().value_and_grad(loss)(PARAMS, BATCH)


def test_a_measure_that_is_traced():
    watch = research.watch()

    @jax.jit
    def step(params, measure):
        return watch.value_and_grad(networks.scanned_loss, measure=measure)(params, BATCH)

    with pytest.raises(TypeError, match='static_argnames="measure"'):
        step(PARAMS, True)


@pytest.mark.parametrize(
    ("argnums", "error", "message"),
    [
        (2, ValueError, "argnums=2 needs more than the 2 arguments"),
        ((0, 1), TypeError, "argnums must be one index"),
    ],
)
def test_arguments_that_do_not_exist(argnums, error, message):
    step = research.watch().value_and_grad(networks.scanned_loss, argnums=argnums)
    with pytest.raises(error, match=message):
        step(PARAMS, BATCH)


def test_a_selection_of_another_type():
    with pytest.raises(TypeError, match="select must be 'auto', 'all', a glob.*got 3"):
        names(research.watch(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: (loss, 3), "one number, got a tuple: has_aux=True"),
        (lambda loss: loss * jnp.ones(3), r"one number, got float32\[3\]"),
    ],
)
def test_a_loss_that_is_not_one_number(change, message):
    def loss(params, batch):
        return change(networks.scanned_loss(params, batch))

    with pytest.raises(TypeError, match=message):
        research.watch().layers(loss, PARAMS, BATCH)


def test_parameters_that_are_no_numbers():
    with pytest.raises(TypeError, match="kernel must hold floating-point arrays"):
        research.watch().layers(lambda params: 0.0, {"kernel": jnp.arange(3)})


def test_a_gauge_that_is_not_measured():
    _, _, gauges = jax.jit(research.watch().value_and_grad(networks.scanned_loss))(PARAMS, BATCH)
    with pytest.raises(KeyError, match="saturated is not measured"):
        gauges["saturated"]


def test_a_tap_outside_of_watch_is_nothing():
    h = jnp.arange(3)
    assert research.tap(h, "anything") is h
