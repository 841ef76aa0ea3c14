"""The method that CONTRIBUTING shows how to add is a whole one: short, trained like any other, and compared like any other."""
import re
import sys
from pathlib import Path

import pytest

from mpsea import pipeline
from mpsea.config import Config
from mpsea.experiments import compare_cells
from mpsea.sweeps import execute

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(dataset="synth", seed_ratio=0.3, epochs=3, eval_every=1, dim=20, device="cpu", joint="early", options="noise=.2")


def shown():
    "The code of the method in CONTRIBUTING.md."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(r"(?ms)^## Add a method$(.*?)^## ", text)[1]
    return re.search(r"(?ms)^```python\n(# my_idea\.py\n.*?)^```$", section)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder with my_idea.py, as the current one."
    (tmp_path / "my_idea.py").write_text(shown(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPSEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])           # found because the file lies here, not because pytest put it on the path
    yield tmp_path
    sys.modules.pop("my_idea", None)


def test_it_is_short():
    assert len(shown().splitlines()) < 60


def test_it_trains(folder):
    results = pipeline.run(Config(method="my_idea:MyIdea", **TINY), folder / "run")
    rows = {(r["selection"], r["direction"], r["csls"]): r for r in results["rows"]}
    assert rows["last", "mean", 3]["hits@1"] > 10 / 190, "far above chance"


def test_it_is_compared(folder):
    "In a process of its own, which finds the class where the experiment was started."
    cells = compare_cells(["my_idea:MyIdea"], ["synth"], [0.3], **{k: v for k, v in TINY.items() if k not in ("dataset", "seed_ratio")})
    assert [c.label for c in cells] == ["MyIdea"]
    done = execute(cells, folder / "runs", reuse=(), workers=1)
    assert done.state.tolist() == ["done"], done.problem.tolist()

