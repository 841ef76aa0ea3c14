"""The executed run that is committed shows everything when it is opened cold: no kernel, no network."""
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIGURE = "application/vnd.plotly.v1+json"
EXAMPLES = sorted((ROOT / "nbs" / "examples").glob("*.ipynb"))


def code(path):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


def figures(path):
    return [o["data"][FIGURE] for c in code(path) for o in c["outputs"] if FIGURE in o.get("data", {})]


def has_numbers(trace):
    values = [trace.get(k) for k in ("x", "y", "z") if trace.get(k) is not None]
    return bool(values) and all(v["bdata"] if isinstance(v, dict) else len(v) for v in values)


def test_there_is_one():
    assert [p.stem for p in EXAMPLES] == ["world-run"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_chart_is_in_it(path):
    assert path.stat().st_size < 2_000_000
    titles = [f["layout"]["title"]["text"] for f in figures(path)]
    assert {"Losses", "Quality", "Modality weights over entities", "Attention between modalities", "Reward and its parts"} <= set(titles)
    for figure in figures(path):
        assert figure["layout"]["meta"]["alt"]
        assert figure["data"] and all(has_numbers(t) for t in figure["data"]), figure["layout"]["title"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_ran_to_the_end(path):
    assert not [o for c in code(path) for o in c["outputs"] if o["output_type"] == "error"]
    assert "alignment.tsv" in code(path)[-1]["outputs"][0]["text"][0]
