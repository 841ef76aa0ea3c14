"""Each tutorial, and each how-to that runs commands, runs from top to bottom under papermill, and its saved page shows its figures without a kernel."""
import json
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = [*sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb")), *(ROOT / "nbs" / "howto" / f"{n}.ipynb" for n in ("align", "images", "no_seeds"))]
FIGURE = "application/vnd.plotly.v1+json"

each_tutorial = pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)


def outputs(path):
    return [o for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code" for o in c["outputs"]]


def test_there_are_tutorials():
    assert TUTORIALS
    assert (TUTORIALS[0].parent / ".notest").exists(), "run here, not a second time by nbdev_test"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Where the tutorials find what the first of them has made: pictures of the sample, the run that they all look at."""
    return tmp_path_factory.mktemp("shared")


@each_tutorial
def test_it_runs_to_the_end_small_and_static(path, shared, tmp_path, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)            # as papermill starts it, though these tests be run from a notebook
    monkeypatch.setenv("MPSEA_CACHE", str(shared / "cache"))
    monkeypatch.setenv("MPSEA_RUNS", str(shared / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(path, out, cwd=tmp_path, kernel_name="python3", progress_bar=False, store_widget_state=False, execution_timeout=300)
    assert not [o for o in outputs(out) if o["output_type"] == "error"]
    assert "widgets" not in json.loads(out.read_text(encoding="utf-8"))["metadata"] and "widget-view" not in out.read_text(encoding="utf-8")
    assert out.stat().st_size < 1_000_000
    assert {p.name for p in tmp_path.iterdir()} == {"out.ipynb"}, "a tutorial leaves nothing behind"
    assert len(figures(out)) == len(figures(path)), "execute the notebook again: its page shows other figures"


def figures(path):
    return [o["data"][FIGURE] for o in outputs(path) if FIGURE in o.get("data", {})]


@each_tutorial
def test_its_page_has_figures_that_can_be_read_aloud(path):
    assert figures(path) and all(f["layout"]["meta"]["alt"] for f in figures(path))
