"""``fathom predict``: whether runs will train, before they do."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from research.cli.overrides import naming_files, prepare_arguments, report_repeated
from research.config.errors import describe_several_values
from research.config.override_checks import parse_overrides
from research.config.schema import Config
from research.config.wording import join_words, pluralize
from research.reporting.json_output import print_json
from research.reporting.tables import console

if TYPE_CHECKING:
    from research.sweeps.planning import PlannedRun

MOST_TRIAL_STEPS = 1000


def main(
    words: Sequence[str],
    *,
    multirun: bool,
    steps: str,
    json: bool,
) -> int:
    """Prints how likely each run is to train, and why; nothing is recorded.

    Args:
        words: the settings, as for ``fathom train``.
        multirun: whether values that are separated by commas are those of several runs.
        steps: how many steps each is trained on its first batch; 0 for none.
        json: whether JSON is printed: a list with an object for each run.

    Raises:
        ValueError: a setting or the number of steps is wrong.
    """
    from research.sweeps.planning import plan_runs

    trial_steps = _parse_steps(steps)
    settings = prepare_arguments(words)
    report_repeated(settings)
    if not multirun:
        _check_single(settings)
    with naming_files(settings):
        planned = plan_runs(settings, multirun=multirun)

    if len(planned) > 1:
        _print_plan([run.config for run in planned])

    from research.runner.preflight import measure_configs
    from research.runner.session import prepare_jax

    _report_ignored(planned)
    prepare_jax()
    measured = measure_configs([run.config for run in planned], trial_steps)

    from research.diagnosis.preflight import predict_training
    from research.reporting.preflight import preflight_object, preflight_table

    expected = [predict_training(each) for each in measured]
    configs = [run.config for run in planned]
    if json:
        print_json(list(map(preflight_object, configs, expected)))
        return 0
    out = console(pipe_width=1000)
    if len(expected) == 1:
        out.print(str(expected[0]), markup=False, soft_wrap=True)
    else:
        out.print(preflight_table(configs, expected))
    return 0


def _print_plan(configs: Sequence[Config]) -> None:
    from research.runner.preflight import count_programs

    programs = count_programs(configs)
    compiled = pluralize(programs, "compiled program")
    print(f"{len(configs)} runs to measure, {compiled}", file=sys.stderr)


def _report_ignored(planned: Sequence["PlannedRun"]) -> None:
    """Says on standard error which of the settings that were written change no prediction."""
    from research.runner.preflight import find_ignored

    ignored: dict[str, None] = {}
    for run in planned:
        ignored |= dict.fromkeys(find_ignored(run.overrides, run.config))
    if ignored:
        verb = "has" if len(ignored) == 1 else "have"
        print(
            f"fathom: {join_words(list(ignored), 'and')} {verb} no effect on fathom predict, which "
            "measures the start of a run and records nothing",
            file=sys.stderr,
        )


def _check_single(words: Sequence[str]) -> None:
    """Refuses values of several runs where one run is asked for.

    Raises:
        ValueError: a setting has several values.
    """
    for override in parse_overrides(words):
        if override.is_sweep_override():
            word = override.input_line or ""
            raise ValueError(describe_several_values(word, "fathom predict"))


def _parse_steps(text: str) -> int:
    try:
        steps = int(text)
    except ValueError:
        steps = -1
    if not 0 <= steps <= MOST_TRIAL_STEPS:
        raise ValueError(f"--steps must be a whole number from 0 to {MOST_TRIAL_STEPS}, got {text}")
    return steps
