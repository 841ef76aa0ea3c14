"""`mpsea runs` as a user has it: on run folders of all states, in a process of its own where that matters."""
import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mpsea import cli
from mpsea.config import Config
from mpsea.runs import Ranks, RunFolder, append_history, open_run, pick_row, write_ranks

COMMAND = [sys.executable, "-c", "import sys; from mpsea.cli import main; sys.exit(main())"]
PAIRS = 500


def toy_run(name, hits=.5, finished=True, folder="runs", days=2, ranks=True, **params):
    "A run folder with known ranks: the first share of the pairs is found, rotated by the seed."
    f = RunFolder(Path(folder) / name, create=True)
    config = Config(dataset="synth", **params).dict()
    f.config.write_text(json.dumps({k: v for k, v in config.items() if k != "optimizer"}))     # from before there was a choice
    for e in range(1, 21):
        found = {"valid": {"mrr": hits * (1 - .8 ** e)}, "test": {"hits@1": hits * (1 - .8 ** e)}} if e % 5 == 0 else {}
        append_history(f.history, {"epoch": e, "loss": 9 * .8 ** e, **found})
    f.env.write_text(json.dumps({"data": {"fingerprint": "ab12", "title": "toy pair (synthetic)"}, "threads": 1, "device_name": "a processor"}))
    found = np.where(np.random.default_rng(round(1000 * hits)).random(PAIRS) < hits, 1, 7)
    rows = [{"selection": s, "epoch": e, "direction": way, "csls": k, "hits@1": (found == 1).mean() + .01 * (s == "test"), "hits@5": .7, "hits@10": .8, "mr": 4.,
             "mrr": (1 / found).mean(), "n": PAIRS}
            for s, e in (("last", 20), ("test", 15)) for way in ("source→target", "target→source", "mean") for k in (0, 3)]
    if finished: f.results.write_text(json.dumps({"rows": rows, "selected": "last", "title": "toy pair (synthetic)", "seconds": 60.}))
    else: f.resume.write_bytes(bytes(2_000_000))
    if finished and ranks: write_ranks(f.ranks, Ranks(np.arange(PAIRS), np.arange(PAIRS) + 1000, found, found))
    return aged(f.path, days)


def aged(path, days=2):
    for p in Path(path).iterdir(): os.utime(p, (time.time() - 86400 * days,) * 2)
    return Path(path)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    "Three finished runs, an unfinished and a damaged one, in runs/."
    monkeypatch.chdir(tmp_path)
    toy_run("ours-s0", .6)
    toy_run("ours-s1", .7, seed=1)
    toy_run("plain-s0", .4, prefix="", seed_ratio=.5)
    toy_run("half", finished=False, epochs=9)
    (toy_run("spoilt", joint="early") / "results.json").write_text("{")
    aged("runs/spoilt")
    return Path("runs")


def said(capsys, *argv):
    "Exit code, stdout and stderr of the command."
    try: code = cli.main([str(a) for a in argv])
    except SystemExit as e: code = e.code
    return code, *capsys.readouterr()


def listed(out): return [line.split()[0] for line in out.split("\n\n")[0].splitlines()[1:]]


def everything(folder): return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# ---------------------------------------------------------------- list


def test_all_runs_are_listed_with_what_is_wrong(capsys):
    code, out, err = said(capsys, "runs", "list")
    assert (code, err) == (0, "")
    assert listed(out) == ["half", "ours-s0", "ours-s1", "plain-s0", "spoilt"]
    assert "5 of 5 runs: 3 finished, 1 unfinished, 1 damaged" in out and "metrics: source→target, CSLS k = 3" in out
    assert "spoilt: " in out and "not valid JSON" in out


@pytest.mark.parametrize("where, names", {
    "dataset=synth method=mpsea seed_ratio>=0.5": ["plain-s0"],
    "state=finished hits@1>=0.5": ["ours-s0", "ours-s1"],
    "run=*-s0 prefix!=": ["ours-s0"],
    "optimizer=adamw seed<1": ["half", "ours-s0", "plain-s0", "spoilt"],
    "iterative=true": [],
}.items(), ids=str)
def test_conditions_all_hold(capsys, where, names):
    code, out, _ = said(capsys, "runs", "list", "--where", where)
    assert code == 0 and (listed(out) == names if names else out == "none of 5 runs\n")


