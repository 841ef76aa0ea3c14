"""Each experiment notebook runs from top to bottom under papermill, on synthetic data, with settings that take seconds."""
import json
import re
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))

TINY = "epochs=2, eval_every=1, dim=20, heads=2, layers=1, ffn_dim=100, device=cpu"    # of the runs that a notebook starts

# The smallest run of each notebook that still goes through all of it. A notebook without an entry fails.
SMOKE = {
    "ablate_components": dict(base="recommended", datasets="synth", seeds="0", rows="w/o MMPF", changes=TINY),
    "ablate_modalities": dict(base="recommended", datasets="synth", seeds="0", rows="w/o img", changes=TINY),
    "compare": dict(methods="recommended,gcn_align", datasets="synth", seed_ratios="0.3", seeds="0", changes=TINY),
    "iterative": dict(methods="recommended", datasets="synth", seeds="0", changes=f"{TINY}, iterative_epochs=4, propose_every=1, promote_every=2"),
    "low_resource": dict(methods="recommended", datasets="synth", seed_ratios="0.005,0.3", seeds="0", changes=TINY),
    "sweep": dict(grid="reward_threshold=0.1", datasets="synth", seeds="0", changes=TINY),
    "train": dict(dataset="synth", seed_ratio=0.3, valid_ratio=0.1, epochs=3, eval_every=1, dim=20, heads=2, ffn_dim=100, device="cpu"),
}


@pytest.fixture(scope="module", params=EXPERIMENTS, ids=lambda p: p.stem)
def executed(request, tmp_path_factory):
    "The executed notebook, its name, and the folder it ran in."
    path, folder = request.param, tmp_path_factory.mktemp(request.param.stem)
    assert path.stem in SMOKE, f"add the smallest run of {path.name} to SMOKE"
    out = folder / "out.ipynb"
    with pytest.MonkeyPatch.context() as env:
        env.setenv("MPSEA_CACHE", str(folder / "cache"))
        env.setenv("OMP_NUM_THREADS", "1")
        papermill.execute_notebook(path, out, parameters=SMOKE[path.stem], cwd=folder, kernel_name="python3", progress_bar=False,
                                   store_widget_state=False, execution_timeout=300)
    return path.stem, json.loads(out.read_text(encoding="utf-8")), folder


def test_it_runs_to_the_end(executed):
    name, nb, folder = executed
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert all(c["execution_count"] for c in code if "".join(c["source"]).strip())


def test_it_stays_small_and_static(executed):
    name, nb, folder = executed
    assert "widgets" not in nb["metadata"], "widget state is megabytes, and shows nothing without a kernel"
    assert "widget-view" not in json.dumps(nb)
    assert len(json.dumps(nb)) < 2_000_000


def test_it_leaves_a_whole_run(executed):
    name, nb, folder = executed
    results = list(folder.rglob("results.json"))
    assert results, "no run folder"
    rows = json.loads(results[0].read_text(encoding="utf-8"))["rows"]
    assert rows and all(0 <= r[k] <= 1 for r in rows for k in ("hits@1", "hits@10", "mrr"))
    assert not list(folder.rglob("*.part")), "a half-written file was left behind"


@pytest.mark.parametrize("name, wrong, right", [("train", "temprature", "temperature"), ("compare", "sedes", "seeds")])
def test_an_unknown_parameter_is_an_error(name, wrong, right, tmp_path):
    "papermill itself only warns."
    with pytest.raises(papermill.PapermillExecutionError) as e:
        papermill.execute_notebook(ROOT / "nbs" / "experiments" / f"{name}.ipynb", tmp_path / "out.ipynb", cwd=tmp_path,
                                   parameters={**SMOKE[name], wrong: 0.1}, kernel_name="python3", progress_bar=False)
    assert f"did you mean {right!r}" in str(e.value), "the error suggests the right name"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_parameters_are_checked_before_anything_else(path):
    code = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    at = next(i for i, c in enumerate(code) if "parameters" in c["metadata"].get("tags", []))
    assert re.search(r"(check_parameters|from_notebook)\(globals\(\)", "".join(code[at + 1]["source"]))


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path):
    said = dict(base="recommended", grid="lr=1e-3:1e-2:log", datasets="synth", seeds="0", changes=TINY)
    for trials in (1, 2):
        papermill.execute_notebook(ROOT / "nbs" / "experiments" / "sweep.ipynb", tmp_path / "out.ipynb", cwd=tmp_path, kernel_name="python3",
                                   parameters={**said, "search": trials}, progress_bar=False)
    assert (tmp_path / "runs" / "search.journal").is_file()
    assert len(list(tmp_path.rglob("results.json"))) == 2, "the first point was not trained again"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_help_lists_every_parameter(path):
    "papermill reads a parameter by its line, and passes over one whose comment holds another `=`."
    cell = next(c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if "parameters" in c["metadata"].get("tags", ()))
    written = re.findall(r"^(\w+): ", "".join(cell["source"]), re.MULTILINE)
    assert list(papermill.inspect_notebook(path)) == written
