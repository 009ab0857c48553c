"""Slower measurements of a run's state, between steps and on an interval: ``measure.inspect``.

They use float32 arithmetic or wider, the training loss with the batch's statistics, and the
first training examples in their stored order; a batch is the first batch_size of them, unless it is
said to be the next step's. Random draws of a loss are those of the next step; random draws of
outputs are always the same.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from research.config.options import SkipKind
from research.gauges.curvature import (
    difference_errors,
    hessian_spectrum,
    isometry,
    mean_cosine,
    mode_error,
    sharpness,
)
from research.gauges.layers import layer_norms
from research.gauges.norms import euclidean, nonzero_or_one
from research.gauges.probes import (
    Probe,
    class_spread,
    fit_probe,
    principal_plane,
    token_spread,
)
from research.gauges.symmetries import balance, layer_cosines, scale_derivatives, unit_cosines
from research.gauges.table import (
    MAX_COMPARED_EXAMPLES,
    MAX_LANDSCAPE_EXAMPLES,
    MAX_PROBED_EXAMPLES,
    MAX_SHARPNESS_EXAMPLES,
    MAX_TEXTS,
    SIGNAL_GRAD,
)
from research.models.architecture import Architecture, ForwardContext
from research.models.hparams import HParams
from research.models.stack import Stack
from research.models.streams import sinkhorn
from research.training.landscape import (
    difference,
    filter_normalized,
    losses_on_line,
    losses_on_plane,
)
from research.training.layer_params import is_kernel, kernels_of, path_names, stages_of
from research.training.losses import loss_and_accuracy
from research.training.objective import (
    Batch,
    augment_and_shard,
    graph_of,
    make_model,
    make_objective,
    next_batch,
    normalize_inputs,
)
from research.training.optimizers import clip_gradient, make_optimizer, preconditioner
from research.training.program_config import ProgramConfig
from research.training.state import TrainState, without_loss_scale

NUM_MASKS = 10_000  # random masks that outputs are averaged over
MASKS_AT_ONCE = 250
SURFACE_COORDINATES = np.linspace(-1, 1, 17)
NUM_DIRECTIONS = 4  # of the lines on which a surface is measured as well
INTERPOLATION_COORDINATES = np.linspace(0, 1, 26)
LANCZOS_NUMBERS = 2**21  # that the vectors of a Hessian's spectrum may hold
MIN_SPECTRUM = 64  # Hessian-vector products of a spectrum, of however large a network
# Step sizes of numerical derivatives, in units of the weights' norm.
DIFFERENCE_STEPS = 10.0 ** -(0.5 * np.arange(2, 29))
FITTED_POINTS = {1: 1025, 2: 33}  # along each input of the grid, by the number of inputs
VARIANCE_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
VARIANCE_DRAWS = 64  # batches of each size
ROUNDING_DRAWS = 32  # gradients that are rounded at random
TRIED_STEP_SIZES = 2.0 ** (0.5 * np.arange(-32, 13))
# What the random keys of a snapshot are for.
LANCZOS = 3
OUTPUTS = 4
PROJECTION = 5
DIRECTION = 6
SIGNS = 7
MASKS = 8
SURFACE = 9
SPECTRUM = 10
PADDING = 11
BATCHES = 12
ROUNDING = 13

Data = Mapping[str, Array]
Diagnostics = dict[str, Array]


@dataclass(frozen=True)
class Snapshot:
    """A run's state at a step, in float32 or wider, and methods that evaluate it.

    Attributes:
        spec: the program.
        state: the state, with a loss scale of 1.
        hp: the hyperparameters.
        data: the training examples; of streamed data the present batch.
        rounded_spec: the program as the run computes it, in its own number formats.
    """

    spec: ProgramConfig
    state: TrainState
    hp: HParams
    data: Data
    rounded_spec: ProgramConfig | None = None

    @property
    def arch(self) -> Architecture:
        """The network's architecture."""
        return self.spec.architecture

    @property
    def ctx(self) -> ForwardContext:
        """The context of a training pass whose random draws are always the same."""
        key = self.key(OUTPUTS) if self.arch.is_random else None
        return ForwardContext(self.hp, train=True, key=key)

    @property
    def stored_batch(self) -> Array:
        """The numbers of the first examples in stored order, as many as a batch has, [B].

        No step trains on them as a batch, except with full batches or streamed data.
        """
        return jnp.arange(self.spec.batch_size)

    def key(self, use: int) -> Array:
        """A random key for one use."""
        return jax.random.fold_in(self.state.key, use)

    def inputs(self, indices: Array | slice) -> Array:
        """What the network reads of some training examples, [examples, …]."""
        examples = self.data["x"][indices]
        return normalize_inputs(self.arch, self.data, examples)

    def compared_inputs(self) -> Array:
        """What the network reads of the examples that are compared one by one, [examples, …]."""
        return self.inputs(slice(MAX_COMPARED_EXAMPLES))

    def features(self, x: Array) -> list[Array]:
        """Each signal h_0 to h_N of inputs ``x`` as the head would read it: N+1 times [B, D].

        Batch norm uses its running statistics, and nothing is drawn at random.
        """
        network = self.network()
        ctx = network.with_padding(ForwardContext(self.hp, train=False), x)
        signals = network.signals(network.first_input(x, ctx), ctx)
        return [network.head_input(h, ctx) for h in signals]

    def network(self) -> Stack:
        """The network with its present weights."""
        graph = graph_of(self.arch, self.hp)
        return nnx.merge(graph, self.state.params, self.state.model_state, copy=True)

    def outputs(self, params: Any, x: Array) -> Array:
        """The network's outputs [B, …, C] for inputs ``x`` [B, …] with other parameters."""
        state = dataclasses.replace(self.state, params=params)
        network = dataclasses.replace(self, state=state).network()
        outputs, _ = network(x, {}, self.ctx)
        return outputs

    def loss(self, indices: Array) -> Callable[[Any], Array]:
        """The training loss of the examples ``indices`` [B] as a function of the parameters."""
        batch = self.inputs(indices), self.data["y"][indices]
        return self.loss_of_batch(batch)

    def next_loss(self) -> Callable[[Any], Array]:
        """The training loss of the next step's batch as a function of the parameters."""
        return self.loss_of_batch(self.next_batch())

    def next_batch(self) -> Batch:
        """The next step's batch."""
        if self.spec.streamed:  # the data are that batch
            stored = self.data["x"], self.data["y"]
            return augment_and_shard(self.spec, self.state, self.data, *stored)
        return next_batch(self.spec, self.state, self.data)

    def loss_of_batch(self, batch: Batch) -> Callable[[Any], Array]:
        """The training loss of a batch as a function of the parameters."""
        objective = make_objective(self.spec, self.state, self.hp, batch)
        return lambda params: objective(params, {})[0]


