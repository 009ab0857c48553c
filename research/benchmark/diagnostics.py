"""Rows about diagnostics: what one measurement of ``measure.inspect`` costs, in training steps."""

import time

import jax

from research.benchmark.steps import BATCH_SIZE, StepTimer
from research.benchmark.timing import Measurement, ReportProgress, compare

REPETITIONS = 5
MLP = ("model.depth=10", "model.width=64", f"train.batch_size={BATCH_SIZE}", "data=digits")
TEXTS = (
    "model=transformer",
    "model.depth=6",
    "model.width=64",
    "data=python_docs",
    "data.label=topic",
    "data.unit=words",
    "data.length=16",
    f"train.batch_size={BATCH_SIZE}",
)
FUNCTION = ("data=function", "loss=mse", *MLP[:-1])
SUBJECTS = {  # the network that a diagnostic is measured on, where that is not ``MLP``
    "fitted_function": FUNCTION,
    "masked_outputs": (*MLP, "model.dropout=0.5"),
    "clipping": (*MLP, "optimizer.clip=global_norm"),
    "tokens": TEXTS,
    "preconditioned_sharpness": (*MLP, "optimizer=adam"),
    "stream_mixing": (*MLP, "skip=hyper"),
    "quantization_noise": (*MLP, "precision=float4_e2m1"),
}


class DiagnosticTimer(StepTimer):
    """One measurement of a diagnostic at the initial weights.

    Args:
        name: The diagnostic, as in ``measure.inspect``.
    """

    def __init__(self, name: str):
        super().__init__(*network_of(name), f"measure.inspect=[{name}]", steps=1)

    def time(self) -> float:
        """Returns the seconds of one measurement, compiled before."""
        state = self.initial_state()
        start = time.perf_counter()
        result = self.program.inspections(state, self.setup.hp, self.setup.data)
        jax.block_until_ready(result)
        return time.perf_counter() - start


def network_of(name: str) -> tuple[str, ...]:
    """The overrides of the network on which a diagnostic is measured."""
    return SUBJECTS.get(name, MLP)


def compare_with_step(report_progress: ReportProgress, *, name: str) -> Measurement:
    """One measurement of a diagnostic / the step of the same network with the default gauges.

    Args:
        report_progress: Called after each pair of timings.
        name: The diagnostic.
    """
    subject = DiagnosticTimer(name)
    baseline = StepTimer(*network_of(name))
    return compare(subject.time, baseline.time, REPETITIONS, report_progress)
