"""Killed with SIGKILL at random moments: nothing that was finished is lost, going on gives the same result, half a file is never taken for a whole one.

A few kills in the normal tests, fifty of each under `pytest -m slow`; what those gave is in results/benchmarks/kills.json (written where MPSEA_RECORD names a file).
Each victim is forked from a process that has imported everything, so that the moments fall into the work and not into importing torch.
"""
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_sweeps import SWEEP, stand_in, until

from mpsea.cells import cells
from mpsea.config import Config
from mpsea.core import MpseaError
from mpsea.folder import load_pair
from mpsea.importing import import_pair
from mpsea.runs import open_run

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mpsea.pipeline", "mpsea.importing", "mpsea.aligning"])
FEW_AND_FIFTY = [4, pytest.param(50, marks=pytest.mark.slow)]


def start(target, *arguments):
    "A process that may be killed."
    process = FORKS.Process(target=quiet, args=(target, *arguments))
    process.start()
    return process


def quiet(target, *arguments):
    import warnings

    import torch
    os.environ["MPSEA_PROGRESS"] = "0"
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    target(*arguments)


def record(what, **numbers):
    "Keep what came of the fifty."
    if path := os.environ.get("MPSEA_RECORD"):
        said = json.loads(Path(path).read_text()) if Path(path).exists() else {}
        Path(path).write_text(json.dumps({**said, what: numbers}, indent=1) + "\n")


def whole(process):
    process.join(3600)
    assert process.exitcode == 0, f"ended with {process.exitcode}"


# ---------------------------------------------------------------- import

def bring_in(source, out): import_pair(source, source, progress=False).save(out, replace=True)


def parts(folder): return list(folder.parent.glob(f".{folder.name}.*.part"))


@pytest.mark.parametrize("times", FEW_AND_FIFTY)
def test_import(tmp_path, times):
    "Two sources take turns in one folder: whenever it is looked at, it is one of them, whole."
    luck, began = random.Random(times), time.monotonic()
    for n, name in ((1, "a"), (2, "b")): (tmp_path/f"{name}.tsv").write_text("head\trelation\ttail\n" + "".join(f"e{i}\tin\te{i // 3}\n" for i in range(3000 * n)))
    prints = {name: import_pair(tmp_path/f"{name}.tsv", tmp_path/f"{name}.tsv").pair.fingerprint() for name in "ab"}
    folder, kills, replaced, writing = tmp_path/"pair", 0, 0, 0
    bring_in(tmp_path/"a.tsv", folder)
    takes = min(timed(lambda: whole(start(bring_in, tmp_path/"b.tsv", tmp_path/"other"))) for _ in range(2))
    before = prints["a"]
    while kills < times:
        process = start(bring_in, tmp_path/("b.tsv" if before == prints["a"] else "a.tsv"), folder)
        left = len(parts(folder))
        while kills % 2 and len(parts(folder)) == left and process.exitcode is None: time.sleep(.001)      # every other kill falls into the writing
        time.sleep(luck.random() * (.1 if kills % 2 else 1.1 * takes))
        writing += len(parts(folder)) > left
        process.kill()
        process.join()
        kills += 1
        found = load_pair(folder).fingerprint()
        assert found in prints.values()
        replaced += found != before
        before = found
    whole(start(bring_in, tmp_path/"b.tsv", folder))
    assert load_pair(folder).fingerprint() == prints["b"]
    if times > 9: record("import", kills=kills, of_them_while_writing=writing, replaced=replaced, seconds=round(time.monotonic() - began))


def timed(run):
    start = time.monotonic()
    run()
    return time.monotonic() - start


# ---------------------------------------------------------------- training

def trained(folder, epochs):
    from mpsea.pipeline import run
    run(Config(dataset="synth", dim=20, heads=2, ffn_dim=100, epochs=epochs, eval_every=4, lr=5e-3, valid_ratio=.2, precision="fp32", device="cpu", checkpoint_every=0.,
               iterative=True, iterative_epochs=20, propose_every=2, promote_every=10), folder)


