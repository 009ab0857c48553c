"""Parameter counts of the papers, and every combination of options that is allowed.

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

from research import config, job
from research.combinations import check_combinations
from research.models import architecture, plan
from research.models.stack import Stack
from research.training import program
from research.training.precision import scope

# Compiling is most of these tests' time; how well the code is optimised is not what they are about.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# --- Parameter counts -------------------------------------------------------------------------------------------------

CIFAR = dict(kind="resnet_cifar", shape=(32, 32, 3), classes=10, width=16, skip="identity", norm="batch")
IMAGENET = dict(kind="resnet", shape=(224, 224, 3), classes=1000, width=64, skip="identity", norm="batch")
# torchvision's models hold the same numbers of parameters.
IMAGENET_COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
IMAGENET_MILLIONS = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}


@pytest.fixture(scope="session")
def count(make_architecture, make_numbers):
    """How many parameters a network has; nothing is allocated."""

    def parameters(**changes):
        arch, hp = make_architecture(**changes), make_numbers(runs=None)
        params = nnx.state(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))), nnx.Param)
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    return parameters


def cifar_parameters(depth, classes=10):
    """Stem, then of widths 16, 32, 64 n blocks of two 3×3 convolutions without bias, each with a batch norm; head."""
    n, widths = (depth - 2) // 6, (16, 32, 64)
    total, inputs = 9 * 3 * 16 + 2 * 16, 16
    for w in widths:
        total += 9 * inputs * w + (2 * n - 1) * 9 * w * w + 2 * n * 2 * w
        inputs = w
    return total + 64 * classes + classes


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnets_for_cifar_have_the_papers_parameters(depth, millions, count):
    """He et al. 2016, Table 6, with option A, which has no parameters."""
    assert cifar_parameters(20) == 269_722
    assert count(**CIFAR, depth=depth, placement="branch", transition="pad") == cifar_parameters(depth)
    assert round(cifar_parameters(depth) / 1e6, len(str(millions)) - 2) == millions


def test_resnets_for_cifar_with_projections_have_two_more_maps(count):
    """Option B: two 1×1 convolutions, each with a batch norm."""
    maps = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(**CIFAR, depth=20, placement="branch", transition="projection") == cifar_parameters(20) + maps


@pytest.mark.parametrize("depth", IMAGENET_COUNTS)
def test_resnets_for_imagenet_have_the_papers_parameters(depth, count):
    found = count(**IMAGENET, depth=depth, placement="branch", transition="projection")
    assert found == IMAGENET_COUNTS[depth]
    assert round(found / 1e6, 2) == IMAGENET_MILLIONS[depth]


def transformer_blocks(depth, width, expansion):
    """Four maps of attention, two of the feed-forward part, all with biases, and two layer norms."""
    wide = width * expansion
    attention, feedforward = 4 * (width**2 + width), 2 * width * wide + wide + width
    return depth * (attention + feedforward + 2 * 2 * width)


TRANSFORMER = dict(kind="transformer", depth=3, width=12, heads=3, expansion=5, norm="layer", skip="identity")


@pytest.mark.parametrize("placement", ["pre", "post", "branch"])
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_a_transformer_that_classifies_has_the_closed_formulas_parameters(positions, placement, count):
    found = count(**TRANSFORMER, shape=(7, 4, 2), classes=5, positions=positions, placement=placement)
    embedding = 8 * 12 + 12 + (7 * 12 if positions == "learned" else 0)
    final = 2 * 12 if placement == "pre" else 0
    assert found == embedding + transformer_blocks(3, 12, 5) + final + 12 * 5 + 5


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_has_the_closed_formulas_parameters(tied, count):
    found = count(**TRANSFORMER, shape=(7,), vocabulary=29, classes=29, language=True, tied=tied)
    head = 0 if tied else 12 * 29 + 29
    assert found == 29 * 12 + 7 * 12 + transformer_blocks(3, 12, 5) + 2 * 12 + head


def test_gpt_2_has_its_parameters(count):
    """124.4 million (Radford et al. 2019: "117M", later corrected)."""
    gpt2 = dict(kind="transformer", depth=12, width=768, heads=12, expansion=4, norm="layer", skip="identity")
    found = count(**gpt2, shape=(1024,), vocabulary=50257, classes=50257, language=True, tied=True)
    assert found == 124_439_808


@pytest.mark.parametrize(("cell", "gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_recurrent_network_has_the_closed_formulas_parameters(cell, gates, bias, count):
    """W [D, D], U [P, D] and b [D] a gate; a GRU has a second bias, inside its reset gate."""
    width, pieces, classes = 6, 10, 4
    weights = gates * (width * width + pieces * width) + width * classes
    biases = gates * width + (width if cell == "gru" else 0) + classes
    rnn = dict(kind="rnn", cell=cell, width=width, bias=bias)
    assert count(**rnn, shape=(5, 10), depth=5) == weights + bias * biases
    pieces = width
    weights = gates * (width * width + pieces * width) + 11 * width + width * 11
    biases += 11 - classes
    text = dict(shape=(5,), vocabulary=11, classes=11, language=True)
    assert count(**rnn, **text, depth=5) == weights + bias * biases


# --- The matrix -------------------------------------------------------------------------------------------------------

KINDS = [(kind.name, "elman") for kind in config.ModelKind] + [("rnn", cell.name) for cell in config.Cell][1:]
GROUPS = (
    KINDS,
    *([option.name for option in group] for group in (config.SkipKind, config.NormKind, config.Placement)),
)
DEPTHS = {"mlp": 3, "cnn": 3, "resnet_cifar": 8, "resnet": 18, "transformer": 2, "rnn": 4}
LAYERS = {"mlp": 3, "cnn": 3, "resnet_cifar": 3, "resnet": 8, "transformer": 4, "rnn": 4}  # of those depths
ALLOWED = {"mlp": 205, "cnn": 205, "resnet_cifar": 201, "resnet": 201, "transformer": 167, "rnn": 60 + 3 + 3}
INSIDE = {"grad_norm", "branch_grad", "skip_grad", "saturated", "dead", "weight_norm", "update_norm", "update_ratio"}
SIGNALS = {"signal_grad", "activation_rms", "activation_mean"}


def configured(model, skip, norm, placement, *, depth=None, precision="float32"):
    """A small network of these options, everything measured."""
    kind, cell = model
    made = config.Config()
    made.model = config.Model(config.ModelKind[kind], depth or DEPTHS[kind], width=4, heads=2, expansion=2)
    made.model.cell = config.Cell[cell]
    made.skip = config.Skip(config.SkipKind[skip], branch_scale=0.7, shortcut_scale=0.9, growth=2)
    made.norm = config.Norm(config.NormKind[norm], groups=2, placement=config.Placement[placement])
    made.activation.kind, made.init.kind = config.ActivationKind.tanh, config.InitKind.lecun
    made.init.sigma_b = 0.1
    made.optimizer = config.Optimizer(config.OptimizerKind.sgd, learning_rate=0.5)
    made.precision.kind = config.PrecisionKind[precision]
    made.data = config.Data(config.DataKind.noise, shape=[8, 8, 1], classes=3, examples=8)
    made.train = config.Train(steps=2, batch_size=4)
    made.measure.level = config.Level.full
    return made


def is_allowed(options):
    try:
        check_combinations(configured(*options))
    except ValueError:
        return False
    return True


MATRIX = [options for options in itertools.product(*GROUPS) if is_allowed(options)]


@functools.cache
def prepared(options, **changes):
    """The program's description and the numbers of one run."""
    made = configured(*options, **changes)
    with scope(made.precision.kind.name):
        ready = job.prepare(made)
        batch = ready.data["x"][:4].astype(ready.spec.architecture.dtype), ready.data["y"][:4]
        return ready.spec, {path: value[0] for path, value in ready.hp.items()}, batch


