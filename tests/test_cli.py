"""The command as a user has it: in a process of its own, on a terminal, in a pipe, interrupted, and from an installed package."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mpsea import cli, lab_command, launch, parsing
from mpsea.config import Config
from mpsea.core import PROGRESS_MARK, MpseaError

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from mpsea.cli import main; sys.exit(main())"]
SMALL = ["--dataset", "synth", "--epochs", "3", "--dim", "20", "--heads", "2", "--ffn-dim", "100", "--device", "cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Each test in a folder of its own, with progress, and without the data of this machine."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPSEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("MPSEA_DATA", "MPSEA_PROGRESS"):
        monkeypatch.delenv(name, raising=False)


def run(*argv, **kwargs):
    return subprocess.run([*COMMAND, *map(str, argv)], capture_output=True, text=True, timeout=300, **kwargs)


def notebook(path, *cells):
    "A stand-in for the training notebook; its first cell has the parameters."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nb, path)
    return path


PROGRESSING = """import time
from IPython.display import clear_output, display
for i in range(count):
    clear_output(wait=True)
    display({"text/plain": "▸ training  %d/%d epochs" % (i + 1, count)}, raw=True)
    time.sleep(.02)
print("the table")"""
OWN_PID = "import os, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))"


def on_a_terminal(argv, interrupt_at=None, timeout=120):
    "Exit code and output of a command on a pseudo-terminal; Ctrl-C is typed when a text is seen."
    pid, screen = pty.fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.SIG_DFL)                 # a shell's background jobs ignore it, and hand that on
        os.execv(argv[0], [str(a) for a in argv])
    seen, end, again = b"", time.monotonic() + timeout, 0.
    while time.monotonic() < end:
        if not select.select([screen], [], [], 1)[0]: continue
        try: piece = os.read(screen, 65536)
        except OSError: break                                        # how Linux says that the other side has closed
        if not piece: break
        seen += piece
        if interrupt_at and interrupt_at.encode() in seen and time.monotonic() > again:   # once; on a machine that hangs, a person types it again
            again = time.monotonic() + 30 * os.write(screen, b"\x03")
    else:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


# ---------------------------------------------------------------- quick, and without traceback


def test_help_is_there_at_once():
    def seconds():
        start, busy = time.perf_counter(), os.times()
        assert run("--help").returncode == 0
        computing = os.times().children_user + os.times().children_system - busy.children_user - busy.children_system
        crowded = os.getloadavg()[0] > os.cpu_count()                # then waiting for a turn is most of the time
        return computing if crowded else time.perf_counter() - start
    assert min(seconds() for _ in range(5)) < .5


def test_help_imports_nothing_heavy():
    code = """import sys
from mpsea.cli import main
for argv in (["train", "--help"], ["sweep", "compare", "--help"]):
    try: main(argv)
    except SystemExit: pass
print("heavy:", [m for m in ("torch", "numpy", "pandas", "plotly", "papermill", "IPython") if m in sys.modules])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("heavy: []\n")


def test_the_version_is_that_of_the_package():
    import mpsea
    assert run("--version").stdout == f"mpsea {mpsea.__version__}\n"


def test_the_script_is_this_command():
    script = Path(sys.executable).parent / "mpsea"
    if not script.exists(): pytest.skip("the package is not installed here: its script was not tried")
    assert subprocess.run([script, "--help"], capture_output=True, text=True).stdout.startswith("usage: mpsea ")


WRONG = {
    "no such data set": (["train", "--dataset", "wrld"], "did you mean 'world'"),
    "data that are not here": (["train", "--dataset", "fbdb15k"], "mpsea data get fbdb15k"),
    "unknown in -p": (["train", "-p", "temprature", "1"], "did you mean 'temperature'"),
    "ill-typed in -p": (["train", "-p", "epochs", "3.5"], "epochs='3.5' is not of type int"),
    "out of range": (["train", "--seed-ratio", "1.5"], "seed_ratio=1.5 is outside"),
    "no such choice": (["train", "--gat", "mutli"], "did you mean 'multi'"),
    "no such file": (["train", "--params", "basis"], "did you mean 'base'"),
    "not a notebook": (["train", *SMALL, "--notebook", "nowhere.ipynb"], "nowhere.ipynb"),
    "no such experiment": (["sweep", "compair"], "did you mean 'compare'"),
    "unknown to an experiment": (["sweep", "compare", "-p", "sedes", "0"], "did you mean 'seeds'"),
    "ill-typed for an experiment": (["sweep", "compare", "-p", "workers", "two"], "workers='two' is not of type int"),
    "nothing to download": (["data", "get", "world"], "needs no files"),
    "unknown to get": (["data", "get", "fb15k"], "give one of"),
    "nothing to check": (["data", "check", "nowhere"], "neither a data set nor a folder"),
    "an empty folder": (["data", "check", "."], "no known layout"),
}