def inspect(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
) -> Diagnostics:
    """Everything that ``measure.inspect`` asks for, by the columns that it is recorded in.

    Args:
        spec: the program.
        state: the state to look at.
        hp: the hyperparameters.
        data: the training examples; streamed data hold the batches from the present step on.
    """
    if spec.streamed:
        data = {**data, "x": data["x"][0], "y": data["y"][0]}
    snapshot = wide_snapshot(spec, state, hp, data)
    return inspect_snapshot(snapshot, spec.measure.inspect)


def inspect_snapshot(snapshot: Snapshot, names: Sequence[str]) -> Diagnostics:
    """The diagnostics of a run's state that ``names`` ask for, by column."""
    diagnostics = {}
    for name in names:
        diagnostics |= INSPECTIONS[name](snapshot)
    return diagnostics


def wide_snapshot(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
) -> Snapshot:
    """A run's state as diagnostics see it: in float32 or wider, with a loss scale of 1.

    Args:
        spec: the program.
        state: the state of one run.
        hp: the hyperparameters.
        data: the training examples.
    """
    arch = spec.architecture
    param_dtype = str(jnp.promote_types(arch.param_dtype, jnp.float32))
    wide = arch.in_one_format(str(jnp.promote_types(arch.dtype, jnp.float32)))
    wide = dataclasses.replace(wide, param_dtype=param_dtype)
    wide_spec = dataclasses.replace(spec, architecture=wide)
    wide_params = jax.tree.map(lambda leaf: leaf.astype(param_dtype), state.params)
    wide_state = dataclasses.replace(without_loss_scale(state), params=wide_params)
    return Snapshot(wide_spec, wide_state, hp, data, rounded_spec=spec)


def _sharpness(snapshot: Snapshot) -> Diagnostics:
    """The greatest eigenvalue of the Hessian of the training loss, and its error bound."""
    gradient = _mean_gradient(snapshot)
    value, bound = sharpness(gradient, snapshot.state.params, snapshot.key(LANCZOS))
    return {"sharpness": value, "sharpness_bound": bound}


def _preconditioned_sharpness(snapshot: Snapshot) -> Diagnostics:
    """The greatest eigenvalue of P^(-½) H P^(-½), and its error bound.

    H is the Hessian of the training loss. P is the diagonal matrix by which the next update
    divides, if its gradient is that of the training loss, which is clipped as in a step. In the
    coordinates u = P^½ θ the Hessian is this matrix, so the same method measures it. Cost: 33
    gradients and their derivatives.

    References:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022, §3.
    """
    gradient = _mean_gradient(snapshot)
    params = snapshot.state.params
    optimizer = make_optimizer(snapshot.hp.optimizer, snapshot.arch.hidden_rate)
    clipped = clip_gradient(snapshot.hp.optimizer, gradient(params), params)
    _, next_state = optimizer.update(clipped, snapshot.state.opt_state, params)
    divisors = preconditioner(snapshot.hp.optimizer, next_state)
    roots = jax.tree.map(jnp.sqrt, divisors)

    def gradient_in_coordinates(coordinates: Any) -> Any:
        at = jax.tree.map(jnp.divide, coordinates, roots)
        return jax.tree.map(jnp.divide, gradient(at), roots)

    coordinates = jax.tree.map(jnp.multiply, params, roots)
    value, bound = sharpness(gradient_in_coordinates, coordinates, snapshot.key(LANCZOS))
    return {"preconditioned_sharpness": value, "preconditioned_sharpness_bound": bound}


