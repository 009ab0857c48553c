import pytest

from research.config.hydra_config import resource_dir
from research.reproduce.experiments import experiment_names
from research.reproduce.gallery import make_gallery


def test_the_gallery_is_that_of_the_experiments_pages():
    root = resource_dir("experiments")
    gallery = make_gallery(root)
    assert (root / "README.md").read_text() == gallery, (
        "python -m research.reproduce.gallery writes it again"
    )
    for name in experiment_names():
        assert f"[`{name}`]({name}/README.md)" in gallery


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_has_a_page_a_figure_and_its_claims_as_measured(name):
    folder = resource_dir("experiments") / name
    page = (folder / "README.md").read_text()
    assert f"fathom reproduce {name}" in page
    assert "![" in page
    assert "| holds |" in page
    assert "| NO |" not in page  # so that ``fathom reproduce all`` can end with exit code 0
    assert (folder / "figure.png").stat().st_size > 10_000
