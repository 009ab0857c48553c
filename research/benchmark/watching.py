"""Rows about ``fathom.watch``: what measuring somebody's own Flax model costs."""

import time
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from research.benchmark.timing import Measurement, ReportProgress, compare
from research.watching.watch import watch

INPUTS = 32
OUTPUTS = 8
STEPS = 3  # in a timing, on CPUs
STEP_PAIRS = 15
COMPILE_PAIRS = 3


class FeedForward(nn.Module):
    """A residual block of two dense layers behind a norm."""

    width: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """The hidden signal for a batch."""
        z = nn.Dense(4 * self.width)(nn.LayerNorm()(h))
        return h + nn.Dense(self.width)(nn.gelu(z))


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each behind a norm and with a shortcut."""

    width: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """The hidden signal for a batch."""
        h = h + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(h))
        return FeedForward(self.width)(h)


class Network(nn.Module):
    """Blocks one after the other, as most people write them."""

    block: type[nn.Module]
    depth: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The output for a batch."""
        h = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            h = self.block(self.width)(h)
        return nn.Dense(OUTPUTS)(h)


@dataclass(frozen=True)
class Case:
    """A network and the shape of its input.

    Attributes:
        description: their size, in words.
        network: the network.
        shape: the shape of a batch, without the features.
        steps: the number of steps in a timing.
    """

    description: str
    network: Network
    shape: tuple[int, ...]
    steps: int = STEPS


MLP = Case(
    "12 residual blocks of width 256, batch 256",
    Network(FeedForward, depth=12, width=256),
    (256,),
)
TRANSFORMER = Case(
    "6 blocks of width 256 on 8 × 64 tokens",
    Network(TransformerBlock, depth=6, width=256),
    (8, 64),
)


class OwnStep:
    """A train step with Adam as a user writes it.

    Args:
        case: the network.
        measure: whether the step measures its layers.
    """

    def __init__(self, case: Case, *, measure: bool):
        self.case = case
        self.measure = measure
        self.optimizer = optax.adam(1e-3)
        key = jax.random.key(0)
        self.x = jax.random.normal(key, (*case.shape, INPUTS))
        params = case.network.init(key, self.x)
        self.state = (params, self.optimizer.init(params))

    def loss(self, params: Any, x: jax.Array) -> jax.Array:
        """The mean square of the network's output for inputs ``x``: a scalar []."""
        outputs: Any = self.case.network.apply(params, x)
        return jnp.mean(outputs**2)

    def step(self, state: Any, x: jax.Array) -> Any:
        """The new state, the loss and the gauges, of an update on the inputs ``x`` [B, …]."""
        params, opt_state = state
        differentiate = watch().value_and_grad(self.loss, measure=self.measure)
        loss, grads, gauges = differentiate(params, x)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss, gauges

    def compile(self) -> Any:
        """The compiled step; nothing is left in JAX's caches before."""
        jax.clear_caches()
        return jax.jit(self.step).lower(self.state, self.x).compile()

    def time_compiling(self) -> float:
        """Traces and compiles; returns the seconds of this process's CPUs."""
        start = time.process_time()
        self.compile()
        return time.process_time() - start


class OwnStepTimer:
    """A compiled step, for timings.

    Args:
        step: the step.
    """

    def __init__(self, step: OwnStep):
        self._step = step
        self._compiled = step.compile()
        self.time()

    def time(self) -> float:
        """Trains from the initial weights; returns the seconds of a step."""
        state = self._step.state
        steps = self._step.case.steps
        start = time.perf_counter()
        for _ in range(steps):
            state, _, _ = self._compiled(state, self._step.x)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / steps


def compare_own_steps(
    report_progress: ReportProgress,
    *,
    case: Case,
    pairs: int = STEP_PAIRS,
) -> Measurement:
    """Times the step that measures against the step that does not.

    Args:
        report_progress: called with the number of pairs that are done, and of all of them.
        case: the network and its inputs.
        pairs: how many pairs of timings there are.
    """
    return compare(
        OwnStepTimer(OwnStep(case, measure=True)).time,
        OwnStepTimer(OwnStep(case, measure=False)).time,
        pairs,
        report_progress,
    )


def compare_compiling(
    report_progress: ReportProgress,
    *,
    case: Case,
    pairs: int = COMPILE_PAIRS,
) -> Measurement:
    """Times tracing and compiling of the same two steps, in CPU seconds.

    Args:
        report_progress: called with the number of pairs that are done, and of all of them.
        case: the network and its inputs.
        pairs: how many pairs of timings there are.
    """
    subject = OwnStep(case, measure=True)
    baseline = OwnStep(case, measure=False)
    for step in (subject, baseline):
        step.compile()  # imports what is imported late
    return compare(
        subject.time_compiling,
        baseline.time_compiling,
        pairs,
        report_progress,
        note=", CPU seconds",
    )
