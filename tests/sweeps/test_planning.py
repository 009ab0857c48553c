"""Which runs words ask for, without training any of them."""

import pytest

from research.sweeps.planning import plan_runs


def test_a_run_is_planned_as_it_is_composed():
    (planned,) = plan_runs(["model.depth=7", "skip=identity"])

    assert planned.config.model.depth == 7
    assert planned.config.skip.kind.name == "identity"


def test_a_sweep_is_planned_in_its_order():
    planned = plan_runs(["model.depth=4,8", "seed=1,2"], multirun=True)

    assert [(run.config.model.depth, run.config.seed) for run in planned] == [
        (4, 1),
        (4, 2),
        (8, 1),
        (8, 2),
    ]
    assert planned[0].overrides == ["model.depth=4", "seed=1"]


def test_the_sweep_of_an_experiment_is_planned():
    planned = plan_runs(["experiment=adam_epsilon", "seed=3"])

    assert len(planned) == 6
    assert {run.config.seed for run in planned} == {3}


def test_a_setting_that_is_out_of_its_range_is_refused():
    with pytest.raises(ValueError, match="model.depth must be"):
        plan_runs(["model.depth=0"])