def test_as_many_are_allowed_as_the_rules_leave():
    """12 shortcuts that suit every network, fixup without norms alone, and the rules of combinations.py."""
    found = {kind: sum(model[0] == kind for model, *_ in MATRIX) for kind in ALLOWED}
    assert found == ALLOWED
    free, placements, norms = 11, 3, 6  # all shortcuts but fixup, deepnorm and dense
    assert ALLOWED["mlp"] == free * norms * placements + placements + (placements + 1)  # fixup; dense
    assert ALLOWED["resnet"] == free * norms * placements + placements
    assert ALLOWED["transformer"] == free * (norms - 1) * placements + 2  # deepnorm with layer and with rms
    assert ALLOWED["rnn"] == 4 * (norms - 1) * placements + 2 * placements


def assert_complete(row, layers):
    """Every gauge is there, with one value a layer, of signals one more."""
    assert set(row["profile"]) == INSIDE | SIGNALS
    for name, values in row["profile"].items():
        assert values.shape == (layers + (name in SIGNALS),), name
    assert row["train_loss"].shape == row["grad_norm"].shape == ()


def one_in(step, cases):
    """All cases, of which one in ``step`` is run always and the others where slow tests are asked for."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if n % step else []) for n, case in enumerate(cases)]


@pytest.mark.parametrize(
    ("model", "skip"), one_in(19, itertools.product(KINDS, GROUPS[1])), ids=lambda part: "".join(part)
)
def test_every_combination_builds_and_steps(model, skip, monkeypatch):
    """By shapes: a step takes a state to one of the same shapes, and measures every gauge in every layer.

    ``resnet`` with one block a stage instead of two, which halves the time.
    """
    layers = 4 if model[0] == "resnet" else LAYERS[model[0]]
    monkeypatch.setitem(plan.BLOCKS, 18, (1, 1, 1, 1))
    for options in MATRIX:
        if options[:2] == (model, skip):
            spec, hp, batch = prepared(options)
            state = jax.eval_shape(functools.partial(program._init, spec), hp)
            after, row = jax.eval_shape(functools.partial(program._step, spec, True), state, hp, batch)
            assert jax.tree.structure(after) == jax.tree.structure(state), options
            assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [
                (b.shape, b.dtype) for b in jax.tree.leaves(state)
            ], options
            assert_complete(row, layers)


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
            carry, out = body(carry, jax.tree.map(lambda leaf: leaf[n], xs))  # noqa: B023
            outs.append(out)
        return carry, jax.tree.map(lambda *each: jnp.stack(each), *outs)

    with monkeypatch.context() as patch, jax.disable_jit():
        patch.setattr(jax.lax, "scan", loop)
        yield


def in_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def assert_same_step(one, other, before, tolerance):
    """Loss, every gauge, running statistics and every parameter's change, which is its gradient."""
    (state, row), (wanted, expected) = one, other
    old, new, like = (in_numpy(nnx.to_pure_dict(part)) for part in (before.params, state.params, wanted.params))
    moved, should = (jax.tree.map(lambda a, b: a - b, part, old) for part in (new, like))
    whole = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(should)))
    for (path, a), b in zip(jax.tree.leaves_with_path(moved), jax.tree.leaves(should), strict=True):
        # Some gradients are zero but for rounding (a bias in front of batch norm): hence a part of the whole.
        slack = tolerance * np.linalg.norm(b) + 0.1 * tolerance * whole
        assert np.linalg.norm(a - b) <= slack, jax.tree_util.keystr(path)
    rows = in_numpy((row, state.rest)), in_numpy((expected, wanted.rest))
    signals = np.max(rows[1][0]["profile"]["activation_rms"])
    for (path, a), b in zip(jax.tree.leaves_with_path(rows[0]), jax.tree.leaves(rows[1]), strict=True):
        name = jax.tree_util.keystr(path)
        # A mean cancels, so its error is that of the elements.
        size = signals if "mean" in name else np.max(np.abs(np.nan_to_num(b)), initial=0)
        np.testing.assert_allclose(a, b, tolerance, tolerance * size, err_msg=name)


