"""Rows that compare with PyTorch, where it is installed."""

import functools
import importlib.util
from collections.abc import Sequence

from research.benchmark.steps import MLP, STEPS, StepTimer, choose_num_threads
from research.benchmark.sweeps import NUM_RUNS, REPETITIONS, time_grouped_sweep
from research.benchmark.sweeps import STEPS as STEPS_OF_RUN
from research.benchmark.timing import (
    Measurement,
    ReportProgress,
    TimingPair,
    compare,
    median_ratio,
)

TOLERANCE = 1e-3  # relative: 50 layers forward and backward, rounded differently in float32
NOT_INSTALLED = Measurement(None, "not measured: pip install 'fathom-gradients[bench]'")


def is_torch_installed() -> bool:
    """Whether PyTorch, an extra, can be imported."""
    return importlib.util.find_spec("torch") is not None


def check_agreement(difference: float) -> None:
    """Raises RuntimeError if the relative difference of both sides' gauges is too large."""
    if not difference < TOLERANCE:
        raise RuntimeError(
            "PyTorch and Fathom measure different numbers from the same weights, "
            f"by {difference:.2g}"
        )


def compare_torch_steps(
    report_progress: ReportProgress,
    *,
    style: str,
    overrides: Sequence[str] = MLP,
    steps: int = STEPS,
    repetitions: int = 20,
) -> Measurement:
    """PyTorch's step / our step, where both measure all gauges, or neither does.

    Args:
        report_progress: Called after each pair of timings.
        style: How PyTorch measures; see ``STYLES`` of ``torch_steps``.
        overrides: The network and the data.
        steps: The number of steps in a timing.
        repetitions: The number of pairs.

    Raises:
        RuntimeError: PyTorch and Fathom do not measure the same numbers.
    """
    if not is_torch_installed():
        return NOT_INSTALLED
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    from research.benchmark.torch_steps import (
        TorchStepTimer,
        disagreement,
        find_device,
        matmul_precision,
    )

    for measured_style in ("hooks", "tuned"):
        check_agreement(disagreement(measured_style, *overrides))
    level = "off" if style == "bare" else "norms"
    device = find_device()
    with matmul_precision("tf32"):
        ours = StepTimer(*overrides, f"measure={level}", steps=steps)
        params = ours.initial_state().params
        torch_timer = TorchStepTimer(ours.setup, params, style=style, device=device)
        theirs = functools.partial(torch_timer.time, steps)
        if device == "cpu":
            num_threads = choose_num_threads(theirs, torch.set_num_threads)
            note = f", PyTorch threads: {num_threads}"
        else:
            theirs()  # loads kernels
            note = ""
        return compare(theirs, ours.time, repetitions, report_progress, note)


def compare_torch_sweep(report_progress: ReportProgress) -> Measurement:
    """A loop over the runs in PyTorch, with hooks that measure the same / the grouped sweep.

    PyTorch trains one run; its seconds are multiplied by the number of runs.
    """
    if not is_torch_installed():
        return NOT_INSTALLED
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    from research.benchmark.torch_steps import TorchStepTimer

    ours = StepTimer("measure=norms", "train.batch_size=128")
    torch_timer = TorchStepTimer(ours.setup, ours.initial_state().params, style="hooks")
    num_threads = choose_num_threads(functools.partial(torch_timer.time, 60), torch.set_num_threads)
    pairs = []
    for repetition in range(REPETITIONS):
        grouped_seconds = time_grouped_sweep()
        torch_seconds = torch_timer.time(STEPS_OF_RUN) * STEPS_OF_RUN * NUM_RUNS
        pairs.append(TimingPair(torch_seconds, grouped_seconds))
        report_progress(repetition + 1, REPETITIONS)
    return median_ratio(pairs, f", PyTorch threads: {num_threads}, one of its runs timed")
