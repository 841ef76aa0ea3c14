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
run(Config(dataset="synth", dim=20, epochs=40, eval_every=4, lr=5e-3, valid_ratio=.2, precision="fp32", checkpoint_every=0.,
           iterative=True, iterative_epochs=20, propose_every=2, promote_every=10), sys.argv[1])
"""
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MPSEA_PROGRESS": "0"}


def start(folder): return subprocess.Popen([sys.executable, "-c", RUN, str(folder)], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(path): return [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")] if path.exists() else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The same run, left alone."
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    assert process.wait(300) == 0, process.stderr.read().decode()[-2000:]
    return json.loads((folder / "results.json").read_text())


def test_kill_minus_nine_changes_nothing(whole, tmp_path):
    folder, luck, kills = tmp_path / "cut", random.Random(7), 0
    while not (folder / "results.json").exists():
        process, before = start(folder), len(lines(folder / "history.jsonl"))
        if kills < 5:
            while process.poll() is None and len(lines(folder / "history.jsonl")) < before + 3: time.sleep(.02)     # it got somewhere
            time.sleep(luck.random() * .3)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(300)
        assert process.returncode in (0, -signal.SIGKILL), process.stderr.read().decode()[-2000:]
    assert kills == 5
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"] == whole["rows"]
    assert not list(folder.glob("resume.pt")) and not list(folder.glob(".*.part"))