def _mean_gradient(snapshot: Snapshot) -> Callable[[Any], Any]:
    """The gradient of the training loss, a function of the parameters.

    It is a mean over all examples where the run's batch is all of them, else over the first ones.
    """
    spec = snapshot.spec
    examples = len(snapshot.data["x"])
    batch_size = examples if spec.full_batch else spec.batch_size
    batches = 1
    if not spec.full_batch:
        batches = max(1, min(examples, MAX_SHARPNESS_EXAMPLES) // batch_size)
    indices = jnp.arange(batches * batch_size).reshape(batches, -1)

    def gradient(params: Any) -> Any:
        def gradient_of_batch(batch: Array) -> Any:
            return jax.grad(snapshot.loss(batch))(params)

        gradients = lax.map(gradient_of_batch, indices)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), gradients)

    return gradient


def _jacobian_spectrum(snapshot: Snapshot) -> Diagnostics:
    """Singular values [D] of J = ∂h_N/∂h_0 at the first example, in descending order, and max |J −
    I|.

    Batch norm uses its running statistics.
    """
    ctx = ForwardContext(snapshot.hp, train=False)
    first_example = snapshot.inputs(slice(1))
    h = snapshot.network().first_input(first_example, ctx)

    def last_output(h: Array) -> Array:
        outputs, _ = snapshot.network().run_layers(h[None], {}, ctx)
        return outputs[0]

    values, distance = isometry(last_output, h[0])
    return {"jacobian_spectrum": values, "jacobian_distance": distance}


def _gradient_correlation(snapshot: Snapshot) -> Diagnostics:
    """The mean cosine [N+1] between the gradients ∂⟨v, h_N⟩/∂h_l of two examples, with one random
    v.

    After batch norm an example's gradient has parts that come from other examples' outputs. These
    outputs get random signs, which are removed again, so that in the mean over pairs those parts
    cancel.

    References:
        Balduzzi et al., The shattered gradients problem, 2017.
    """
    ctx = snapshot.ctx
    h = snapshot.network().first_input(snapshot.compared_inputs(), ctx)
    shape_of_example = h.shape[1:]
    v = jax.random.normal(snapshot.key(PROJECTION), shape_of_example, h.dtype)
    one_per_example = (len(h),) + (1,) * (h.ndim - 1)
    signs = jax.random.rademacher(snapshot.key(SIGNS), one_per_example, h.dtype)
    one_slot_per_layer = (snapshot.arch.layers, *h.shape)
    slots = jnp.zeros(one_slot_per_layer, h.dtype)

    def projection(h: Array, slots: Array) -> Array:
        outputs, _ = snapshot.network().run_layers(h, {SIGNAL_GRAD.name: slots}, ctx)
        return jnp.sum(outputs * v[None] * signs)

    first, others = jax.grad(projection, (0, 1))(h, slots)
    gradients = jnp.concatenate([first[None], others]) * signs[None]
    return {"gradient_correlation": lax.map(mean_cosine, gradients)}


def _input_gradient(snapshot: Snapshot) -> Diagnostics:
    """The gradient [K, inputs] of the first output with respect to each of the first examples."""
    ctx = snapshot.ctx

    def first_outputs(x: Array) -> Array:
        outputs, _ = snapshot.network()(x, {}, ctx)
        return jnp.sum(outputs[..., 0])

    return {"input_gradient": jax.grad(first_outputs)(snapshot.compared_inputs())}


def _output_change(snapshot: Snapshot) -> Diagnostics:
    """The root mean square change of a batch's outputs by one step of gradient descent on it.

    The step is W − η·∂L/∂W of all weights and token vectors, with the batch's loss L and the run's
    learning rate η, whatever the run's optimizer. Biases, norms' parameters and learned scales
    stay, as in the theory: N of them that act on the residual stream itself would each add the same
    change.

    References:
        Wang et al., DeepNet, 2022, §4.2: the model update.
    """
    params = snapshot.state.params
    gradient = jax.grad(snapshot.loss(snapshot.stored_batch))(params)

    def descend(
        path: tuple,
        old: Array,
        slope: Array,
    ) -> Array:
        if _is_kept(path):
            return old
        return old - snapshot.hp.optimizer.learning_rate * slope

    x = snapshot.inputs(snapshot.stored_batch)
    stepped = jax.tree_util.tree_map_with_path(descend, params, gradient)
    change = snapshot.outputs(stepped, x) - snapshot.outputs(params, x)
    return {"output_change": euclidean(change) / change.size**0.5}


def _is_kept(path: tuple) -> bool:
    """Whether the leaf at ``path`` is neither a weight nor a token vector."""
    return path_names(path)[-1] in ("alpha", "bias", "inner", "scale", "shifts")


