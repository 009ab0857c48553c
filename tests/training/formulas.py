"""The formulas of update rules, schedules and clipping, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from research.config.fields import traced_names
from research.config.options import Clip, DecayMask, OptimizerKind, Schedule
from research.config.schema import OPTIONS, make_option

OPTIMIZERS = [option.name for option in OptimizerKind]
SCHEDULES = [option.name for option in Schedule]
CLIPS = [option.name for option in Clip]
DECOUPLED = ("adamw", "lion", "muon")
NUMBERS = {
    "learning_rate": 0.1,
    "weight_decay": 0.03,
    "momentum": 0.8,
    "beta1": 0.7,
    "beta2": 0.95,
    "epsilon": 1e-3,
    "warmup_steps": 2,
    "decay_steps": 0,
    "transition_steps": 0,
    "end_value": 0.0,
    "power": 3.0,
    "decay_rate": 0.2,
    "decay_factor": 0.3,
    "clip_threshold": 0.02,
}


def make_optimizer_option(kind="sgd", **changes):
    """An optimizer with the numbers that it has of ``NUMBERS``, except for the changes."""
    settings = {}
    for name in traced_names(OPTIONS["optimizer"][kind]):
        settings[name] = NUMBERS[name]
    for name, value in changes.items():
        enumerations = {"schedule": Schedule, "clip": Clip, "decay_mask": DecayMask}
        enumeration = enumerations.get(name)
        settings[name] = enumeration[value] if enumeration else value
    return make_option("optimizer", kind, **settings)


class UpdateRule:
    """The update rule of one array, with its averages.

    Args:
        option: the optimizer.
        is_hidden: whether the array is a hidden matrix, which Muon makes orthogonal.
    """

    def __init__(self, option, *, is_hidden):
        self.option = option
        self.is_hidden = is_hidden
        self.updates = 0
        self.m = 0.0
        self.v = 0.0

    def direction(self, gradient, weights):
        """What the learning rate multiplies at the next update."""
        self.updates += 1
        decay = self.option.weight_decay * weights
        if self.option.kind.name in DECOUPLED:
            return self._direction_without_decay(gradient) + decay
        return self._direction_without_decay(gradient + decay)

    def _direction_without_decay(self, g):
        option = self.option
        match option.kind.name:
            case "gd" | "sgd":
                return g
            case "momentum":
                self.m = option.momentum * self.m + g
                return self.m
            case "nesterov":
                self.m = option.momentum * self.m + g
                return g + option.momentum * self.m
            case "adagrad":
                self.v = self.v + g**2
                return g / np.sqrt(self.v + option.epsilon)
            case "rmsprop":
                self.v = option.beta2 * self.v + (1 - option.beta2) * g**2
                return g / (np.sqrt(self.v) + option.epsilon)
            case "lion":
                mean = option.beta1 * self.m + (1 - option.beta1) * g
                self.m = option.beta2 * self.m + (1 - option.beta2) * g
                return np.sign(mean)
            case "muon" if self.is_hidden:
                return self._muon(g)
        return self._adam(g)

    def _adam(self, g):
        option = self.option
        self.m = option.beta1 * self.m + (1 - option.beta1) * g
        self.v = option.beta2 * self.v + (1 - option.beta2) * g**2
        mean = self.m / (1 - option.beta1**self.updates)
        square = self.v / (1 - option.beta2**self.updates)
        return mean / (np.sqrt(square) + option.epsilon)

    def _muon(self, g):
        mu = self.option.momentum
        self.m = mu * self.m + (1 - mu) * g
        from_average = mu * self.m / (1 - mu ** (self.updates + 1))
        from_gradient = (1 - mu) * g / (1 - mu**self.updates)
        return orthogonalise(from_average + from_gradient, self.option.epsilon)


def softmax(logits):
    """The probabilities [B, C] of the classes."""
    exponentials = np.exp(logits)
    return exponentials / np.sum(exponentials, axis=1, keepdims=True)


def orthogonalise(x, epsilon):
    """X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times from X/(‖X‖+ε) (Jordan et al. 2024).

    All axes of ``x`` but the last are rows.
    """
    matrix = x.reshape(-1, x.shape[-1])
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / (np.linalg.norm(s) + epsilon)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    outputs_per_input = matrix.shape[1] / matrix.shape[0]
    orthogonal = (u * s) @ v
    return np.sqrt(max(1, outputs_per_input)) * orthogonal.reshape(x.shape)


def cosine_at(
    option,
    step,
    duration,
):
    progress = min(1, step / max(duration, 1))
    height = (1 + np.cos(np.pi * progress)) / 2
    return option.end_value + (option.learning_rate - option.end_value) * height


def exponential_at(
    option,
    step,
    duration,
):
    exponent = step / max(duration, 1)
    if option.staircase:
        exponent = np.floor(exponent)
    return max(option.end_value, option.learning_rate * option.decay_rate**exponent)


def learning_rate_at(
    option,
    step,
    total_steps,
):
    """The learning rate of update ``step`` = 0, 1, …"""
    peak = option.learning_rate
    warmup = option.warmup_steps
    match option.schedule.name:
        case "constant":
            return peak
        case "warmup":
            return peak * (step + 1) / warmup if step < warmup else peak
        case "cosine":
            return cosine_at(option, step, option.decay_steps or total_steps)
        case "warmup_cosine":
            if step < warmup:
                return peak * (step + 1) / warmup
            return cosine_at(option, step - warmup, (option.decay_steps or total_steps) - warmup)
        case "polynomial":
            remaining = 1 - min(1, step / (option.transition_steps or total_steps))
            return option.end_value + (peak - option.end_value) * remaining**option.power
        case "exponential":
            return exponential_at(option, step, option.transition_steps or total_steps)
        case "warmup_exponential":
            if step < warmup:
                return peak * (step + 1) / warmup
            duration = option.transition_steps or total_steps - warmup
            return exponential_at(option, step - warmup, duration)
        case "step":
            boundaries = option.boundaries or (total_steps / 2, 3 * total_steps / 4)
            passed = sum(step >= boundary for boundary in boundaries)
            return peak * option.decay_factor**passed
        case "linear":
            remaining = 1 - min(1, step / (option.transition_steps or total_steps))
            return option.end_value + (peak - option.end_value) * remaining
    raise ValueError(f"no formula for {option.schedule}")


def clip_arrays(
    option,
    grads,
    params,
):
    """The clipped gradients by path.

    Args:
        option: the optimizer.
        grads: gradients by path, as ``split_layers`` gives them.
        params: the parameters, of the same structure.
    """
    bound = option.clip_threshold
    clipped = {}
    squares = [np.sum(grad**2) for grad in grads.values()]
    total_norm = np.sqrt(sum(squares))
    for path, grad in grads.items():
        match option.clip.name:
            case "none":
                clipped[path] = grad
            case "global_norm":
                clipped[path] = grad * min(1, bound / total_norm)
            case "value":
                clipped[path] = np.clip(grad, -bound, bound)
            case "adaptive":
                clipped[path] = _clip_units(grad, params[path], bound)
    return clipped


def _clip_units(
    grad,
    weights,
    bound,
):
    """‖G_i‖ ≤ λ max(‖W_i‖, 10⁻³), a unit i being a column of a matrix, or a whole vector.

    References:
        Brock et al. 2021, eq. 3.
    """
    axes = 0 if grad.ndim == 2 else None
    grad_norms = np.sqrt(np.sum(grad**2, axis=axes, keepdims=True))
    weight_norms = np.sqrt(np.sum(weights**2, axis=axes, keepdims=True))
    limits = bound * np.maximum(weight_norms, 1e-3)
    return grad * np.minimum(1, limits / np.maximum(grad_norms, 1e-6))


def split_layers(tree):
    """Every array by path and number: each layer of a stage and each gate of a cell is an array.

    The number is None for arrays that are neither.
    """
    arrays = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if "stages" in name or "cell" in name:
            for number, layer in enumerate(leaf):
                arrays[name, number] = layer
        else:
            arrays[name, None] = leaf
    return arrays


def is_hidden(path):
    """Whether a path of ``split_layers`` leads to a matrix of a layer."""
    name, number = path
    return number is not None and "kernel" in name


# A shape of each kind that networks have, and those of a recurrent cell.
SHAPES = {
    "embed": {"kernel": (5, 4)},
    "stages": {
        0: {
            "weights": {
                0: {"kernel": (2, 4, 6), "bias": (2, 6)},
                1: {"kernel": (2, 6, 4)},
            },
            "shifts": (2, 2, 2),
        },
        1: {
            "conv": {"kernel": (3, 3, 3, 2, 4)},
            "norm": {"scale": (3, 4)},
            "skip": {"alpha": (3,)},
        },
    },
    "head": {"kernel": (4, 3), "bias": (3,)},
}
GATES = {
    "recurrent": (3, 4, 4),
    "input": (3, 2, 4),
    "bias": (3, 4),
}
CELL = {"cell": {"branch": GATES}}


def draw_arrays(
    shapes,
    seed,
    dtype="float64",
):
    """Standard normal arrays of these shapes."""
    generator = np.random.default_rng(seed)

    def normal(shape):
        return jnp.asarray(generator.standard_normal(shape), dtype)

    return jax.tree.map(normal, shapes, is_leaf=lambda node: isinstance(node, tuple))
