"""The formulas of update rules, schedules and clipping, in NumPy: what ``research.training.optimizers`` is held to."""

import jax
import jax.numpy as jnp
import numpy as np

from research.config import schema as config

OPTIMIZERS, SCHEDULES, CLIPS = (
    [option.name for option in options]
    for options in (config.OptimizerKind, config.Schedule, config.Clip)
)
STEPS = 3
NUMBERS = {
    "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.03, "optimizer.momentum": 0.8, "optimizer.beta1": 0.7,
    "optimizer.beta2": 0.95, "optimizer.epsilon": 1e-3, "optimizer.warmup_steps": 2, "optimizer.decay_factor": 0.3,
    "optimizer.clip_threshold": 0.02, "loss.label_smoothing": 0.1, "train.steps": STEPS,
}  # fmt: skip

DECOUPLED = ("adamw", "lion", "muon")


def direction(kind, g, p, memory, t, *, hidden, decay, mu, b1, b2, eps):
    """What the learning rate multiplies at update t = 1, 2, …, of one array; ``memory`` is changed in place."""
    if kind in DECOUPLED:
        return (
            undecayed(kind, g, memory, t, hidden=hidden, mu=mu, b1=b1, b2=b2, eps=eps) + decay * p
        )
    return undecayed(kind, g + decay * p, memory, t, hidden=hidden, mu=mu, b1=b1, b2=b2, eps=eps)


def undecayed(kind, g, memory, t, *, hidden, mu, b1, b2, eps):
    m = memory.get("m", 0)
    v = memory.get("v", 0)
    if kind in ("gd", "sgd"):
        return g
    if kind in ("momentum", "nesterov"):
        memory["m"] = mu * m + g
        return memory["m"] if kind == "momentum" else g + mu * memory["m"]
    if kind == "adagrad":
        memory["v"] = v + g**2
        return g / np.sqrt(memory["v"] + eps)
    if kind == "rmsprop":
        memory["v"] = b2 * v + (1 - b2) * g**2
        return g / (np.sqrt(memory["v"]) + eps)
    if kind == "lion":
        memory["m"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g)
    if kind == "muon" and hidden:
        memory["m"] = mu * m + (1 - mu) * g
        return orthogonalised(
            mu * memory["m"] / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t), eps
        )
    memory["m"], memory["v"] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + eps)


def orthogonalised(x, eps):
    """Jordan et al. 2024: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times from X/(‖X‖+ε), all axes but the last being rows."""
    u, s, v = np.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    s = s / (np.linalg.norm(s) + eps)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return np.sqrt(max(1, v.shape[1] / u.shape[0])) * ((u * s) @ v).reshape(x.shape)


def rate(schedule, step, numbers):
    """The learning rate of update ``step`` = 0, 1, …"""
    names = (
        "optimizer.learning_rate",
        "train.steps",
        "optimizer.warmup_steps",
        "optimizer.decay_factor",
    )
    peak, total, warmup, factor = map(numbers.get, names)
    cosine = np.cos(np.pi * min(1, (step - warmup) / max(total - warmup, 1)))
    return (
        peak
        * {
            "constant": 1,
            "warmup": (step + 1) / warmup if step < warmup else 1,
            "warmup_cosine": (step + 1) / warmup if step < warmup else (1 + cosine) / 2,
            "step": factor ** (int(step >= total / 2) + int(step >= 3 * total / 4)),
            "linear": 1 - step / total,
        }[schedule]
    )


def clipped(kind, grads, params, bound):
    """``grads`` and ``params`` by path, stacked layers taken apart: each array is one layer's."""
    if kind == "global_norm":
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        return {path: g * min(1, bound / norm) for path, g in grads.items()}
    if kind == "value":
        return {path: np.clip(g, -bound, bound) for path, g in grads.items()}
    if kind == "adaptive":
        return {path: clipped_by_unit(g, params[path], bound) for path, g in grads.items()}
    return {"none": grads}[kind]


def clipped_by_unit(g, p, bound):
    """Brock et al. 2021, eq. 3: ‖G_i‖ ≤ λ max(‖W_i‖, 10⁻³), a unit being a column of a matrix, or a whole vector."""
    units = 0 if g.ndim == 2 else None
    norm, weight = (np.sqrt(np.sum(x**2, axis=units, keepdims=True)) for x in (g, p))
    return g * np.minimum(1, bound * np.maximum(weight, 1e-3) / np.maximum(norm, 1e-6))


def apart(tree):
    """Every array by its path, each layer of a stage and each gate of a cell under a path of its own."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        found |= (
            {(name, n): leaf[n] for n in range(len(leaf))}
            if "stages" in name or "cell" in name
            else {(name, None): leaf}
        )
    return found


def is_hidden(path):
    return path[1] is not None and "kernel" in path[0]


SHAPES = {
    "embed": {"kernel": (5, 4)},
    "stages": {
        0: {
            "weights": {0: {"kernel": (2, 4, 6), "bias": (2, 6)}, 1: {"kernel": (2, 6, 4)}},
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
CELL = {"cell": {"branch": {"recurrent": (3, 4, 4), "input": (3, 2, 4), "bias": (3, 4)}}}


def draw(shapes, seed, dtype="float64"):
    generator = np.random.default_rng(seed)

    def normal(shape):
        return jnp.asarray(generator.standard_normal(shape), dtype)

    return jax.tree.map(normal, shapes, is_leaf=lambda node: isinstance(node, tuple))