def _difference_errors(snapshot: Snapshot) -> Diagnostics:
    """Errors [H] of numerical derivatives of a batch's loss, along a random direction.

    The direction is as long as the weights. ``mode_error`` is the difference between the automatic
    derivatives in forward and in reverse mode.
    """
    loss = snapshot.loss(snapshot.stored_batch)
    flat, restore = ravel_pytree(snapshot.state.params)
    direction = jax.random.normal(snapshot.key(DIRECTION), flat.shape, flat.dtype)
    direction *= euclidean(flat) / euclidean(direction)
    steps = jnp.asarray(DIFFERENCE_STEPS, flat.dtype)

    def loss_of_flat(flat: Array) -> Array:
        return loss(restore(flat))

    diagnostics = {
        "difference_step": steps,
        "mode_error": mode_error(loss_of_flat, flat, direction),
    }
    errors = difference_errors(loss_of_flat, flat, direction, steps)
    for name, error in errors.items():
        diagnostics[f"{name}_difference_error"] = error
    return diagnostics


def _scale_derivative(snapshot: Snapshot) -> Diagnostics:
    """⟨W, ∂L/∂W⟩ [N] of each layer's weights, and ⟨f, ∂L/∂f⟩ of a batch's outputs f.

    All are equal where the outputs are linear along each layer's weights (Euler): for rectifiers
    and linear units without biases, norms and shortcuts.
    """
    x = snapshot.inputs(slice(snapshot.spec.batch_size))
    labels = snapshot.data["y"][: snapshot.spec.batch_size]
    params = snapshot.state.params

    def network(params: Any) -> Array:
        return snapshot.outputs(params, x)

    def loss(outputs: Array) -> Array:
        losses, _ = loss_and_accuracy(snapshot.hp.loss, outputs, labels)
        return jnp.mean(losses)

    outputs, pull_back = jax.vjp(network, params)
    at_outputs = jax.grad(loss)(outputs)
    weights = kernels_of(snapshot.arch, params)
    gradients = kernels_of(snapshot.arch, pull_back(at_outputs)[0])
    return {
        "scale_derivative": scale_derivatives(weights, gradients),
        "output_scale_derivative": jnp.vdot(outputs, at_outputs),
    }


def _scale_invariance(snapshot: Snapshot) -> Diagnostics:
    """Three numbers a layer [N] that are 0 where the loss does not depend on the scale of its
    weights W.

    The cosine between W and ∂L/∂W; the greatest |cosine| of one unit's part of them; and ‖2g(2W) −
    g(W)‖/‖g(W)‖, with g = ∂L/∂W of a batch's loss and all layers' weights, but not the
    head's, doubled at once (van Laarhoven 2017, §2).
    """
    params = snapshot.state.params
    gradient = jax.grad(snapshot.loss(snapshot.stored_batch))

    def double(path: tuple, leaf: Array) -> Array:
        is_layer_kernel = path[0].key == "stages" and is_kernel(path)
        return 2 * leaf if is_layer_kernel else leaf

    doubled = jax.tree.map_with_path(double, params)
    weights = kernels_of(snapshot.arch, params)
    here = kernels_of(snapshot.arch, gradient(params))
    there = kernels_of(snapshot.arch, gradient(doubled))

    def change_of(g: Array, g_of_doubled: Array) -> Array:
        return 2 * g_of_doubled - g

    change = jax.tree.map(change_of, here, there)
    return {
        "layer_cosine": layer_cosines(weights, here),
        "unit_cosine": unit_cosines(weights, here),
        "rescaling_error": layer_norms(change) / layer_norms(here),
    }


def _balance(snapshot: Snapshot) -> Diagnostics:
    """‖w_in‖² + b² − ‖w_out‖² [N+1, D] of each unit, constant under gradient flow without curvature
    of φ.
    """
    params = snapshot.state.params
    embed = params["embed"]
    layers = params["stages"][0]["branch"]["weights"][0]
    head_kernel = params["head"]["kernel"][...]
    biases = None
    if snapshot.arch.model.bias:
        biases = jnp.concatenate([embed["bias"][None], layers["bias"][...]])
    values = balance(embed["kernel"][...], layers["kernel"][...], head_kernel, biases)
    return {"balance": values}


def _parameters(snapshot: Snapshot) -> Diagnostics:
    """The parameters [P] and the gradient [P] of the next step's loss with respect to them.

    They are in the order of their paths, such as embed.bias, embed.kernel, head.bias. Several
    records are points of the path that training takes. Cost: a gradient of one batch, and 2·P
    numbers in the record.
    """
    params = snapshot.state.params
    values, _ = ravel_pytree(params)
    gradient, _ = ravel_pytree(jax.grad(snapshot.next_loss())(params))
    return {"parameters": values, "parameter_gradient": gradient}