def named(options):
    (kind, cell), *rest = options
    return "-".join([kind if kind != "rnn" else cell, *rest])


@pytest.mark.parametrize("options", one_in(7, [(options,) for options in COVERING]), ids=named)
def test_two_steps_are_finite_and_scan_equals_unrolled(options, monkeypatch):
    """In float64, so that 1e-9 tells another computation from another order of the same sums."""
    kind = options[0][0]
    deep = {"depth": 14} if kind == "resnet_cifar" else {}  # at 8 there is one block a stage, and no scan
    with scope("float64"):
        spec, hp, batch = prepared(options, precision="float64", **deep)
        with jax.disable_jit():
            state = program._init(spec, hp)
        step = jax.jit(functools.partial(program._step, spec, True), compiler_options=QUICK)
        first = step(state, hp, batch)
        second = step(first[0], hp, batch)
        for _, row in (first, second):
            assert_complete(row, 6 if kind == "resnet_cifar" else LAYERS[kind])
            assert row["finite"] and np.all(np.isfinite(row["profile"]["signal_grad"]))
        with scans_written_out(monkeypatch):
            assert_same_step(first, program._step(spec, True, state, hp, batch), state, 1e-9)


@pytest.mark.parametrize("options", one_in(3, [(options,) for options in RESNETS]), ids=named)
def test_a_resnet_for_imagenet_takes_two_steps(options):
    spec, hp, batch = prepared(options)
    state = jax.jit(functools.partial(program._init, spec), compiler_options=QUICK)(hp)
    step = jax.jit(functools.partial(program._step, spec, True), compiler_options=QUICK)
    for _ in range(2):
        state, row = step(state, hp, batch)
        assert_complete(row, LAYERS["resnet"])
        assert row["finite"]