def test_sorted_from_the_best_down(capsys):
    assert listed(said(capsys, "runs", "list", "--sort", "hits@1")[1])[:3] == ["ours-s1", "ours-s0", "plain-s0"]
    assert listed(said(capsys, "runs", "list", "--sort", "seed_ratio", "--where", "state=finished")[1]) == ["ours-s0", "ours-s1", "plain-s0"]


def test_csv_is_for_a_machine(capsys):
    _, out, _ = said(capsys, "runs", "list", "--csv", "--where", "state=finished", "--sort", "run")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["run"] for r in rows] == ["ours-s0", "ours-s1", "plain-s0"] and set(Config().dict()) <= set(rows[0])
    _, out, _ = said(capsys, "runs", "list", "--csv", "--columns", "run,lr", "--where", "run=half")
    assert out == "run,lr\nhalf,0.0005\n"


def test_the_selection_and_direction_are_chosen(capsys):
    rate = lambda *more: float(said(capsys, "runs", "list", "--columns", "hits@1", "--csv", "--where", "run=ours-s0", *more)[1].split()[1])
    assert rate("--selection", "test") - rate() == pytest.approx(.01)
    assert "target→source" in said(capsys, "runs", "list", "--direction", "backward")[1]


@pytest.mark.parametrize("argv, code, text", [
    (["list", "elsewhere"], 1, "no such folder"), (["list", "--where", "sed=1"], 1, "did you mean 'seed'"), (["list", "--where", "seed"], 1, "no condition"),
    (["list", "--where", "lr<x"], 1, "no number"), (["list", "--sort", "hit@1"], 1, "did you mean 'hits@1'"), (["list", "--columns", "run,lrr"], 1, "'lr'"),
    (["list", "--selection", "best"], 2, "best"), (["show", "nothing"], 1, "no such run"), (["show", "ours"], 1, "fits 2 runs"),
    (["compare", "ours-s0", "half"], 1, "has not finished"), (["compare", "ours-s0", "spoilt"], 1, "not valid JSON"), (["compare", "ours-s0"], 2, "required"),
    (["prune"], 1, "--unfinished"), (["prune", "elsewhere", "--damaged"], 1, "no such folder"), (["prune", "--older-than", "x"], 2, "older-than"),
], ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_what_is_wrong_is_one_line(capsys, argv, code, text):
    before = everything(".")
    got, out, err = said(capsys, "runs", *argv)
    assert (got, out, err.count("\n")) == (code, "", 1) and text in err and err.startswith("mpsea")
    assert everything(".") == before


# ---------------------------------------------------------------- show, compare


def test_a_run_is_shown_in_full(capsys):
    code, out, _ = said(capsys, "runs", "show", "plain")
    assert code == 0 and out.startswith("plain-s0: finished, 20 epochs, 1.0 minutes")
    assert "toy pair (synthetic) · 500 test pairs" in out and "ranks.npz" in out and "▁" in out
    parameters = out.split("\n\n")[1].splitlines()[1:]
    assert [line.split()[0] for line in parameters] == ["dataset", "seed_ratio", "prefix"]
    assert said(capsys, "runs", "show", "runs/half")[1].startswith("half: unfinished, 20 epochs")


def test_two_runs_are_compared_with_a_paired_test(capsys):
    toy_run("other-s0", .5, lr=1e-3)
    code, out, err = said(capsys, "runs", "compare", "runs/ours-s0", "runs/other-s0", "--html", "pages/curves.html")
    assert (code, err) == (0, "")
    assert "lr         0.0005  0.001" in out and "paired on 500 test pairs" in out and out.count("MRR, validation") == 2
    points = next(line for line in out.splitlines() if line.startswith("source→target  Hits@1")).split()[-1]
    ours, other = (open_run(f"runs/{n}-s0").ranks.forward for n in ("ours", "other"))
    assert float(points) == pytest.approx(100 * ((ours <= 1).mean() - (other <= 1).mean()), abs=.051)
    page = Path("pages/curves.html").read_text()
    assert "Line chart of Hits@1" in page and "paired on 500 test pairs" in page and "src=\"http" not in page


@pytest.mark.parametrize("other, text", [(dict(ranks=False), "kept no ranks"), (dict(seed=1), "the seeds differ")], ids=["no ranks", "another seed"])
def test_without_common_ranks_the_rest_is_compared(capsys, other, text):
    toy_run("other", **other)
    code, out, _ = said(capsys, "runs", "compare", "ours-s0", "other")
    assert code == 0 and "no paired test: " in out and text in out and "A − B" in out


# ---------------------------------------------------------------- prune


def test_nothing_is_removed_without_yes(capsys):
    before = everything(".")
    code, out, _ = said(capsys, "runs", "prune", "--unfinished", "--damaged", "--duplicates", "--checkpoints")
    assert code == 0 and everything(".") == before
    assert listed(out) == ["half", "spoilt"] and "2.0 MB; nothing has been removed yet: --yes does it" in out


def test_yes_removes_what_was_said_and_no_more(capsys):
    toy_run("again", .6, days=1)
    (Path("runs") / "notes").mkdir()
    Path("runs/notes/config.json").write_text('{"theme": "dark"}')
    Path("runs/readme.txt").touch()
    said(capsys, "runs", "prune", "--unfinished", "--damaged", "--duplicates", "--yes")
    assert sorted(p.name for p in Path("runs").iterdir()) == ["again", "notes", "ours-s1", "plain-s0", "readme.txt"]
    assert said(capsys, "runs", "prune", "--unfinished", "--damaged", "--duplicates", "--yes")[1] == "nothing to remove\n"


def test_only_the_checkpoint_goes(capsys):
    said(capsys, "runs", "prune", "--checkpoints", "--yes")
    assert sorted(p.name for p in Path("runs/half").iterdir()) == ["config.json", "env.json", "history.jsonl"]


def test_age_narrows(capsys):
    assert listed(said(capsys, "runs", "prune", "--unfinished", "--older-than", "1")[1]) == ["half"]
    assert said(capsys, "runs", "prune", "--unfinished", "--older-than", "3")[1] == "nothing to remove\n"
    aged("runs/half", 0)
    assert "stays: half (unfinished): changed within the hour" in said(capsys, "runs", "prune", "--unfinished", "--yes")[1]
    assert Path("runs/half/resume.pt").exists()


def test_a_folder_with_anything_else_stays_whole(capsys):
    Path("runs/half/notes.txt").write_text("mine")
    before = everything("runs/half")
    out = said(capsys, "runs", "prune", "--unfinished", "--checkpoints", "--older-than", "0", "--yes")[1]
    assert "stays: half (unfinished): holds notes.txt" in out and everything("runs/half") == before


def test_records_under_version_control_are_refused(capsys):
    git = lambda *words: subprocess.run(["git", *words], check=True, capture_output=True)
    git("init", "-q")
    Path(".gitignore").write_text("runs/\n")
    toy_run("half", finished=False, folder="records")
    git("add", "records")
    code, out, err = said(capsys, "runs", "prune", "records", "--unfinished", "--yes")
    assert (code, out) == (1, "") and "under version control" in err and Path("records/half").is_dir()
    assert said(capsys, "runs", "prune", "--unfinished", "--yes")[0] == 0 and not Path("runs/half").exists()


# ---------------------------------------------------------------- ranks in the committed records

RECORDS = Path(__file__).resolve().parent.parent / "results" / "records"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*/ranks.npz")), ids=lambda p: p.parent.name)
def test_ranks_of_a_record_add_up_to_its_results(path):
    run = open_run(path)
    for way, found in (("source→target", run.ranks.forward), ("target→source", run.ranks.backward)):
        row = pick_row(run.results, direction=way)
        assert ((found <= 1).mean(), len(found)) == (row["hits@1"], row["n"])
        assert (1 / found.astype(float)).mean() == pytest.approx(row["mrr"], abs=1e-12)
    assert path.stat().st_size < 60_000


# ---------------------------------------------------------------- a process of its own


def test_help_imports_nothing_heavy():
    code = """import sys
from mpsea.cli import main
for argv in (["runs"], ["runs", "prune", "--help"]):
    try: main(argv)
    except SystemExit: pass
print("heavy:", [m for m in ("torch", "numpy", "pandas", "plotly", "scipy") if m in sys.modules])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith("heavy: []\n")


def test_listing_and_comparing_need_no_torch():
    code = """import sys
from mpsea.cli import main
main(["runs", "list"]); main(["runs", "compare", "ours-s0", "plain-s0"]); main(["runs", "prune", "--damaged"])
print("torch" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith("False\n")


def test_a_pipe_that_closes_is_no_error():
    command = " ".join(f"'{a}'" for a in COMMAND) + " runs list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