def _fitted_function(snapshot: Snapshot) -> Diagnostics:
    """The network as a function: its outputs [K, C] over an even grid of inputs [K, inputs].

    The grid covers the range of the training inputs, which are one or two numbers, in the units in
    which the network reads them. It costs one forward pass of K = 1025 or 33² examples.
    """
    rows = snapshot.inputs(slice(None))
    num_inputs = rows.shape[-1]
    axes = []
    for column in rows.T:
        axis = jnp.linspace(jnp.min(column), jnp.max(column), FITTED_POINTS[num_inputs])
        axes.append(axis)
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    points = grid.reshape(-1, num_inputs)
    network = snapshot.network()
    outputs, _ = network(points, {}, ForwardContext(snapshot.hp, train=False))
    return {"fitted_input": points, "fitted_output": outputs}


def _gradient_variance(snapshot: Snapshot) -> Diagnostics:
    """The mean of ‖g_B − g‖² over random batches, for each batch size B [K].

    A batch is drawn with replacement from the first 256 examples, and g is the gradient of the loss
    of all of them. The variance of a mean of B independent draws is that of one draw over B
    (Robbins, Monro 1951; Bottou, Curtis, Nocedal 2018, §4.2). It costs 64 gradients of each size,
    those of 33,000 examples in all.
    """
    params = snapshot.state.params
    count = min(len(snapshot.data["x"]), MAX_COMPARED_EXAMPLES)

    def gradient_on(examples: Array) -> Array:
        gradient = jax.grad(snapshot.loss(examples))(params)
        flat, _ = ravel_pytree(gradient)
        return flat

    whole = gradient_on(jnp.arange(count))

    def squared_distance(batch: Array) -> Array:
        return jnp.sum((gradient_on(batch) - whole) ** 2)

    variances = []
    for batch_size in VARIANCE_BATCH_SIZES:
        key = jax.random.fold_in(snapshot.key(BATCHES), batch_size)
        batches = jax.random.randint(key, (VARIANCE_DRAWS, batch_size), 0, count)
        variances.append(jnp.mean(lax.map(squared_distance, batches)))
    return {
        "variance_batch_size": jnp.asarray(VARIANCE_BATCH_SIZES, whole.dtype),
        "gradient_variance": jnp.stack(variances),
    }


def _masked_outputs(snapshot: Snapshot) -> Diagnostics:
    """The first example's outputs [C]: mean over 10⁴ random masks, its error, and without masks.

    Dropout that divides what it keeps by the probability of keeping it leaves the expectation of a
    linear network as it is. The error is the standard error of the mean. Cost: 10⁴ forward passes
    of one example.

    References:
        Srivastava et al., Dropout, 2014, §10.
    """
    first_example = snapshot.inputs(slice(1))
    network_key = snapshot.key(MASKS)

    def outputs(ctx: ForwardContext) -> Array:
        values, _ = snapshot.network()(first_example, {}, ctx)
        return values[0]

    def masked(number: Array) -> Array:
        key = jax.random.fold_in(network_key, number)
        return outputs(dataclasses.replace(snapshot.ctx, key=key))

    numbers = jnp.arange(NUM_MASKS)
    draws = lax.map(masked, numbers, batch_size=MASKS_AT_ONCE)
    deviation = jnp.std(draws, axis=0, ddof=1)
    return {
        "masked_output_mean": jnp.mean(draws, axis=0),
        "masked_output_error": deviation / NUM_MASKS**0.5,
        "unmasked_output": outputs(ForwardContext(snapshot.hp, train=False)),
    }


def _probes(snapshot: Snapshot) -> Diagnostics:
    """Errors of a linear probe on each signal [N+1], and the spread within over between classes.

    A probe is fitted to the first 2048 training examples and tested on them and on as many of the
    evaluation split; NaN where examples are streamed, because no evaluation split is at hand then.
    It reads what the head would read of that signal. Cost: a forward pass of these examples, and
    (N+1)·D²·K multiplications.

    References:
        Alain, Bengio, Understanding intermediate layers using linear classifier probes, 2016.
    """
    data = snapshot.data
    arch = snapshot.arch
    labels = data["y"][:MAX_PROBED_EXAMPLES]
    features = snapshot.features(snapshot.inputs(slice(MAX_PROBED_EXAMPLES)))
    probes = [fit_probe(each, labels, arch.classes) for each in features]
    spreads = [class_spread(each, labels, arch.classes) for each in features]
    errors = _errors_of_probes(probes, features, labels)
    eval_errors = jnp.full_like(errors, jnp.nan)
    if "eval_x" in data:
        rows = data["eval_x"][:MAX_PROBED_EXAMPLES]
        eval_features = snapshot.features(normalize_inputs(arch, data, rows))
        eval_labels = data["eval_y"][:MAX_PROBED_EXAMPLES]
        eval_errors = _errors_of_probes(probes, eval_features, eval_labels)
    return {
        "probe_error": errors,
        "probe_eval_error": eval_errors,
        "class_spread": jnp.stack(spreads),
    }


def _errors_of_probes(
    probes: Sequence[Probe],
    features: Sequence[Array],
    labels: Array,
) -> Array:
    errors = []
    for probe, of_signal in zip(probes, features, strict=True):
        errors.append(probe.error(of_signal, labels))
    return jnp.stack(errors)


