"""Models of packages that pip installs, each where it is installed.

    pip install flaxmodels recurrentgemma google-tunix esm2quinox dm-haiku

The expected gradient at the output of a layer is that of a change which the test adds there, with
the library's own means.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import research

# The packages use what JAX and Flax deprecate; that is theirs to change.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TOKENS = jnp.arange(12).reshape(2, 6) % 7
POSITIONS = jnp.broadcast_to(jnp.arange(6), (2, 6))
IMAGES = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
WIDTH = 16


@dataclass(frozen=True)
class Case:
    """A model and what is expected of it.

    Attributes:
        loss: its loss, a function of the model or of its parameters.
        params: the model or its parameters.
        names: the layers that should be measured, in forward order.
        layer: the index of the layer that is compared.
        change: zeros of the shape of its output.
        changed_loss: the loss, with a change added to the output of that layer.
        pick: what belongs to that layer in a gradient.
    """

    loss: Callable[[Any], Any]
    params: Any
    names: list[str]
    layer: int
    change: Any
    changed_loss: Callable[[Any], Any]
    pick: Callable[[Any], Any]


def add_to_first(out, change):
    """Adds a change to the first array of an output."""
    leaves, tree = jax.tree.flatten(out)
    leaves[0] = leaves[0] + change
    return jax.tree.unflatten(tree, leaves)


def change_linen(loss, name):
    """A loss whose Linen module ``name`` is changed."""

    def changed(change):
        def intercept(method, args, kwargs, context):
            out = method(*args, **kwargs)
            is_layer = "/".join(context.module.path) == name
            return add_to_first(out, change) if is_layer and is_call(context) else out

        with nn.intercept_methods(intercept):
            return loss()

    return changed


def is_call(context):
    return context.method_name == "__call__"


def mean_square(out):
    return jnp.mean(jnp.square(out))


def make_flaxmodels():
    """ResNet-18 in Linen: eight blocks in four stages."""
    flaxmodels = pytest.importorskip("flaxmodels")
    network = flaxmodels.ResNet18(output="logits", pretrained=None, num_classes=10)
    variables = network.init(jax.random.key(0), IMAGES, train=False)

    def loss(params):
        return mean_square(network.apply({**variables, "params": params}, IMAGES, train=False))

    return Case(
        loss=loss,
        params=variables["params"],
        names=[f"BasicBlock_{n}" for n in range(8)],
        layer=5,
        change=jnp.zeros((2, 2, 2, 256)),
        changed_loss=change_linen(
            functools.partial(loss, variables["params"]),
            "BasicBlock_5",
        ),
        pick=lambda grads: grads["BasicBlock_5"],
    )


def make_recurrentgemma():
    """Griffin in Linen: rematerialised blocks of two kinds, which return the signal and a cache."""
    recurrentgemma = pytest.importorskip("recurrentgemma.jax")
    block = recurrentgemma.TemporalBlockType
    config = recurrentgemma.GriffinConfig(
        vocab_size=32,
        width=WIDTH,
        mlp_expanded_width=32,
        num_heads=2,
        block_types=(block.RECURRENT, block.RECURRENT, block.ATTENTION),
        embeddings_scale_by_sqrt_dim=True,
        attention_window_size=8,
        logits_soft_cap=30.0,
    )
    network = recurrentgemma.Griffin(config)
    params = network.init(jax.random.key(0), TOKENS, POSITIONS)["params"]

    def loss(params):
        logits, _ = network.apply({"params": params}, TOKENS, POSITIONS, return_cache=False)
        return mean_square(logits)

    return Case(
        loss=loss,
        params=params,
        names=[f"blocks.{n}" for n in range(3)],
        layer=1,
        change=jnp.zeros((2, 6, WIDTH)),
        changed_loss=change_linen(functools.partial(loss, params), "blocks.1"),
        pick=lambda grads: grads["blocks.1"],
    )


class Changed(nnx.Module):
    """A module with a change at its output."""

    def __init__(self, module, change):
        self.module = module
        self.change = nnx.data(change)

    def __call__(self, *args):
        return add_to_first(self.module(*args), self.change)


def make_tunix():
    """Llama 3 in NNX: rematerialised layers that return a cache and the signal."""
    llama = pytest.importorskip("tunix.models.llama3.model")
    config = llama.ModelConfig(
        num_layers=3,
        vocab_size=32,
        embed_dim=WIDTH,
        hidden_dim=32,
        num_heads=2,
        head_dim=8,
        num_kv_heads=1,
        rope_theta=10_000,
        norm_eps=1e-5,
        remat_config=llama.RematConfig.DECODER,
    )
    model = llama.Llama3(config, rngs=nnx.Rngs(0))
    mask = jnp.tril(jnp.ones((1, 6, 6), bool))

    def loss(model):
        logits, _ = model(TOKENS, POSITIONS, None, mask)
        return mean_square(logits)

    def changed_loss(change):
        changed = nnx.clone(model)
        changed.layers[1] = Changed(changed.layers[1], change)
        return loss(changed)

    return Case(
        loss=loss,
        params=model,
        names=[f"layers/{n}" for n in range(3)],
        layer=1,
        change=jnp.zeros((2, 6, WIDTH)),
        changed_loss=changed_loss,
        pick=lambda grads: grads["layers"][1],
    )


def make_esm2quinox():
    """ESM-2 in Equinox: layers in a scan inside of vmap and filter_jit, a tied embedding."""
    eqx = pytest.importorskip("equinox")
    esm2quinox = pytest.importorskip("esm2quinox")
    model = esm2quinox.ESM2(3, WIDTH, 2, token_dropout=False, key=jax.random.key(0))
    tokens = TOKENS + 4

    class ChangedLayer(eqx.Module):
        layer: Any
        change: Any

        def __call__(self, x, is_pad):
            return self.layer(x, is_pad=is_pad) + self.change

    def loss(model):
        return mean_square(jax.vmap(model)(tokens).logits)

    def changed_loss(change):
        def run(tokens, change):
            of_layers = jnp.zeros((3, *change.shape)).at[1].set(change)
            layers = ChangedLayer(model.layers, of_layers)
            return eqx.tree_at(lambda model: model.layers, model, layers)(tokens)

        return mean_square(jax.vmap(run)(tokens, change).logits)

    return Case(
        loss=loss,
        params=model,
        names=[f"layers[{n}]" for n in range(3)],
        layer=1,
        change=jnp.zeros((2, 6, WIDTH)),
        changed_loss=changed_loss,
        pick=lambda grads: jax.tree.map(lambda leaf: leaf[1], grads.layers),
    )


def make_haiku():
    """ResNet-18 in Haiku: four groups of two blocks, with batch statistics."""
    hk = pytest.importorskip("haiku")
    images = jax.random.uniform(jax.random.key(2), (4, 64, 64, 3))

    def forward(images):
        head = {"w_init": hk.initializers.RandomNormal(0.1)}  # zeros by default
        return hk.nets.ResNet18(10, logits_config=head)(images, is_training=True)

    network = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = network.init(jax.random.key(0), images)

    def loss(params):
        return mean_square(network.apply(params, state, images)[0])

    def changed_loss(change):
        def intercept(method, args, kwargs, context):
            out = method(*args, **kwargs)
            is_layer = context.module.module_name.endswith("block_group_1/~/block_1")
            return add_to_first(out, change) if is_layer and is_call(context) else out

        with hk.intercept_methods(intercept):
            return loss(params)

    def pick(grads):
        return {name: grad for name, grad in grads.items() if "block_group_1/~/block_1/" in name}

    return Case(
        loss=loss,
        params=params,
        names=[f"res_net18/block_group_{n // 2}/block_{n % 2}" for n in range(8)],
        layer=3,
        change=jnp.zeros((4, 8, 8, 128)),
        changed_loss=changed_loss,
        pick=pick,
    )


@pytest.fixture(autouse=True)
def _promoting_ranks():
    """The packages add arrays of different ranks, which Fathom's own code must not."""
    with jax.numpy_rank_promotion("allow"):
        yield


def norm(tree):
    squares = [np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)]
    return np.sqrt(sum(squares))


@pytest.mark.parametrize(
    "make",
    [make_flaxmodels, make_recurrentgemma, make_tunix, make_esm2quinox, make_haiku],
)
def test_a_model_of_a_package_is_measured_in_forward_order(make):
    case = make()

    differentiate = research.watch().value_and_grad(case.loss)
    jit = nnx.jit if isinstance(case.params, nnx.Module) else jax.jit
    if make is make_esm2quinox:
        jit = pytest.importorskip("equinox").filter_jit
    value, grads, gauges = jit(differentiate)(case.params)

    assert gauges.table.names == case.names
    expected_value, signal_grad = jax.jit(jax.value_and_grad(case.changed_loss))(case.change)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    measured = gauges["signal_grad"][case.layer + 1]
    np.testing.assert_allclose(measured, norm(signal_grad), rtol=1e-5)
    own = norm(case.pick(grads))
    assert own > 0
    np.testing.assert_allclose(gauges["grad_norm"][case.layer], own, rtol=1e-6)
