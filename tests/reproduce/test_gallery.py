import pytest

from research.config.hydra_config import resource_dir
from research.reproduce.experiments import Duration, experiment_names, read_duration
from research.reproduce.gallery import make_gallery, set_duration


def test_the_gallery_is_that_of_the_experiments_pages():
    root = resource_dir("experiments")
    gallery = make_gallery(root)
    assert (root / "README.md").read_text() == gallery, (
        "python -m research.reproduce.gallery writes it again"
    )
    for name in experiment_names():
        assert f"[`{name}`]({name}/README.md)" in gallery


PAGE = """# Growth

**Question.** How fast?

| claim | expected | measured | n | holds |
|---|---|---|---|---|
| it grows | > 1 | 2 (1.5 to 3) | 3 | yes |
| it doubles | 2 ± 0.1 | 2.3 (2 to 3) | 3 | NO |

**What does not hold.** Few steps were
taken.

**Larger.** With more steps:

| claim | expected | measured | n | holds |
|---|---|---|---|---|
| more steps: it doubles | 2 ± 0.1 | 2.2 (2 to 3) | 3 | NO |
"""


def test_claims_that_do_not_hold_are_gathered_with_numbers_and_reasons(tmp_path):
    folder = tmp_path / "growth"
    folder.mkdir()
    (folder / "README.md").write_text(PAGE)
    (folder / "claims.py").touch()
    lines = make_gallery(tmp_path).splitlines()
    link = "[`growth`](growth/README.md)"
    assert f"| {link} | How fast? | 1 of 2 |" in lines
    assert f"| {link} | it doubles | 2 ± 0.1 | 2.3 (2 to 3) |" in lines
    assert f"| {link} | more steps: it doubles | 2 ± 0.1 | 2.2 (2 to 3) |" in lines
    assert f"- {link}: Few steps were taken." in lines
    assert not any("it grows" in line for line in lines)


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_has_a_page_a_figure_and_its_claims_as_measured(name):
    folder = resource_dir("experiments") / name
    page = (folder / "README.md").read_text()
    assert f"fathom reproduce {name}" in page
    assert "![" in page
    assert "| holds |" in page
    if "| NO |" in page:  # ``fathom reproduce all`` ends with exit code 1 then
        assert "**What does not hold.**" in page
    assert (folder / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_says_how_long_it_takes_and_its_page_agrees(name):
    page = (resource_dir("experiments") / name / "README.md").read_text()
    duration = read_duration(name)
    assert duration
    assert "**Duration.**" in page
    assert set_duration(page, duration) == page, (
        "python -m research.reproduce.gallery writes it again"
    )


def test_a_new_duration_replaces_that_of_the_page_alone():
    page = "# A\n\n**Duration.** All runs take long.\n\n![The figure](figure.png)\n"
    changed = set_duration(page, Duration(206, "two CPU cores"))
    assert changed.splitlines() == [
        "# A",
        "",
        "**Duration.** All runs take about 3.5 minutes on two CPU cores.",
        "",
        "![The figure](figure.png)",
    ]