@pytest.mark.parametrize("argv, said", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(argv, said, capsys):
    code = cli.main(argv)
    out, err = capsys.readouterr()
    lines = [x for x in err.splitlines() if not x.startswith(PROGRESS_MARK)]
    assert code == 1 and out == ""
    assert len(lines) == 1 and lines[0].startswith("mpsea: ") and said in lines[0]
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.json")), "work began"


def test_an_unknown_name_in_a_file_names_the_file():
    Path("mine.yaml").write_text("lr: 0.001\ntemprature: 0.1\n")
    done = run("train", "--params", "base", "mine.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mine.yaml: unknown parameter 'temprature' (did you mean 'temperature'?)" in done.stderr


@pytest.mark.parametrize("argv", [["train", "--epoch", "3"], ["dta"], ["data", "got", "x"], ["sweep", "compare", "--seeds"], ["lab", "--prot", "1"]], ids=" ".join)
def test_an_argument_that_is_none_is_code_2(argv):
    done = run(*argv)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_reader_that_goes_away_is_no_error():
    command = " ".join(f"'{a}'" for a in COMMAND) + " train --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("spelling", ["--{}", "--{}="])
def test_each_parameter_is_an_option_in_both_spellings(spelling):
    changed = dict(Config(dataset="synth", epochs=7, lr=.5, iterative=True, joint="early").dict())
    for name in (lambda n: n, lambda n: n.replace("_", "-")):
        argv = []
        for k, v in changed.items():
            option = spelling.format(name(k))
            argv += [option + str(v)] if option.endswith("=") else [option, str(v)]
        args, unknown = cli.build_parser().parse_known_args(parsing.hyphenated(["train", *argv]))
        assert not unknown and parsing.given(args) == changed


def test_later_files_win_and_options_win_over_files():
    Path("a.yaml").write_text("epochs: 1\nlr: 0.1\nseed: 1\n")
    Path("b.yaml").write_text("epochs: 2\n")
    said, config = launch.parameters(["a.yaml", "b.yaml"], [("seed", "2")], lr=.3)
    assert (config.epochs, config.seed, config.lr) == (2, 2, .3)


def test_a_file_here_does_not_change_what_a_bare_name_means():
    Path("base").write_text("epochs: 7\n")
    assert launch.find_params("base") == ROOT / "params" / "base.yaml"
    assert launch.find_params("./base") == Path("base")


# ---------------------------------------------------------------- running a notebook


def test_a_terminal_has_one_line_that_changes(tmp_path):
    small = notebook(tmp_path / "small.ipynb", "count = 0", "count = 9", PROGRESSING)
    code, seen = on_a_terminal([*COMMAND, "train", "--dataset", "synth", "--notebook", small, "--out", "run"])
    assert code == 0
    lines = seen.split("\r\n")
    training = [x for x in lines if "training" in x]
    assert len(training) == 1 and training[0].count("\r") == 9, "one line, written nine times"
    assert "the table" in lines and any("run.ipynb" in x for x in lines)


def test_a_log_has_a_line_now_and_then(tmp_path):
    small = notebook(tmp_path / "small.ipynb", "count = 0", "count = 50", PROGRESSING)
    done = run("train", "--dataset", "synth", "--notebook", small, "--out", "run")
    assert done.returncode == 0
    assert [x for x in done.stderr.splitlines() if "training" in x] == ["▸ training  1/50 epochs", "▸ training  50/50 epochs"]
    assert done.stdout.startswith("the table\n") and PROGRESS_MARK not in done.stdout


def test_ctrl_c_stops_the_kernel_and_says_how_to_go_on(tmp_path):
    checkpoint = "pathlib.Path(run_dir, 'resume.pt').touch()"
    small = notebook(tmp_path / "small.ipynb", "run_dir = ''", "count = 10 ** 6", OWN_PID, checkpoint, PROGRESSING)
    code, seen = on_a_terminal([*COMMAND, "train", "--dataset", "synth", "--notebook", small, "--out", "run"], interrupt_at="training")
    assert code == 130
    assert seen.rstrip().endswith("mpsea: stopped. The same command goes on from the last checkpoint.")
    assert "Traceback" not in seen
    assert_gone(int(Path("pid").read_text()))


def test_a_request_to_end_ends_the_kernel_too(tmp_path):
    small = notebook(tmp_path / "small.ipynb", "count = 10 ** 6", OWN_PID, PROGRESSING)
    command = [*COMMAND, "train", "--dataset", "synth", "--notebook", small, "--out", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "training" in line: break
    process.terminate()
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "There is no checkpoint yet" in rest and "Traceback" not in rest
    assert_gone(int(Path("pid").read_text()))


def assert_gone(pid, within=10):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try: os.kill(pid, 0)
        except ProcessLookupError: return
        time.sleep(.1)
    pytest.fail("the kernel is still there")


@pytest.mark.parametrize("cell, said", [("1 / 0", "unexpected ZeroDivisionError"), ("import os; os._exit(1)", "the kernel died")])
def test_any_other_end_is_said_too(tmp_path, cell, said):
    done = run("train", "--dataset", "synth", "--notebook", notebook(tmp_path / "small.ipynb", "x = 0", cell), "--out", "run")
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_the_run_of_another_configuration_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(Config(dataset="synth", epochs=9).dict()))
    (folder / "run.ipynb").write_text("mine")
    assert cli.main(["train", "--dataset", "synth", "--epochs", "8", "--out", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "other parameters (epochs)" in err and "--fresh" in err
    assert (folder / "run.ipynb").read_text() == "mine"


def test_the_real_notebook_trains_and_shows_its_results(tmp_path):
    first = run("train", *SMALL, "--out", "run")
    assert first.returncode == 0, first.stderr
    assert re.search(r"Hits@1 .*\n.*source→target +last \(3\) +[01]\.\d", first.stdout)
    assert first.stdout.splitlines()[-1] == "alignment   run/alignment.tsv"
    assert {"run.ipynb", "config.json", "results.json", "alignment.tsv"} <= {p.name for p in Path("run").iterdir()}
    assert "<Figure" not in first.stdout and "Warning" not in first.stderr
    assert "widgets" not in nbformat.read("run/run.ipynb", 4).metadata


def test_help_of_an_experiment_has_its_parameters(capsys):
    for argv in (["sweep"], ["sweep", "--help"]):
        assert cli.main(argv) == 0 and "\n  compare  " in capsys.readouterr().out
    assert cli.main(["sweep", "compare", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("methods", "datasets", "seeds", "changes", "out", "reuse", "workers", "address"))


def test_an_experiment_is_run_with_its_parameters(tmp_path):
    small = notebook(tmp_path / "small.ipynb", "count: int = 0\nnames: str = 'a'\nout: str = 'runs'", PROGRESSING, "print(names)")
    (tmp_path / "mine.yaml").write_text("names: b\ncount: 1\n")
    done = run("sweep", small, "-f", "mine.yaml", "-p", "count", "9", "--out", "there")
    assert done.returncode == 0 and done.stdout == "the table\nb\n\nnotebook  there/small.ipynb\n" and Path("there/small.ipynb").exists()
    assert "▸ training  9/9 epochs" in done.stderr


# ---------------------------------------------------------------- data, lab, installed


def test_data_list_has_every_name(capsys):
    from mpsea.datasets import DATASETS
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert [x.split()[0] for x in out.splitlines()[1:]] == list(DATASETS)
    assert "mpsea data get fbdb15k" in out


def test_data_check_tells_what_is_there_and_what_is_wrong(tmp_path, capsys):
    lines = dict(ent_ids_1="0\ta\n1\tb\n2\tc\n", ent_ids_2="3\tA\n4\tB\n",
                 triples_1="0\t0\t1\n", triples_2="3\t0\t4\n", ill_ent_ids="0\t3\n1\t4\n")
    for name, text in lines.items(): (tmp_path / name).write_text(text)
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    good = capsys.readouterr().out
    assert "1 entities of" in good and "neither graph has: attribute, number, image" in good
    (tmp_path / "triples_2").write_text("3\t0\t9\n")
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "triples_2:1: " in capsys.readouterr().out


def test_data_get_says_what_cannot_be_downloaded(monkeypatch, capsys):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")           # nobody listens there
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert cli.main(["data", "get", "fbdb15k", "--data-dir", "here"]) == 1
    assert "cannot be downloaded" in capsys.readouterr().err


def test_lab_opens_a_copy_or_the_tutorial(tmp_path, monkeypatch):
    opened, root = lab_command.start_notebook(tmp_path)
    tutorial = ROOT / "nbs" / "tutorials" / "start.ipynb"
    assert (opened, root) == (tutorial, ROOT) if tutorial.exists() else (tmp_path / lab_command.COPIES / "experiments" / "train.ipynb", tmp_path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    "As after `pip install`: no checkout, and the notebooks and parameters under the environment's share/."
    share = tmp_path / "env" / "share" / "mpsea"
    shutil.copytree(ROOT / "params", share / "params")
    shutil.copytree(ROOT / "nbs" / "experiments", share / "experiments")
    monkeypatch.setattr(launch, "checkout", lambda: None)
    monkeypatch.setattr(lab_command, "checkout", lambda: None)
    monkeypatch.setattr(launch.sysconfig, "get_path", lambda name: str(tmp_path / "env"))
    return share


def test_an_installed_package_finds_its_notebooks_and_parameters(installed, tmp_path):
    assert launch.find_notebook("train") == installed / "experiments" / "train.ipynb"
    assert launch.find_params("paper") == installed / "params" / "paper.yaml"
    opened, root = lab_command.start_notebook(tmp_path)
    assert (opened, root) == (tmp_path / lab_command.COPIES / "experiments" / "train.ipynb", tmp_path)
    assert opened.read_bytes() == launch.find_notebook("train").read_bytes()


def test_an_installation_without_notebooks_says_so(installed):
    shutil.rmtree(installed)
    with pytest.raises(MpseaError, match="install mpsea again"):
        launch.find_notebook("train")
