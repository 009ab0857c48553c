import pytest

from research.config.hydra_config import resource_dir
from research.reproduce.experiments import names
from research.reproduce.gallery import gallery


def test_the_gallery_is_that_of_the_experiments_pages():
    page = gallery(resource_dir("experiments"))
    assert (resource_dir("experiments") / "README.md").read_text() == page, (
        "python -m research.reproduce.gallery makes it anew"
    )
    assert all(f"[`{name}`]({name}/README.md)" in page for name in names())


@pytest.mark.parametrize("name", names())
def test_every_experiment_has_a_page_a_figure_and_its_claims_as_measured(name):
    page = (resource_dir("experiments") / name / "README.md").read_text()
    assert f"fathom reproduce {name}" in page and "![" in page and "| holds |" in page
    assert (resource_dir("experiments") / name / "figure.png").stat().st_size > 10_000
