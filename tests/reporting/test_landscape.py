"""The figure of ``fathom landscape``, and what ``fathom replay`` says where nothing was found."""

import numpy as np
import pytest

from research.records.replayed import Replayed
from research.reporting.landscape import draw_landscape
from research.reporting.quantities import BY_NAME
from research.reporting.replays import describe_replayed
from research.runner.landscape import Landscape

from .conftest import write_run


@pytest.mark.parametrize(
    ("kind", "label"), [("cross_entropy", "train loss (nats)"), ("mse", "train loss")]
)
def test_a_loss_is_in_nats_only_where_it_is_a_cross_entropy(kind, label, tmp_path):
    run = write_run(tmp_path / "run", {"loss.kind": kind})
    coordinates = np.linspace(-1, 1, 17)
    landscape = Landscape(
        coordinates=coordinates,
        surface=1 + coordinates[:, None] ** 2 + coordinates**2,
        lines=1 + np.tile(coordinates**2, (4, 1)),
        interpolation=np.linspace(2, 1, 26),
        num_examples=512,
        between=None,
    )
    figure = draw_landscape(landscape, BY_NAME["train_loss"].heading([run]))
    assert [axes.get_ylabel() for axes in figure.axes[1:]] == [label, label]
    assert figure.get_supxlabel() == "loss of the first 512 training examples in stored order"


@pytest.mark.parametrize(("end", "knows_jumps"), [(4, False), (5, True)])
def test_a_replay_speaks_of_jumps_only_where_it_can_see_one(end, knows_jumps):
    replayed = Replayed(
        start=0,
        is_from_checkpoint=False,
        end=end,
        first_difference=None,
        events=(),
        examples=(),
        suspects=(),
        trials=(),
    )
    said = describe_replayed(replayed)
    assert ("none jumped" in said) is knows_jumps
    assert ("a jump is only seen where 5 steps before it are known" in said) is not knows_jumps


def test_a_replay_says_which_of_its_steps_were_measured():
    replayed = Replayed(
        start=0,
        is_from_checkpoint=False,
        end=9,
        first_difference=None,
        events=(),
        examples=(),
        suspects=(),
        trials=(),
        first_measured=7,
    )
    assert describe_replayed(replayed).startswith(
        "Replayed steps 0–9, of which steps 7–9 with all gauges: "
    )
