import pytest

from research import cli, experiment, train


@pytest.mark.parametrize(
    ("trained", "ended", "holds", "code"),
    [
        (0, True, True, 0),
        (0, True, False, 1),
        (1, True, True, 0),  # a run diverged: of a grid of learning rates that is a result
        (1, False, True, 1),  # a run failed
        (2, True, True, 2),  # refused
    ],
)
def test_claims_decide_once_every_run_has_ended(monkeypatch, trained, ended, holds, code):
    def finished(name, directory):
        if not ended:
            raise ValueError(f"{directory} lacks a run of {name}")

    judged = []
    monkeypatch.setattr(train, "main", lambda _: trained)
    monkeypatch.setattr(experiment, "finished_runs", finished)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda *of: judged.append(of) or holds)
    assert cli.run(["reproduce", "relu_growth"]) == code
    assert bool(judged) == (ended and trained < 2)
