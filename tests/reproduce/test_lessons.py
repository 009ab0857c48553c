"""The course through the lessons: its page, its pages, and what they ask the reader to try."""

import pytest

from research.cli import main as cli
from research.cli import train
from research.config import schema
from research.config.hydra_config import resource_dir
from research.reproduce import experiments, results, tables
from research.reproduce.experiments import course_names, lesson_names, read_duration
from research.reproduce.gallery import make_course
from research.runner.run_spec import to_checked_config

from ..docs_blocks import ROOT, compose_training, read_blocks, read_command_lines

PAGES = [ROOT / "experiments" / name / "README.md" for name in lesson_names()]
TO_TRY = read_command_lines(read_blocks(PAGES))
TO_TRAIN = [line for line in TO_TRY if line.words[:2] == ["fathom", "train"]]
GREATEST_DURATION = 12 * 60  # seconds, of all lessons on two cores


def label(line):
    return f"{line.page}: {line.text}"


def test_the_course_is_made_of_the_pages_of_its_stops():
    root = resource_dir("experiments")
    assert (root / "lessons.md").read_text() == make_course(root), (
        "python -m research.reproduce.gallery writes it again"
    )
    assert set(lesson_names()) < set(course_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_lesson_has_an_idea_a_hint_and_something_to_try(page):
    text = page.read_text()
    for heading in ("Question", "Idea", "What to look at", "Try it"):
        assert f"**{heading}.**" in text
    assert any(line.page == f"experiments/{page.parent.name}/README.md" for line in TO_TRY)


def test_all_lessons_together_take_an_afternoon_at_most():
    durations = [read_duration(name) for name in lesson_names()]
    assert sum(duration.seconds for duration in durations if duration) <= GREATEST_DURATION


@pytest.mark.parametrize("line", TO_TRAIN, ids=label)
def test_what_a_lesson_asks_to_try_composes(line):
    assert isinstance(to_checked_config(compose_training(line)), schema.Config)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_a_lesson_asks_to_try_runs(page, fathom, workplace):
    for line in TO_TRY:
        if line.page == f"experiments/{page.parent.name}/README.md":
            without_tracker = ["tracker=none"] if line in TO_TRAIN else []
            said = fathom(*line.words[1:], *without_tracker)
            assert said.code == 0, said.err
    assert list(workplace.glob("outputs/*/*/run.json"))


def test_one_command_reproduces_all_lessons(monkeypatch, workplace):
    trained = []
    monkeypatch.setattr(train, "main", lambda words, session: trained.append(words[0]) or 0)
    monkeypatch.setattr(results, "draw_and_test", lambda *_, **__: True)
    monkeypatch.setattr(tables, "summary_table", str)

    assert cli.run(["reproduce", "lessons", "tracker=none"]) == 0

    assert trained == [f"experiment={name}" for name in lesson_names()]


def test_two_experiments_cannot_have_the_same_place_in_the_course(monkeypatch, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "one.yaml").write_text("# Lesson: 3\n")
    (folder / "two.yaml").write_text("# Stop: 3\n")
    monkeypatch.setattr(experiments, "resource_dir", lambda _: tmp_path)

    with pytest.raises(ValueError, match="two and one are both number 3 of the course"):
        course_names()
