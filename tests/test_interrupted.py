"""A run that is killed, at whatever moment, resumes to the same numbers, and never leaves half a file."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

RUN = """
import os, sys, warnings
warnings.filterwarnings("ignore")
from mpsea.config import Config
from mpsea.pipeline import run
run(Config(dataset="synth", dim=20, eval_every=4, lr=5e-3, valid_ratio=.2, precision="fp32", checkpoint_every=0.,
           iterative=True, iterative_epochs=20, propose_every=2, **MORE), sys.argv[1])
"""
WAYS = {"mutual nearest neighbours": dict(epochs=40, promote_every=10),
        "all evidence": dict(epochs=20, promote_every=5, evidence="values,neighbours", evidence_rounds=1)}
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MPSEA_PROGRESS": "0"}


def start(folder, more): return subprocess.Popen([sys.executable, "-c", RUN.replace("**MORE", f"**{more}"), str(folder)], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(path): return [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")] if path.exists() else []


@pytest.fixture(scope="module", params=WAYS)
def whole(request, tmp_path_factory):
    "The same run, left alone, and what it was."
    folder, more = tmp_path_factory.mktemp("whole"), WAYS[request.param]
    process = start(folder, more)
    assert process.wait(300) == 0, process.stderr.read().decode()[-2000:]
    return json.loads((folder / "results.json").read_text()), promoted(folder), more


def promoted(folder): return [r["promoted"] for r in lines(folder / "history.jsonl") if "promoted" in r]


def test_kill_minus_nine_changes_nothing(whole, tmp_path):
    (expected, pairs, more), folder, luck, kills = whole, tmp_path / "cut", random.Random(7), 0
    while not (folder / "results.json").exists():
        process, before = start(folder, more), len(lines(folder / "history.jsonl"))
        if kills < 5:
            while process.poll() is None and len(lines(folder / "history.jsonl")) < before + 3: time.sleep(.02)     # it got somewhere
            time.sleep(luck.random() * .3)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(300)
        assert process.returncode in (0, -signal.SIGKILL), process.stderr.read().decode()[-2000:]
    assert kills == 5
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"] == expected["rows"]
    assert pairs and promoted(folder)[-1] == pairs[-1]
    assert not list(folder.glob("resume.pt")) and not list(folder.glob(".*.part"))