def _representations(snapshot: Snapshot) -> Diagnostics:
    """Each signal of the first 256 examples on its first two principal axes [N+1, K, 2].

    ``representation_class`` [K] holds the examples' labels. A signal is what the head would read of
    it. Cost: a forward pass of 256 examples, and N+1 singular value decompositions [K, D].
    """
    features = snapshot.features(snapshot.compared_inputs())
    planes = jnp.stack([principal_plane(each) for each in features])
    labels = snapshot.data["y"][:MAX_COMPARED_EXAMPLES]
    return {"representation": planes, "representation_class": labels.astype(planes.dtype)}


def _feature_maps(snapshot: Snapshot) -> Diagnostics:
    """The signals h_0 to h_N of the first example [N+1, …], and what the network reads of it.

    Of ``cnn`` they are images with one channel for each feature, [N+1, H, W, D]. Batch norm uses
    its running statistics. Cost: a forward pass of one example.

    References:
        Zeiler, Fergus, Visualizing and understanding convolutional networks, 2014.
    """
    network = snapshot.network()
    ctx = ForwardContext(snapshot.hp, train=False)
    example = snapshot.inputs(slice(1))
    signals = network.signals(network.first_input(example, ctx), ctx)
    return {
        "feature_maps": jnp.concatenate(signals),
        "shown_example": example[0].reshape(snapshot.arch.shape),
    }


def num_landscape_examples(snapshot: Snapshot) -> int:
    """How many examples the loss around the weights is that of."""
    return min(len(snapshot.data["x"]), MAX_LANDSCAPE_EXAMPLES)


def landscape_loss(snapshot: Snapshot) -> Callable[[Any], Array]:
    """The training loss of the first 512 examples as a function of the parameters."""
    return snapshot.loss(jnp.arange(num_landscape_examples(snapshot)))


def initial_params(snapshot: Snapshot) -> Any:
    """The weights that the run started from; of narrow formats before they were rounded."""
    arch = snapshot.arch
    key = jax.random.fold_in(snapshot.state.key, 0)
    model = make_model(arch, snapshot.hp, key)
    _, params, _ = nnx.split(model, nnx.Param, ...)
    return params


def _loss_surface(snapshot: Snapshot) -> Diagnostics:
    """The training loss on a plane through the weights [A, A] and on four more lines [4, A].

    The directions are random and filter-normalised; coordinates from −1 to 1 are in units of each
    filter's norm. The loss is that of the first 512 examples, in nats. Cost: A² + 4·A = 357 forward
    passes of these examples.

    References:
        Li et al., Visualizing the loss landscape of neural nets, 2018, §4.
    """
    loss = landscape_loss(snapshot)
    params = snapshot.state.params
    key = snapshot.key(SURFACE)
    coordinates = jnp.asarray(SURFACE_COORDINATES, ravel_pytree(params)[0].dtype)

    def direction(number: int | Array) -> Any:
        return filter_normalized(params, jax.random.fold_in(key, number))

    def line(number: Array) -> Array:
        return losses_on_line(loss, params, direction(number), coordinates)

    lines = lax.map(line, jnp.arange(2, 2 + NUM_DIRECTIONS))
    surface = losses_on_plane(loss, params, direction(0), direction(1), coordinates)
    return {
        "surface_coordinate": coordinates,
        "surface_loss": surface,
        "line_loss": lines,
    }


def _interpolation(snapshot: Snapshot) -> Diagnostics:
    """The training loss on the straight line from the initial weights to the present ones [26].

    The loss is that of the first 512 examples, in nats. Cost: 26 forward passes of these examples.

    References:
        Goodfellow, Vinyals, Saxe, Qualitatively characterizing neural network optimization
        problems, 2015, §2.
    """
    start = initial_params(snapshot)
    direction = difference(snapshot.state.params, start)
    coordinates = jnp.asarray(INTERPOLATION_COORDINATES, ravel_pytree(start)[0].dtype)
    losses = losses_on_line(landscape_loss(snapshot), start, direction, coordinates)
    return {"interpolation_loss": losses}


def _coordinate_change(snapshot: Snapshot) -> Diagnostics:
    """How far training has moved each signal and the outputs, as root mean squares over elements.

    ``coordinate_change`` [N+1] is that of h_l(θ) − h_l(θ_0) on one batch, with the initial
    weights θ_0; ``output_coordinate_change`` is that of the outputs. In a parametrization that
    transfers, they do not depend on width and depth. Nothing is drawn at random in the network, and
    batch norm uses its running statistics. Cost: four forward passes of a batch.

    References:
        Yang et al., Tensor programs V, 2021, §D.1: the coordinate check.
    """
    x = snapshot.inputs(snapshot.stored_batch)
    ctx = ForwardContext(snapshot.hp, train=False)

    def signals_and_outputs(params: Any) -> list[Array]:
        state = dataclasses.replace(snapshot.state, params=params)
        network = dataclasses.replace(snapshot, state=state).network()
        with_padding = network.with_padding(ctx, x)
        signals = network.signals(network.first_input(x, with_padding), with_padding)
        return [*signals, network.logits(signals[-1], with_padding)]

    before = signals_and_outputs(initial_params(snapshot))
    after = signals_and_outputs(snapshot.state.params)
    changes = []
    for old, new in zip(before, after, strict=True):
        changes.append(euclidean(new - old) / old.size**0.5)
    return {
        "coordinate_change": jnp.stack(changes[:-1]),
        "output_coordinate_change": changes[-1],
    }