def lines(folder):
    "The epochs in a history, as they were written."
    path = folder/"history.jsonl"
    return [json.loads(x)["epoch"] for x in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def numbers(folder):
    "All numbers of a run but its times."
    run = open_run(folder)
    timeless = [{k: v for k, v in h.items() if "seconds" not in k} for h in run.history]
    rows = [{k: v for k, v in r.items() if "seconds" not in k} for r in run.results["rows"]]
    return timeless, rows, (folder/"alignment.tsv").read_bytes(), (folder/"model.safetensors").read_bytes(), run.ranks.forward.tolist()


def readable(folder):
    "Whatever stands in a run folder under its own name is whole."
    run = open_run(folder)
    for piece in ("config", "env", "history", "results", "attention", "ranks", "alignment"):
        if run.has(piece): getattr(run, piece)


@pytest.mark.parametrize("times", FEW_AND_FIFTY)
def test_training(tmp_path, times):
    luck, began, epochs = random.Random(times), time.monotonic(), 6 * times
    whole(start(trained, tmp_path/"whole", epochs))
    folder, kills, repeated = tmp_path/"cut", 0, 0
    while not (folder/"results.json").exists():
        before = lines(folder)
        process = start(trained, folder, epochs)
        if kills < times:
            ahead = luck.choice([0, 1, 1, 2, 3])
            until(lambda p=process, n=len(before) + ahead: len(lines(folder)) >= n or p.exitcode is not None)
            time.sleep(luck.random() * .2)
            process.kill()
            kills += 1
        process.join(300)
        assert process.exitcode in (0, -9)
        after = lines(folder)
        assert after[:len(before)] == before
        if before and len(after) > len(before):
            assert after[len(before)] >= before[-1], "more than the last epoch was lost"
            repeated += after[len(before)] == before[-1]
        if (folder/"config.json").exists(): readable(folder)
    assert kills == times, "the run ended too early"
    assert numbers(folder) == numbers(tmp_path/"whole")
    assert not list(folder.glob("resume.pt")) + list(folder.glob(".*.part"))
    if times > 9: record("training", kills=kills, epochs=epochs + 20, epochs_done_twice=repeated, seconds=round(time.monotonic() - began))


# ---------------------------------------------------------------- sweep

SLOWLY = """import time
from mpsea.config import from_notebook
config = from_notebook(globals(), extra=("run_dir",))
from mpsea.pipeline import run
run(config, run_dir, on_epoch=lambda record: time.sleep(.05))"""


def sweep_victims(process):
    "The sweep itself, its workers, and the kernels that train."
    try: return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess: return []


def alone(config, folder):
    from mpsea.pipeline import run
    run(config, folder)


@pytest.mark.slow
def test_sweep(tmp_path, monkeypatch):
    "test_sweeps.py kills a worker and a sweep at chosen moments; here anybody dies at any moment."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPSEA_CACHE", str(tmp_path/"cache"))
    luck, began, kills, killed = random.Random(50), time.monotonic(), 0, {"sweep": 0, "worker or kernel": 0}
    asked = cells({"small": {}}, dataset=["synth"], dim=[20], heads=[2], ffn_dim=[100], epochs=[120], eval_every=[10], checkpoint_every=[0.], device=["cpu"], seed=[0, 1, 2])
    told = dict(cells=[dict(label=c.label, params=c.params) for c in asked], out=str(tmp_path/"runs"), reuse=[], workers=1, retries=50, notebook=stand_in(tmp_path, SLOWLY))
    (tmp_path/"told.json").write_text(json.dumps(told))
    for c in asked: whole(start(alone, c.config, tmp_path/"alone"/c.name))
    done = lambda: {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path/"runs").glob("*/results.json")}
    count = lambda: sum(len(lines(tmp_path/"runs"/c.name)) for c in asked)
    finished, process = {}, None
    while kills < 50 or len(done()) < 3:
        if process is None or process.poll() is not None:
            process = subprocess.Popen([sys.executable, "-c", SWEEP, tmp_path/"told.json"], stdout=open(tmp_path/"said.txt", "a"), stderr=subprocess.STDOUT)
        before = count()
        if kills < 50 and len(done()) < 3:
            until(lambda n=before + luck.choice([0, 0, 1, 3]), p=process: count() >= n or p.poll() is not None)
            time.sleep(luck.random() * 2)
            if not (victims := sweep_victims(process)): continue
            victim = luck.choice(victims)
            kills, killed = kills + 1, {k: n + ((k == "sweep") == (victim.pid == process.pid)) for k, n in killed.items()}
            victim.kill()
            time.sleep(.1)
        elif len(done()) == 3: break
        else: process.wait(3600)
        for name, when in finished.items(): assert done()[name] == when, "a finished run was done again"
        finished = done()
        for c in asked:
            if (tmp_path/"runs"/c.name/"config.json").exists(): readable(tmp_path/"runs"/c.name)
    process.wait(3600)
    assert kills == 50, "the sweep ended too early"
    for c in asked: assert numbers(tmp_path/"runs"/c.name) == numbers(tmp_path/"alone"/c.name)
    assert not list((tmp_path/"runs").rglob("resume.pt")) + list((tmp_path/"runs").rglob("*.part"))
    record("sweep", kills=kills, **{k.replace(" ", "_"): n for k, n in killed.items()}, cells=3, seconds=round(time.monotonic() - began))


def test_half_a_file_is_no_file(tmp_path):
    "What a kill can leave beside the whole files is passed over by name."
    (tmp_path/"run").mkdir()
    for name in ("config.json", "results.json", "model.safetensors", "resume.pt"): (tmp_path/"run"/f".{name}.abc.part").write_bytes(b"{")
    with pytest.raises(MpseaError, match="not the folder of a run"): open_run(tmp_path/"run")