@pytest.mark.parametrize(
    "options",
    [options for options in MATRIX if options[1:] == ("identity", "layer", "branch") and options[0][0] != "resnet"],
    ids=named,
)
def test_computing_activations_again_changes_no_number(options):
    with scope("float64"):
        spec, hp, batch = prepared(options, precision="float64")
        again = dataclasses.replace(spec, architecture=dataclasses.replace(spec.architecture, recompute=True))
        with jax.disable_jit():
            state = program._init(spec, hp)
        one, other = (
            jax.jit(functools.partial(program._step, each, True), compiler_options=QUICK)(state, hp, batch)
            for each in (spec, again)
        )
        assert_same_step(other, one, state, 1e-12)


# --- What is random ---------------------------------------------------------------------------------------------------

SOURCES = ("skip.rate", "train.input_noise", "model.dropout")  # the last one of a recurrent network is refused
RANDOM = [(model, skip) for model in ("mlp", "cnn", "resnet_cifar", "transformer") for skip in ("dropout",)]
RANDOM += [("transformer", "stochastic_depth"), ("mlp", "stochastic_depth"), ("rnn", "none")]


@pytest.fixture
def _quickly_compiled():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("_quickly_compiled")
@pytest.mark.parametrize(("model", "skip"), RANDOM)
def test_training_is_random_by_its_key_alone_and_evaluation_not_at_all(model, skip):
    """Two steps of full-batch descent, of runs that have none of the sources of noise or a single one."""
    sources = SOURCES[: 2 if skip != "none" else 0] + (SOURCES[2:] if model != "rnn" else ()) or SOURCES[1:2]
    made = configured((model, "elman"), skip, "none", "pre")
    made.optimizer.kind, made.train.input_noise = config.OptimizerKind.gd, 0.5
    made.model.dropout = 0.5 if model != "rnn" else 0.0
    ready = job.prepare(made)
    runs = 1 + len(sources)
    hp = {path: jnp.broadcast_to(value, (runs,)) for path, value in ready.hp.items()}
    hp |= {path: jnp.zeros(runs) for path in SOURCES}
    hp |= {path: hp[path].at[1 + n].set(0.5) for n, path in enumerate(sources)}
    functions = program.make_program(ready.spec)

    def trained(seed):
        state = functions.init(hp)
        keys = jax.vmap(jax.random.key)(jnp.full(runs, seed, jnp.uint32))
        state, rows = functions.chunk(dataclasses.replace(state, key=keys), hp, ready.data, np.int32(0), np.int32(2))
        return np.asarray(rows["train_loss"])[:, :2], state

    (one, state), (same, _), (other, _) = map(trained, (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one[0], other[0])  # without noise the key has no part in it
    assert np.all(np.isfinite(one)) and np.all(np.any(one[1:] != other[1:], axis=1))  # in one of the two steps
    evaluations = [
        functions.evaluate(
            dataclasses.replace(state, key=jax.vmap(jax.random.key)(jnp.arange(runs) + n)), hp, ready.data
        )
        for n in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, *evaluations)


# --- A residual network against its formula ---------------------------------------------------------------------------


def convolved(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=axes)


def normalised(h, norm):
    mean, var = jnp.mean(h, (0, 1, 2), keepdims=True), jnp.var(h, (0, 1, 2), keepdims=True)
    scale, bias = (norm[name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
    return (h - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def residual_network(params, images, nudges, placement):
    """Depth 14: two blocks each of widths w, 2w and 4w (He et al. 2016, Fig. 2; ``pre``: 2016b, Fig. 4e)."""
    pre, relu, nudges = placement == "pre", jax.nn.relu, iter(nudges)
    tapped = lambda h: h + next(nudges, jnp.zeros_like(h))  # noqa: E731
    h = convolved(images, params["embed"]["conv"]["kernel"])
    h = tapped(h if pre else relu(normalised(h, params["embed"]["norm"])))
    seen = [h]
    stacks = params["stages"]
    places = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (4, 0)]  # blocks that change the shape are stages of their own
    for n, (stage, block) in enumerate(places):
        layer = jax.tree.map(lambda leaf: leaf[block], stacks[stage])  # noqa: B023
        first, second = (layer["branch"]["weights"][i]["kernel"] for i in (0, 1))
        stride = 2 if n in (2, 4) else 1
        z, shortcut = tapped(h), tapped(h)
        seen += [z, shortcut]
        z = relu(normalised(z, layer["norm"])) if pre else z
        z = convolved(relu(normalised(convolved(z, first, stride), layer["branch"]["norms"][1])), second)
        z = normalised(z, layer["norm"]) if placement == "branch" else z
        shortcut = shortcut[:, ::stride, ::stride]
        if "projection" in layer.get("skip", {}):
            shortcut = normalised(shortcut @ layer["skip"]["projection"]["kernel"], layer["skip"]["norm"])
        else:
            shortcut = jnp.pad(shortcut, [(0, 0)] * 3 + [(0, z.shape[-1] - shortcut.shape[-1])])
        h = z + shortcut
        h = normalised(h, layer["norm"]) if placement == "post" else h
        h = tapped(h if pre else relu(h))
        seen.append(h)
    h = relu(normalised(h, params["norm"])) if pre else h
    return jnp.mean(h, (1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None], seen


@pytest.mark.parametrize("transition", ["pad", "projection"])
@pytest.mark.parametrize("placement", GROUPS[3])
def test_a_residual_network_and_its_gauges_are_those_of_the_formula(
    placement, transition, build, make_architecture, make_numbers
):
    how = dict(kind="resnet_cifar", depth=14, width=3, shape=(8, 8, 2), classes=4, skip="identity", norm="batch")
    formats = dict(dtype="float64", param_dtype="float64", activation="relu")
    arch = make_architecture(**how, **formats, placement=placement, transition=transition)
    draw = np.random.default_rng(0).standard_normal
    with scope("float64"):
        hp = make_numbers(runs=None, dtype="float64")
        graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
        with jax.disable_jit():
            params, rest = build(arch, hp)
        params = jax.tree.map(lambda leaf: leaf + 0.2 * draw(leaf.shape), params)
        x, cotangent = jnp.asarray(draw((3, 128))), jnp.asarray(draw((3, 4)))
        slots = {"signal_grad": jnp.zeros(7), "branch_grad": jnp.zeros(6), "skip_grad": jnp.zeros(6)}

        def objective(params, slots):
            told = architecture.Pass(hp, train=True, forward=True)
            logits, statistics = nnx.merge(graph, params, rest, copy=True)(x, slots, told)
            return jnp.sum(logits * cotangent), (logits, statistics)

        def expected(params, nudges):
            logits, seen = residual_network(params, x.reshape(3, 8, 8, 2), nudges, placement)
            return jnp.sum(logits * cotangent), (logits, seen)

        quick = functools.partial(jax.jit, compiler_options=QUICK)
        gradient = quick(jax.grad(objective, (0, 1), has_aux=True))
        (grads, gauges), (logits, statistics) = gradient(params, slots)
        plain = nnx.to_pure_dict(params)
        shapes = jax.eval_shape(expected, plain, [])[1][1]
        nudges = [jnp.zeros(shape.shape) for shape in shapes]
        (wanted, nudged), (like, seen) = quick(jax.grad(expected, (0, 1), has_aux=True))(plain, nudges)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10)
    close(logits, like)
    norms = [np.linalg.norm(nudge) for nudge in nudged]
    close(gauges["signal_grad"], [norms[0], *norms[3::3]])
    close(gauges["branch_grad"], norms[1::3])
    close(gauges["skip_grad"], norms[2::3])
    close(statistics["activation_rms"], [np.sqrt(np.mean(np.square(np.asarray(h)))) for h in [seen[0], *seen[3::3]]])
    grads = nnx.to_pure_dict(grads)
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-10 * float(max(norms))), grads, wanted)