def _hessian_spectrum(snapshot: Snapshot) -> Diagnostics:
    """Eigenvalues of the Hessian of the training loss, and the loss in their extreme directions.

    The loss is that of the first 512 examples.

    ``hessian_eigenvalues`` [m] with ``hessian_weights`` [m], as ``hessian_spectrum`` of
    ``gauges.curvature`` gives them: all P eigenvalues where P² is at most 2 million, else as many
    as 2 million stored numbers permit, but at least 64. ``saddle_loss`` [17, 17] is the loss on the
    plane of the directions of the least (rows) and the greatest (columns) eigenvalue, at distances
    from −1 to 1 in weight space.
    """
    params = snapshot.state.params
    num_params = ravel_pytree(params)[0].size
    iterations = min(num_params, max(MIN_SPECTRUM, LANCZOS_NUMBERS // num_params))
    loss = landscape_loss(snapshot)
    spectrum = hessian_spectrum(jax.grad(loss), params, snapshot.key(SPECTRUM), iterations)
    coordinates = jnp.asarray(SURFACE_COORDINATES, spectrum.values.dtype)
    return {
        "hessian_eigenvalues": spectrum.values,
        "hessian_weights": spectrum.weights,
        "saddle_loss": losses_on_plane(
            loss, params, spectrum.least, spectrum.greatest, coordinates
        ),
    }


def _tokens(snapshot: Snapshot) -> Diagnostics:
    """How the tokens of the first 64 texts differ from each other, and what each of them decides.

    - ``token_spread`` [N+1]: of each signal the norm of the tokens' vectors minus their mean, over
      the norm of the vectors, mean over texts; 0 where all tokens are alike.
    - ``token_gradient`` [K, T]: the norm of the gradient of a text's loss with respect to the
      vector of each token, position included, in nats per unit.
    - ``token_mask`` [K, T]: 1 at positions that hold a token, 0 at padding.
    - ``padding_effect``: the greatest change of an output where random numbers replace the vectors
      of the padding.

    Cost: four forward passes and a backward pass of 64 texts. Nothing is drawn at random in the
    network.

    References:
        Dong, Cordonnier, Loukas, Attention is not all you need, 2021, §2.1: the residual of rank
        collapse. Simonyan, Vedaldi, Zisserman, Deep inside convolutional networks, 2014, §3: the
        gradient with respect to the input.
    """
    texts = snapshot.inputs(slice(MAX_TEXTS))
    labels = snapshot.data["y"][:MAX_TEXTS]
    network = snapshot.network()
    ctx = network.with_padding(ForwardContext(snapshot.hp, train=False), texts)
    vectors = network.first_input(texts, ctx)
    mask = ctx.padding_mask
    if mask is None:
        mask = jnp.ones(texts.shape, bool)

    def outputs(h: Array) -> Array:
        stack = snapshot.network()
        last, _ = stack.run_layers(h, {}, ctx)
        return stack.logits(last, ctx)

    def total_loss(h: Array) -> Array:
        losses, _ = loss_and_accuracy(snapshot.hp.loss, outputs(h), labels)
        return jnp.sum(losses)

    gradient = jax.grad(total_loss)(vectors)
    noise = jax.random.normal(snapshot.key(PADDING), vectors.shape, vectors.dtype)
    noisy = jnp.where(mask[..., None], vectors, noise)
    spreads = [token_spread(h, mask) for h in network.signals(vectors, ctx)]
    return {
        "token_spread": jnp.stack(spreads),
        "token_gradient": jnp.linalg.norm(gradient, axis=-1),
        "token_mask": mask.astype(vectors.dtype),
        "padding_effect": jnp.max(jnp.abs(outputs(noisy) - outputs(vectors))),
    }


def _stream_mixing(snapshot: Snapshot) -> Diagnostics:
    """The matrix [N, n, n] by which each layer mixes n residual streams, as it is used."""
    is_constrained = snapshot.arch.skip.kind is SkipKind.mhc
    matrices = []
    for stage in stages_of(snapshot.arch, snapshot.state.params):
        by_part = []
        for stack in stage:
            mixing = stack["skip"]["streams"]["mixing"]
            by_part.append(jax.vmap(sinkhorn)(mixing) if is_constrained else mixing)
        in_order = jnp.stack(by_part, axis=1)  # [blocks, layers of a block, n, n]
        matrices.append(in_order.reshape(-1, *in_order.shape[2:]))
    return {"stream_mixing": jnp.concatenate(matrices)}


def _clipping(snapshot: Snapshot) -> Diagnostics:
    """The norm of a batch's gradient before and after clipping, and their cosine.

    Where ``optimizer.clip`` is none, nothing changes. Cost: a backward pass of one batch.

    References:
        Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, 2013,
        Algorithm 1.
    """
    params = snapshot.state.params
    gradient = jax.grad(snapshot.loss(snapshot.stored_batch))(params)
    clipped = clip_gradient(snapshot.hp.optimizer, gradient, params)
    raw, _ = ravel_pytree(gradient)
    bounded, _ = ravel_pytree(clipped)
    raw_norm = euclidean(raw)
    bounded_norm = euclidean(bounded)
    product = jnp.vdot(raw / nonzero_or_one(raw_norm), bounded / nonzero_or_one(bounded_norm))
    return {
        "unclipped_norm": raw_norm,
        "clipped_norm": bounded_norm,
        "clipping_cosine": product,
    }


def _quantization_noise(snapshot: Snapshot) -> Diagnostics:
    """The next batch's gradient as the run's number format computes it, against that in float32.

    The gradient is rounded at random 32 times. With its mean m, estimated without the noise that is
    left in it:

    - ``exact_gradient_norm``: ‖g‖ of the gradient g in float32.
    - ``quantized_gradient_norm``: ‖m‖.
    - ``quantization_noise``: the root of the mean of ‖g_i − m‖²; 0 for rounding to nearest.
    - ``quantization_bias``: ‖m − g‖.
    - ``noisy_step_share``: by how much a step along g plus the noise g_i − m lowers the loss in the
      mean over i, over what a step along g does; each with its best size of 45.

    Cost: 33 backward and 1485 forward passes of a batch.

    References:
        Chmiel et al., FP4 all the way: fully quantized training of LLMs, 2025, §4.
    """
    spec = snapshot.rounded_spec
    assert spec is not None
    batch = snapshot.next_batch()
    params = snapshot.state.params
    loss = snapshot.loss_of_batch(batch)
    exact, restore = ravel_pytree(jax.grad(loss)(params))
    flat_params, _ = ravel_pytree(params)

    def quantized_gradient(draw: Array) -> Array:
        key = jax.random.fold_in(snapshot.key(ROUNDING), draw)
        state = dataclasses.replace(snapshot.state, key=key)
        objective = make_objective(spec, state, snapshot.hp, batch)
        gradient = jax.grad(lambda params: objective(params, {})[0])(params)
        return ravel_pytree(gradient)[0]

    gradients = lax.map(quantized_gradient, jnp.arange(ROUNDING_DRAWS))
    mean = jnp.mean(gradients, axis=0)
    noise = gradients - mean[None]
    deviations = jax.vmap(euclidean)(noise)
    noise_square = jnp.sum(deviations**2) / (ROUNDING_DRAWS - 1)
    left_in_mean = noise_square / ROUNDING_DRAWS

    def improvement(step: Array) -> Array:
        return loss(params) - loss(restore(flat_params - step))

    def best_improvement(directions: Array) -> Array:
        """The greatest over step sizes of the mean improvement over directions [K, P]."""

        def mean_improvement(size: Array) -> Array:
            return jnp.mean(jax.vmap(improvement)(size * directions))

        sizes = jnp.asarray(TRIED_STEP_SIZES, exact.dtype)
        return jnp.max(lax.map(mean_improvement, sizes))

    noisy = best_improvement(exact[None] + noise)
    without_noise = best_improvement(exact[None])

    def norm_without_noise(vector: Array) -> Array:
        return jnp.sqrt(jnp.maximum(euclidean(vector) ** 2 - left_in_mean, 0))

    return {
        "exact_gradient_norm": euclidean(exact),
        "quantized_gradient_norm": norm_without_noise(mean),
        "quantization_noise": jnp.sqrt(noise_square),
        "quantization_bias": norm_without_noise(mean - exact),
        "noisy_step_share": noisy / nonzero_or_one(without_noise),
    }


INSPECTIONS: dict[str, Callable[[Snapshot], Diagnostics]] = {
    "sharpness": _sharpness,
    "preconditioned_sharpness": _preconditioned_sharpness,
    "jacobian_spectrum": _jacobian_spectrum,
    "gradient_correlation": _gradient_correlation,
    "input_gradient": _input_gradient,
    "output_change": _output_change,
    "difference_errors": _difference_errors,
    "scale_derivative": _scale_derivative,
    "scale_invariance": _scale_invariance,
    "balance": _balance,
    "parameters": _parameters,
    "fitted_function": _fitted_function,
    "gradient_variance": _gradient_variance,
    "masked_outputs": _masked_outputs,
    "probes": _probes,
    "representations": _representations,
    "feature_maps": _feature_maps,
    "loss_surface": _loss_surface,
    "interpolation": _interpolation,
    "coordinate_change": _coordinate_change,
    "hessian_spectrum": _hessian_spectrum,
    "tokens": _tokens,
    "stream_mixing": _stream_mixing,
    "clipping": _clipping,
    "quantization_noise": _quantization_noise,
}
