"""A sweep gives the same results whoever does the cells, in whatever order, and whatever is killed on the way."""
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import psutil
import pytest
import torch

from mpsea.cells import cells
from mpsea.pipeline import run
from mpsea.sweeps import execute

GRID = dict(dataset=["synth"], dim=[20], heads=[2], ffn_dim=[100], epochs=[8], eval_every=[4], checkpoint_every=[0.], device=["cpu"])
# The training notebook without its figures. While there is a file `gate` beside the runs, it stops in its third epoch, and waits to be killed.
TRAIN = """import time
from pathlib import Path
from mpsea.config import from_notebook
config = from_notebook(globals(), extra=("run_dir",))
gate = Path(run_dir).resolve().parent.parent / "gate"
def wait(record):
    while record["epoch"] >= 3 and gate.exists(): time.sleep(.1)
if config.seed == 9:
    with open(Path(run_dir).parent / "tries", "a") as f: f.write("once\\n")
    raise RuntimeError("always")
from mpsea.pipeline import run
run(config, run_dir, on_epoch=wait)"""
SWEEP = """import json, sys
from mpsea.cells import Cell
from mpsea.sweeps import execute
told = json.load(open(sys.argv[1]))
execute([Cell(**c) for c in told.pop("cells")], **told)"""


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory):
    with pytest.MonkeyPatch.context() as env:
        env.setenv("OMP_NUM_THREADS", "1")
        env.setenv("MPSEA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def stand_in(folder, source=TRAIN):
    "A notebook that trains, and nothing else."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in ("run_dir = ''", source)])
    nb.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nb, folder / "train.ipynb")
    return str(folder / "train.ipynb")


def few(*seeds): return cells({"small": {}}, **GRID, seed=list(seeds))


def rows(table): return [json.loads((Path(p) / "results.json").read_text())["rows"] for p in table.path]


