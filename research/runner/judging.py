"""Forms the verdict on a run from the rows that its writer sees."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np

from research.config.number_formats import POLICIES
from research.config.options import FullyConnected, Loss, LossKind, Model, ModelKind
from research.config.schema import Config, flatten
from research.data.dataset import Dataset
from research.diagnosis.history import RowHistory
from research.diagnosis.observed import Divergence, LossBounds, Observed, Theory, loss_bounds
from research.diagnosis.prediction import predict
from research.diagnosis.verdict import Verdict, judge
from research.gauges.table import GAUGES, SIGNAL_GRAD
from research.runner.run_setup import RunSetup

Columns = dict[str, np.ndarray]
JUDGED_METRICS = (
    "step",
    "train_loss",
    "train_accuracy",
    "eval_loss",
    "grad_norm",
    "learning_rate",
    "loss_scale",
    "skipped",
)
SHARPNESS = "sharpness"
LARGEST_SHARE_OF_TIME = 0.01  # that verdicts on running runs may take


def layer_parameters(model: Model) -> int | None:
    """The weights and biases of a layer of a fully connected network; None of other networks."""
    if not isinstance(model, FullyConnected):
        return None
    inputs = model.width + (1 if model.bias else 0)
    return model.branch_weights * inputs * model.width


def loss_bounds_of(loss: Loss, dataset: Dataset) -> LossBounds:
    """What the training loss of a run is compared with.

    Args:
        loss: what is minimised.
        dataset: the dataset.
    """
    if loss.kind is not LossKind.cross_entropy or dataset.is_regression:
        return LossBounds()
    if not dataset.language:
        return loss_bounds(dataset.class_counts, dataset.classes, loss.label_smoothing)
    if not loss.label_smoothing:  # the same number as in the record
        return LossBounds(dataset.unigram_entropy)
    return loss_bounds(dataset.token_counts, dataset.classes, loss.label_smoothing)


class RunJudge:
    """Collects what a run measures, and judges it at any time."""

    def __init__(
        self,
        config: Config,
        setup: RunSetup,
        layers: int,
    ):
        """Starts without measurements.

        Args:
            config: the run.
            setup: what the runs of its group are trained with.
            layers: the layers N of its network.
        """
        self._config = config
        self._setup = setup
        self._layers = layers
        self._settings = flatten(config)
        self._metrics: list[Columns] = []
        self._profiles = RowHistory()
        self._exponents: dict[int, Columns] = {}
        self._sharpness: dict[int, float] = {}

    def add_metrics(self, columns: Columns) -> None:
        """Adds metrics of consecutive steps."""
        judged = {name: columns[name] for name in JUDGED_METRICS if name in columns}
        self._metrics.append(judged)

    def add_profiles(self, columns: Columns) -> None:
        """Adds the gauges of measured steps; nothing where there are none."""
        if not columns:
            return
        judged = {"step": columns["step"]}
        for gauge in GAUGES:
            if gauge.name in columns:
                judged[gauge.name] = columns[gauge.name]
        self._profiles.add(judged)

    def add_diagnostics(self, step: int, diagnostics: Mapping[str, np.ndarray]) -> None:
        """Adds what was measured on an interval: exponents and inspections."""
        if "signal_exponent" in diagnostics:
            self._exponents[step] = dict(diagnostics)
        if SHARPNESS in diagnostics:
            sharpness = float(diagnostics[SHARPNESS])
            if np.isfinite(sharpness):
                self._sharpness[step] = sharpness

    @cached_property
    def _theory(self) -> Theory | None:
        return predict(
            self._config,
            inputs=self._setup.program_config.architecture.inputs,
            mean_square=self._mean_square,
            batch_size=self._setup.program_config.batch_size,
        )

    @cached_property
    def _mean_square(self) -> float:
        return self._setup.dataset.mean_square

    @cached_property
    def _loss_bounds(self) -> LossBounds:
        return loss_bounds_of(self._config.loss, self._setup.dataset)

    def _observed(self) -> Observed:
        width = self._config.model.width
        is_mlp = self._config.model.kind is ModelKind.mlp
        policy = POLICIES[self._config.precision.kind.name]
        return Observed(
            metrics=self._all_metrics(),
            profiles=self._profiles.columns(),
            exponents=self._exponents,
            sharpness=self._sharpness,
            format_=policy.narrowest,
            chance_loss=self._loss_bounds.chance,
            least_loss=self._loss_bounds.least,
            class_entropy=self._loss_bounds.class_entropy,
            signal_elements=self._setup.program_config.batch_size * width if is_mlp else None,
            layer_parameters=layer_parameters(self._config.model),
            input_mean_square=self._mean_square,
        )

    def _all_metrics(self) -> Columns:
        if not self._metrics:
            return {}
        columns = {}
        for name in self._metrics[0]:
            pieces = [piece[name] for piece in self._metrics]
            columns[name] = np.ma.concatenate(pieces)
        self._metrics = [columns]
        return columns

    def judge(
        self,
        diverged: Divergence | None = None,
        *,
        with_advice: bool = True,
    ) -> Verdict | None:
        """The verdict on the steps so far; None where nothing was measured and nothing diverged.

        Args:
            diverged: where numbers stopped being finite.
            with_advice: whether findings say what to try.
        """
        if not len(self._profiles) and not diverged:
            return None
        observed = self._observed()
        steps = np.zeros(0, int)
        signal_grads = np.zeros((0, self._layers + 1))
        if len(self._profiles):
            steps = observed.profiles["step"]
            signal_grads = observed.profiles[SIGNAL_GRAD.name]
        shares_weights = self._setup.program_config.architecture.shares_weights
        return judge(
            steps,
            signal_grads,
            settings=self._settings,
            theory=self._theory,
            diverged=diverged,
            # The first state of a recurrent network is zero.
            first_signal=1 if shares_weights else 0,
            observed=observed,
            with_advice=with_advice,
        )


class VerdictClock:
    """Says when a running run is judged again, so that this takes at most a hundredth of the time.

    Every run of a group has its clock, and they share the host.
    """

    def __init__(
        self,
        group_size: int,
        every: float | None,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[float], None] | None = None,
    ):
        """Starts counting now.

        Args:
            group_size: the runs that the host judges.
            every: the seconds between two verdicts, at least; None for no verdicts.
            clock: the time in seconds.
            report: called with the CPU seconds of each verdict.
        """
        self._report = report
        self._group_size = group_size
        self._every = math.inf if every is None else every
        self._clock = clock
        self._due_at = clock() + self._every
        self._has_judged = False

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last verdict."""
        return self._clock() >= self._due_at

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measures how long a verdict takes, which sets the time of the next one.

        The first one is not counted, because it also imports SciPy and computes what theory
        predicts.
        """
        started_at = self._clock()
        cpu_seconds_before = time.thread_time()
        yield
        if self._report is not None:
            self._report(time.thread_time() - cpu_seconds_before)
        now = self._clock()
        seconds = now - started_at if self._has_judged else 0.0
        self._has_judged = True
        pause = self._group_size * seconds / LARGEST_SHARE_OF_TIME
        self._due_at = now + max(self._every, pause)
