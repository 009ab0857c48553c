"""``fathom landscape``: from a kept checkpoint to a figure, and refusals in one line."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.records.runs import find_runs
from research.runner.landscape import losses_along_path, losses_between, measure_landscape

KEPT = (
    "checkpoint.keep=true",
    "measure.inspect=[loss_surface,parameters]",
    "measure.inspect_every=1",
)


@pytest.mark.slow
def test_the_landscape_of_a_run_is_drawn_from_its_kept_checkpoint(fathom, trained, workplace):
    run, _ = trained(*KEPT, "train.steps=2", "hydra.run.dir=outputs/kept/run")
    said = fathom("landscape", "kept")
    assert said.code == 0, said.err
    assert "at the final weights" in said.out
    assert (run.directory / "landscape.png").stat().st_size > 10_000
    # The weights of step 1, moved by one more step, are those of the checkpoint.
    landscape = measure_landscape(run.directory)
    recorded = run.inspections["surface_loss"][-1]
    assert landscape.surface.shape == recorded.shape
    assert not np.array_equal(landscape.surface, recorded)
    middle = len(landscape.coordinates) // 2
    assert_allclose(landscape.interpolation[-1], landscape.surface[middle, middle], rtol=1e-5)
    assert_allclose(losses_between(run.directory, run.directory), landscape.interpolation[-1])


@pytest.mark.slow
def test_the_path_ends_where_the_loss_was_recorded(fathom, trained, workplace):
    run, _ = trained(*KEPT, "train.steps=5", "hydra.run.dir=outputs/path/run")
    plane = losses_along_path(run.directory, run.inspections["parameters"])
    assert_allclose(plane.path[-1], 0, atol=1e-9)
    assert 0.5 < plane.shares.sum() <= 1 + 1e-9
    assert plane.losses.shape == (25, 25)
    assert np.all(np.isfinite(plane.losses))


def test_a_run_without_a_checkpoint_is_refused_in_one_line(fathom, trained, workplace):
    run, _ = trained("hydra.run.dir=outputs/gone/run")
    trained("checkpoint.keep=true", "hydra.run.dir=outputs/kept/run")
    before = sorted(run.directory.rglob("*"))
    for words, reason in (
        (["landscape", "gone"], "kept no checkpoint: `fathom rm outputs/gone/run`"),
        (["landscape", "kept", "gone"], "gone/run kept no checkpoint"),
        (["landscape"], "the landscape of which run?"),
    ):
        said = fathom(*words)
        assert said.code == 2
        assert reason in said.err
        assert said.err.count("\n") == 1
    assert sorted(run.directory.rglob("*")) == before
    assert find_runs(Path("outputs"))
