from pathlib import Path

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

    judged, mirrored = [], []
    monkeypatch.setattr(train, "main", lambda _: trained)
    monkeypatch.setattr(experiment, "finished_runs", finished)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda *of: judged.append(of) or holds)
    monkeypatch.setattr(experiment, "mirror", lambda *of: mirrored.append(of))
    assert cli.run(["reproduce", "relu_growth"]) == code
    assert bool(judged) == bool(mirrored) == (ended and trained < 2)
    assert cli.run(["reproduce", "relu_growth", "tracker=none"]) == code
    assert len(mirrored) == bool(judged)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["degradatoin"], "no experiment degradatoin; did you mean degradation?"),
        (["degradation", "--scale", "papre"], "there is no scale papre; did you mean paper? valid: paper"),
        (["relu_growth", "--scale", "paper"], "there is no experiment relu_growth at --scale paper"),
        (["degradation", "--scale", "paper", "seed=1"], "seed=1 would make it another experiment"),
    ],
)
@pytest.mark.parametrize("command", ["reproduce", "figure"])
def test_an_experiment_or_scale_that_does_not_exist_is_one_line(fathom, workplace, command, words, line):
    if command == "figure" and "seed=1" in words:
        pytest.skip("figure trains nothing")
    said = fathom(command, *words)
    assert said.code == 2 and line in said.err and said.err.count("\n") == 1 and not list(workplace.iterdir())


def test_a_scale_has_runs_and_a_folder_of_its_own(monkeypatch):
    trained, judged = [], []
    monkeypatch.setattr(train, "main", lambda words: trained.append(words) or 0)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda *of: judged.append(of) or True)
    assert cli.run(["reproduce", "degradation", "--scale", "paper", "tracker=none"]) == 0
    assert cli.run(["figure", "--scale=paper", "degradation"]) == 0
    assert trained == [["experiment=paper/degradation", "hydra/launcher=grouped", "tracker=none"]]
    assert judged == [("paper/degradation", Path("outputs/degradation-paper"))] * 2