def begin(folder, seeds):
    "A sweep in a process of its own."
    told = dict(cells=[dict(label=c.label, params=c.params) for c in few(*seeds)], out=str(folder / "runs"), reuse=[], workers=2, notebook=stand_in(folder))
    (folder / "told.json").write_text(json.dumps(told))
    return subprocess.Popen([sys.executable, "-c", SWEEP, folder / "told.json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(true, within=300):
    "Wait for something to become true; returns it."
    end = time.monotonic() + within
    while time.monotonic() < end:
        if found := true(): return found
        time.sleep(.05)
    pytest.fail("it did not happen")


def epochs(folder):
    "Epochs that were trained in each run folder of a folder, repeated ones included."
    return [[json.loads(x)["epoch"] for x in p.read_text().splitlines() if x.endswith("}")] for p in sorted(folder.glob("*/history.jsonl"))]


def at_the_gate(folder, runs): return lambda: [max(e, default=0) for e in epochs(folder)] == [3] * runs


def workers(process): return [p for p in psutil.Process(process.pid).children() if p.status() != psutil.STATUS_ZOMBIE]


def offspring(process): return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes): return lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The results of two cells, trained one after the other in this process: no notebook, no worker."
    folder, threads = tmp_path_factory.mktemp("sequential"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield [json.loads(json.dumps(run(c.config, folder / c.name)["rows"])) for c in few(0, 1)]
    torch.set_num_threads(threads)


def test_cells_side_by_side_give_the_same_and_are_found_again(undisturbed, tmp_path, capsys):
    asked = few(0, 9, 1, 0)
    table = execute(asked, tmp_path / "runs", reuse=[], workers=2, notebook=stand_in(tmp_path))
    assert table.state.tolist() == ["done", "failed", "done", "done"] and (table.seconds[[0, 2]] > 0).all()
    assert rows(table.iloc[[0, 2]]) == undisturbed and table.path[3] == table.path[0]
    assert (tmp_path / "runs" / "tries").read_text() == "once\n" * 2, "a cell that fails is tried twice"
    assert table.path[1] == "" and table.problem[1].startswith("unexpected RuntimeError: always (details: ")
    assert Path(table.problem[1].split("details: ")[1].rstrip(")")).is_file()
    assert "4 cells: 3 done, 1 failed\nfailed: small: unexpected RuntimeError" in capsys.readouterr().out

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
    (tmp_path / "empty").mkdir()
    for out, reuse in (("runs", []), ("empty", [tmp_path / "none", tmp_path / "runs"])):
        again = execute(few(0, 1), tmp_path / out, reuse=reuse)
        assert again.state.tolist() == ["found", "found"] and again.path.tolist() == table.path[[0, 2]].tolist()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")} == before and not list((tmp_path / "empty").iterdir())


def test_what_is_killed_goes_on_from_its_checkpoint(undisturbed, tmp_path):
    "First a worker, then the whole sweep, and it is started again before the orphans are gone."
    gate = tmp_path / "gate"
    gate.touch()
    sweep = begin(tmp_path, [0, 1])
    until(at_the_gate(tmp_path / "runs", 2))
    first = workers(sweep)
    first[0].kill()
    until(lambda: len(workers(sweep)) == 2 and workers(sweep) != first)                        # the cell is tried again
    orphans = offspring(sweep)
    sweep.kill()
    sweep.communicate()
    gate.unlink()
    second = begin(tmp_path, [0, 1])
    said, _ = second.communicate(timeout=240)
    assert second.returncode == 0, said
    until(all_gone(orphans), within=30)
    table = execute(few(0, 1), tmp_path / "runs", reuse=[])
    assert table.state.tolist() == ["found", "found"] and rows(table) == undisturbed
    assert [e.count(1) for e in epochs(tmp_path / "runs")] == [1, 1], "a run began anew"
    assert not list((tmp_path / "runs").rglob("resume.pt")) + list((tmp_path / "runs").rglob("*.part"))


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(tmp_path):
    "Through the command, a notebook that sweeps, and the notebooks that train."
    (tmp_path / "gate").touch()
    inner = stand_in(tmp_path)
    (tmp_path / "inner").mkdir()
    source = f"from mpsea.cells import cells\nfrom mpsea.sweeps import execute\nexecute(cells({{'small': {{}}}}, **{GRID}), out, [], notebook={inner!r})"
    outer = stand_in(tmp_path / "inner", source=f"out = {str(tmp_path / 'runs')!r}\n{source}")
    command = [sys.executable, "-c", "import sys; from mpsea.cli import main; sys.exit(main())", "sweep", outer]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)                # a shell's background jobs ignore it, and hand that on
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard)
    until(at_the_gate(tmp_path / "runs", 1))
    below = offspring(sweep)
    sweep.send_signal(signal.SIGINT)
    said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "The same command goes on: finished runs are found" in said and "Traceback" not in said
    assert "▸ sweep  " in said
    until(all_gone(below), within=30)
    assert list((tmp_path / "runs").rglob("resume.pt")) and os.path.exists(tmp_path / "runs" / "train.ipynb")


def test_a_cell_that_fails_is_the_exit_code_of_the_command(tmp_path):
    "The other cells are done and shown."
    inner = stand_in(tmp_path)
    (tmp_path / "inner").mkdir()
    source = f"""from mpsea.cells import cells
from mpsea.sweeps import execute, insist
done = execute(cells({{'small': {{}}}}, **{GRID | dict(epochs=[1], seed=[0, 9])}), out, [], workers=2, notebook={inner!r})
print("the table of", done.state.tolist())
insist(done)"""
    outer = stand_in(tmp_path / "inner", source=f"out = {str(tmp_path / 'runs')!r}\n{source}")
    command = [sys.executable, "-c", "import sys; from mpsea.cli import main; sys.exit(main())", "sweep", outer]
    sweep = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert sweep.returncode == 1 and "Traceback" not in sweep.stderr
    assert "the table of ['done', 'failed']" in sweep.stdout, "what is there is shown all the same"
    assert "mpsea: 1 of 2 cells failed: small: unexpected RuntimeError: always (details: " in sweep.stderr
    assert "the same call tries them again" in sweep.stderr
