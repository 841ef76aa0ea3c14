"""What files from elsewhere cannot do: run code, write outside their folder, exhaust memory by lying about their size, put markup into a notebook or a report.

Each test brings the harm about as an attacker would and looks whether it happened, not only whether there was an error. Further proofs: archives, bombs, JSON, XML with
entities and pictures outside the graph's folder in test_import.py; programs in pickles in test_malformed.py; pictures in test_images.py.
More examples for an idle hour: MPSEA_EXAMPLES=5000 pytest tests/test_trust.py -k "read or damaged or arbitrary".
"""
import gzip
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import h5py
import ipywidgets
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsea.aligning import align_run
from mpsea.bounded import read_arrays, read_yaml
from mpsea.config import Config, read_params
from mpsea.core import ConfigError, DataError, MpseaError, RunError, WriteError, read_json, write_json
from mpsea.datasets import load, save_pair as cache_pair
from mpsea.exchange import read_pairs, write_pairs
from mpsea.explore import open_run as explored
from mpsea.files import load_numpy_pickle
from mpsea.folder import load_pair, read_pictures, save_pair
from mpsea.importing import import_pair
from mpsea.locks import lock, unlock
from mpsea.mapping import read_mapping
from mpsea.pipeline import add_ranks, prepare, run
from mpsea.readers import read_ids, read_mmkb
from mpsea.runs import append_history, export_record, load_runs, open_run, read_alignment, read_attention, read_history

EVIL = "<img src=x onerror=alert(1)>"
NAMES = ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</script><svg onload=alert(1)>", "\"'><b onmouseover=alert(1)>", "=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "a\tb", "c\nd",
         "e\\f", "[x](javascript:alert(1))", "\x1b[31mred", "{{7*7}}", "$\\href{javascript:alert(1)}{x}$", "%3Cimg%20src=x%3E", "a|b", "\u202egnp"]
SMALL = dict(dim=20, heads=2, ffn_dim=100, epochs=2, eval_every=2, precision="fp32", device="cpu", lr=5e-3)
MPSEA = [sys.executable, "-c", "import sys; from mpsea.cli import main; sys.exit(main())"]
quick = settings(max_examples=int(os.environ.get("MPSEA_EXAMPLES", "40")), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    with pytest.MonkeyPatch.context() as env:
        env.setenv("MPSEA_CACHE", str(tmp_path_factory.mktemp("cache")))
        env.setenv("MPSEA_PROGRESS", "0")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class Payload:
    "Unpickled as others do it, it makes a file."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return Path.touch, (Path(self.path),)


def grown(run, limit=1 << 30):
    "By how much the memory of this process grows at most while something is refused."
    before = psutil.Process().memory_info().rss
    with pytest.raises(MpseaError) as e: run()
    assert psutil.Process().memory_info().rss - before < limit
    return e.value


# ---------------------------------------------------------------- a pair and a run full of markup

def evil_graph(path, side, n=40):
    "JSON Lines whose names, predicates, values and labels are all hostile."
    name = lambda i: f"{side}{i}{NAMES[i % len(NAMES)]}" if i >= len(NAMES) else NAMES[i]
    rows = [{"id": name(i), "label": f"{NAMES[(i + 3) % len(NAMES)]} {i}", EVIL: {"id": name((i * 7 + 1) % n)}, f"rel {EVIL}": {"id": name((i + 2) % n)},
             f"height {EVIL}": 100 + i, f"note {EVIL}": f"{EVIL} text", "type": EVIL} for i in range(n)]
    return write(path, "".join(json.dumps(r) + "\n" for r in rows)), [name(i) for i in range(n)]


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    "Imported, trained, to be aligned and looked at."
    folder = tmp_path_factory.mktemp("evil")
    (a, names_a), (b, names_b) = evil_graph(folder/"a.jsonl", "s"), evil_graph(folder/"b.jsonl", "t")
    pq.write_table(pa.table({"source": names_a, "target": names_b}), folder/"links.parquet")
    write(folder/"m.yaml", json.dumps({"name": EVIL, "source": {"name": f"one {EVIL}"}, "target": {"name": f"two {EVIL}"}}))
    found = import_pair(a, b, folder/"links.parquet", folder/"m.yaml", progress=False)
    found.save(folder/"pair")
    run(Config(dataset=str(folder/"pair"), seed_ratio=.6, valid_ratio=.45, modalities="graph,relation,attribute,number", prefix="graph", **SMALL), folder/"run")
    return folder


def markup(text): return re.findall(r"<(?:img|script|svg|b onmouse)[^>]{0,40}", text)


def shown_texts(figure):
    "All texts of a figure that Plotly shows, which it reads as HTML of a kind; the alternative in `meta` is escaped where it is used."
    if isinstance(figure, dict): return [t for k, v in figure.items() if k not in ("meta", "template", "bdata") for t in shown_texts(v)]
    if isinstance(figure, (list, tuple)): return [t for v in figure for t in shown_texts(v)]
    return [figure] if isinstance(figure, str) else []


def bundle_texts(bundle):
    "What a notebook would read as HTML in an output."
    return [x for kind, data in bundle.items() for x in (["".join(data)] if kind in ("text/html", "text/markdown") else shown_texts(data) if "plotly" in kind else [])]


def widget_texts():
    "Everything that the widgets of this process would put into a page as HTML."
    out = []
    for w in list(ipywidgets.widgets.widget._instances.values()):
        if isinstance(w, ipywidgets.HTML): out.append(w.value)
        if getattr(w, "description_allow_html", False): out.append(w.description)
        if isinstance(w, ipywidgets.Output):
            for o in w.outputs: out += bundle_texts(o.get("data", {}))
        figure = getattr(w, "figure", None)
        if isinstance(figure, str) and figure.startswith("{"): out += shown_texts(json.loads(figure))
        if hasattr(w, "to_plotly_json"): out += shown_texts(w.to_plotly_json())
    return out


def test_names_are_imported_trained_and_aligned_as_they_are(evil):
    assert set(NAMES) <= set(load_pair(evil/"pair").source.entities)
    found = align_run(evil/"run", seeds=True).pairs
    for suffix in (".tsv", ".parquet", ".nt", ".sssom.tsv"):
        back = read_pairs(write_pairs(evil/f"pairs{suffix}", found, title=EVIL))
        assert list(zip(back.source, back.target)) == list(zip(found.source, found.target)), suffix
    assert set(read_alignment(evil/"run"/"alignment.tsv").source) <= set(load_pair(evil/"pair").source.entities)


def test_a_name_in_a_table_is_no_formula_and_ends_no_line(evil):
    "A spreadsheet computes a cell that begins with = + - @; ours begins with a backslash then, which our own reader takes away."
    pairs = align_run(evil/"run", seeds=True).pairs
    for text in (write_pairs(evil/"f.tsv", pairs).read_text(), (evil/"run"/"alignment.tsv").read_text()):
        head, *rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
        texts = [head.index(c) for c in ("source", "target", "source_label", "target_label")]
        assert {len(r) for r in rows} == {len(head)} and not [r[i] for r in rows for i in texts if r[i][:1] in ("=", "+", "-", "@")]
        assert any(r[i].startswith("\\=cmd") for r in rows for i in texts)


def test_no_explorer_lets_markup_through(evil):
    from mpsea.explore_entity import EntityExplorer
    from mpsea.explore_errors import ErrorExplorer
    from mpsea.explore_evidence import Explorer
    from mpsea.explore_hyper import RewardExplorer, RunsExplorer
    from mpsea.explore_map import MapExplorer
    from mpsea.explore_modality import ModalityExplorer
    seen, opened = [], explored(evil/"run")
    def look(*_): seen.extend(widget_texts())
    entity = EntityExplorer(opened)
    for i in (0, 1, 2, 41, 42):
        entity.choose(i)
        for tab in range(4): look(entity.show(tab))
    errors = ErrorExplorer(opened, evil/"run")
    for way in errors.way.options: look(errors.draw(errors.by.options[0], way))
    for by in errors.by.options: look(errors.draw(by, errors.way.options[0]))
    for group in errors.groups: look(errors.open(group))
    look(errors.compare(str(evil/"run")))
    for change in errors.change.options: look(errors.show(change))
    chart = MapExplorer(opened)
    if chart.figure is None: chart.project(chart.how.value)
    for i in (0, 1, 2, 43): look(chart.choose(i))
    for by in chart.by.options: look(chart.colour(by[1] if isinstance(by, tuple) else by))
    look(chart.find(EVIL), chart.find(f"nobody {EVIL}"))
    modal = ModalityExplorer(opened)
    for by in modal.groups: look(modal.kind(by))
    look(modal.hide())
    runs = RunsExplorer(str(evil))
    look(runs.draw())
    look(runs.load(f"nowhere {EVIL}"))
    look(RewardExplorer(opened))
    look(Explorer(opened.pair, share=.3))
    assert any("&lt;img" in t for t in seen), "the names are there"
    assert not [t for t in seen if markup(t)][:3]


def test_no_report_lets_markup_through(evil, tmp_path, capsys):
    from mpsea.aligning import reliability_chart
    from mpsea.browse import list_text, runs_table, show_text
    from mpsea.cli import main
    from mpsea.versus import compare_page
    page = tmp_path/"page.html"
    compare_page(open_run(evil/"run"), open_run(evil/"run"), page)
    body = re.sub(r"<script\b.*?</script>", "", page.read_text(), flags=re.S)
    assert not markup(body.replace("<script", "<ours"))
    assert not [t for t in shown_texts(reliability_chart(align_run(evil/"run")).to_plotly_json()) if markup(t)]
    table = runs_table(evil)
    assert not markup(table._repr_html_()), "a DataFrame in a notebook"
    for text in (list_text(table), show_text(open_run(evil/"run"))): assert "\x1b" not in text
    assert main(["align", str(tmp_path/"\x1b[31mno")]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_executed_notebook_holds_no_markup(evil, tmp_path):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in {**SMALL, "modalities": "graph,relation,attribute,number", "prefix": "graph", "seed_ratio": .6}.items()]
    done = subprocess.run([*MPSEA, "train", "--dataset", evil/"pair", "--out", tmp_path/"run", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for cell in json.loads((tmp_path/"run"/"run.ipynb").read_text())["cells"]:
        for o in cell.get("outputs", ()):
            assert not [t for t in bundle_texts(o.get("data", {})) if markup(t)]


# ---------------------------------------------------------------- code

def payload_zip(path, marker):
    "A checkpoint as torch writes it, whose pickle holds a payload."
    torch.save({"config": "x", "model": Payload(marker)}, path)


@pytest.mark.parametrize("make", [lambda p, m: p.write_bytes(pickle.dumps(Payload(m))), lambda p, m: np.save(open(p, "wb"), np.array([Payload(m)]), allow_pickle=True),
                                  lambda p, m: np.savez(open(p, "wb"), meta=np.array([Payload(m)]), feature=np.array([Payload(m)])), payload_zip])
def test_a_payload_runs_nowhere(tmp_path, evil, make):
    "As features, cache, attention, ranks, checkpoint, weights, HDF5, Parquet, table and graph."
    marker, path = tmp_path/"harm", tmp_path/"x"
    make(path, marker)
    pickled = path.read_bytes()
    readers = (load_numpy_pickle, read_arrays, read_attention, cache_read, read_yaml, read_json, read_history, lambda p: read_pairs(rename(p, "x.parquet")), lambda p: import_pair(rename(p, "x.nt"), p))
    for read in readers:
        path.write_bytes(pickled)
        with pytest.raises(MpseaError): read(path)
    copied = copy_run(evil, tmp_path/"run")
    for piece in ("model.safetensors", "attention.npz", "ranks.npz"): (copied/piece).write_bytes(pickled)
    (copied/"results.json").unlink()
    (copied/"resume.pt").write_bytes(pickled)
    config = Config.from_dict(open_run(copied).config)
    with pytest.raises(RunError, match="resume.pt: cannot be read"): run(config, copied)
    unlock(copied/".lock")
    for look in (lambda: explored(copied).z, lambda: open_run(copied).ranks, lambda: open_run(copied).attention):
        with pytest.raises(MpseaError): look()
    assert not marker.exists()
    pickle.loads(pickled) if make is not payload_zip and pickled[:1] == b"\x80" else marker.touch()
    assert marker.exists(), "the payload is one"


def cache_read(path):
    from mpsea.datasets import load_pair as read
    return read(path)


def rename(path, name): return write(path.parent/name, path.read_bytes())


def copy_run(evil, to):
    import shutil
    return Path(shutil.copytree(evil/"run", to))


def test_an_extension_type_of_arrow_is_not_unpickled(tmp_path):
    "Arrow once unpickled the metadata of such a column."
    schema = pa.schema([pa.field(n, pa.string(), metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Payload(tmp_path/"harm"))}) for n in ("source", "target")])
    pq.write_table(pa.table({"source": ["a"], "target": ["b"]}, schema=schema), tmp_path/"p.parquet")
    try: read_pairs(tmp_path/"p.parquet")
    except MpseaError: pass
    assert not (tmp_path/"harm").exists()


def test_a_run_folder_names_a_module_and_nothing_is_imported(tmp_path, evil, monkeypatch):
    "The module lies in the run folder, and in the folder where somebody looks at it."
    copied = copy_run(evil, tmp_path/"run")
    for where in (tmp_path, copied): write(where/"evil_method.py", f"from pathlib import Path; Path({str(tmp_path/'harm')!r}).touch()\nfrom mpsea.eva import EVA\nclass Mine(EVA): pass\n")
    write_json(copied/"config.json", {**open_run(evil/"run").config, "method": "evil_method:Mine"})
    monkeypatch.chdir(copied)
    for look in (lambda: explored(copied).z, lambda: align_run(copied), lambda: add_ranks(copied), lambda: explored(copied).attention([0])):
        with pytest.raises(RunError, match="code that a run folder names is not run") as e: look()
        assert "MPSEA_METHODS" in e.value.remedy
    assert load_runs(tmp_path).method.tolist() == ["evil_method:Mine"] and explored(copied).pair
    assert "evil_method" not in sys.modules and not (tmp_path/"harm").exists()
    monkeypatch.setenv("MPSEA_METHODS", "evil_method:Mine")                      # the user's own word
    with pytest.raises(RunError, match="does not fit"): explored(copied).z
    assert (tmp_path/"harm").exists()
    sys.modules.pop("evil_method"), sys.path.remove(os.getcwd())


@pytest.mark.parametrize("text, says", [
    ("!!python/object/apply:os.system ['touch harm']", "constructor"), ("a: !!python/name:os.system", "constructor"), ("!!python/object/new:pathlib.Path.touch [harm]", "constructor"),
    ("a0: &a [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1 or '')] * 10)}]\n" for i in range(1, 30)), "alias"), ("a: &a [*a]", "alias"), ("&a {b: *a}", "alias"),
    ("[" * 100_000, "nested too deeply"), ("{a: " * 20_000, "nested too deeply"), ("? " * 20_000, "nested|YAML"), ("a: " + "1" + ":1" * 9_000 + ".5", "not valid YAML"), ("a: " + "9" * 100_000, "not valid YAML"),
    ("a: 2001-99-99", "not valid YAML"), ("x" * 2_000_000, "characters"), ("a: \ud800", "not valid YAML"),
])
def test_yaml_is_plain_values(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path/"p.yaml", text.encode("utf-8", "surrogatepass"))
    for read in (read_mapping, read_params, lambda p: import_pair(p, p, mapping=p)):
        with pytest.raises(ConfigError, match=says) as e: read(path)
        assert e.value.remedy and str(path) in str(e.value)
    assert os.listdir(tmp_path) == ["p.yaml"]


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "9" * 100_000, "[1]", "null", "\ud800", '{"rows": 3}', '{"rows": [1]}', '{"epoch": {}}', '{"data": 3}', "NaN", ""])
def test_json_of_a_run_is_read_or_refused(tmp_path, evil, text):
    copied = copy_run(evil, tmp_path/"run")
    for name in ("config", "results", "env", "history"):
        before = (copied/(RUN := {"history": "history.jsonl"}.get(name, f"{name}.json"))).read_bytes()
        write(copied/RUN, (text + "\n").encode("utf-8", "surrogatepass"))
        assert len(load_runs(tmp_path)) == 1
        for look in (lambda: explored(copied).z, lambda: getattr(open_run(copied), name), lambda: prepare(Config(**SMALL), copied)):
            try: look()
            except MpseaError: pass
        (copied/RUN).write_bytes(before)


# ---------------------------------------------------------------- outside the folder

def test_links_in_a_run_folder_lead_nowhere(tmp_path, evil):
    "Training in a folder from elsewhere writes into no file that a link of it points to."
    mine = write(tmp_path/"mine.txt", "precious\nno newline at the end")
    config = Config.from_dict(open_run(evil/"run").config)
    for name in ("run.ipynb", "config.json", "history.jsonl", "resume.pt", "model.safetensors", "alignment.tsv", "env.json", "results.json", "attention.npz", "ranks.npz", ".lock"):
        folder = tmp_path/name.strip(".").partition(".")[0]
        folder.mkdir()
        if name != "config.json": write_json(folder/"config.json", {**config.dict(), "data_dir": ""})
        (folder/name).symlink_to(mine)
        with pytest.raises(MpseaError, match="link|cannot be written"): run(config, folder)
        unlock(folder/".lock")
    from mpsea.launch import run_notebook
    with pytest.raises(ConfigError, match="is a link"): run_notebook("train.ipynb", tmp_path/"run"/"run.ipynb", {})
    assert mine.read_text() == "precious\nno newline at the end"


def test_links_and_paths_in_a_pair_lead_nowhere(tmp_path, evil):
    import shutil
    pair = Path(shutil.copytree(evil/"pair", tmp_path/"pair"))
    outside = write(tmp_path/"outside.parquet", (pair/"links.parquet").read_bytes())
    (pair/"links.parquet").unlink()
    (pair/"links.parquet").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of the folder"): load_pair(pair)
    (pair/"links.parquet").unlink()
    shutil.copy(outside, pair/"links.parquet")
    manifest = read_json(pair/"manifest.json")
    manifest["files"] |= {"../../outside.parquet": {"bytes": 1, "sha256": ""}, "/etc/passwd": {"bytes": 1, "sha256": ""}}
    write_json(pair/"manifest.json", manifest)
    from mpsea.datasets import check
    report = check(pair, progress=False).set_index("file")
    assert (report.state["/etc/passwd"], report.state["../../outside.parquet"]) == ("missing", "missing")
    assert load_pair(pair).fingerprint() == load_pair(evil/"pair").fingerprint()


def test_addresses_of_files_are_text(tmp_path):
    "An IRI as picture or as entity is opened only where it means a picture in the graph's own folder."
    secret = write(tmp_path/"secret.png", b"x")
    rows = [("e0", "file:///etc/passwd"), ("e1", secret.as_uri()), ("e2", "../secret.png"), ("e3", "file://localhost/etc/shadow.png"), ("e4", "http://evil.example/x.png"), ("e5", "/dev/zero.png")]
    path = write(tmp_path/"g"/"a.nt", "".join(f"<http://a/{e}> <http://xmlns.com/foaf/0.1/depiction> <{iri}> .\n" for e, iri in rows if not iri.startswith((".", "/")))
                 + "".join(f'<http://a/{e}> <http://xmlns.com/foaf/0.1/depiction> "{iri}" .\n' for e, iri in rows))
    (tmp_path/"g"/"e5.png").symlink_to("/dev/zero")
    found = import_pair(path, path, progress=False)
    assert not any(found.pictures[0]["local"]) if found.pictures[0] else True
    found.save(tmp_path/"pair")
    pictures = read_pictures(tmp_path/"pair", "source")
    assert not pictures or not pictures["local"].any()


@pytest.mark.parametrize("link", ["external link", "external storage", "virtual", "text", "claims a terabyte"])
def test_hdf5_stays_in_its_file(tmp_path, link):
    "HDF5 can point into other files, and read any file as numbers."
    secret = tmp_path/"secret.h5"
    with h5py.File(secret, "w") as f: f["v"] = np.ones(4, np.float32)
    folder = tmp_path/"d"
    for name, text in {"A/A_EntityTriples.txt": "a r b .\n", "A/A_ImageIndex.txt": "a i1\n", "B/B_EntityTriples.txt": "x r y .\n", "B/B_SameAsLink.txt": "a <SameAs> x .\n"}.items(): write(folder/name, text)
    with h5py.File(folder/"A"/"A_ImageData.h5", "w") as f:
        if link == "external link": f["i1"] = h5py.ExternalLink(str(secret), "v")
        elif link == "external storage": f.create_dataset("i1", (4,), np.uint8, external=[("/etc/passwd", 0, 4)])
        elif link == "text": f["i1"] = "words"
        elif link == "claims a terabyte": f.create_dataset("i1", (1 << 38,), np.float32, chunks=(1 << 20,), compression="gzip", fillvalue=1.)
        else:
            layout = h5py.VirtualLayout((4,), np.float32)
            layout[:] = h5py.VirtualSource(str(secret), "v", (4,))
            f.create_virtual_dataset("i1", layout)
    error = grown(lambda: read_mmkb(folder, "A", "B", progress=False))
    assert "no array of numbers in this file" in error.message or "bomb" in error.message


# ---------------------------------------------------------------- memory

def npz(path, **headers):
    "An npz whose headers claim what its bytes do not hold."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, shape in headers.items():
            head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            z.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + b"\0" * 64)
    return path


@pytest.mark.parametrize("shape", ["(10**13,)".replace("10**13", str(10**13)), f"({10**9}, {10**9}, {10**9})", "(-1,)", f"({10**10},)", "(" * 500, "'x'"])
def test_an_array_file_that_lies(tmp_path, shape):
    path = npz(tmp_path/"a.npz", meta=shape, weights=shape, source_steps=shape, feature=shape)
    for read in (read_arrays, cache_read, read_attention): grown(lambda: read(path))


def test_an_array_file_that_is_a_bomb(tmp_path):
    "Two gibibytes of zeros in two megabytes; the sizes stand in the directory of the zip."
    with zipfile.ZipFile(tmp_path/"a.npz", "w", zipfile.ZIP_STORED) as z: z.writestr("a.npy", b"\0" * 2_000_000)
    data = (tmp_path/"a.npz").read_bytes()
    at = data.rindex(b"PK\x01\x02")
    (tmp_path/"a.npz").write_bytes(data[:at + 24] + struct.pack("<I", (1 << 32) - 2) + data[at + 28:])
    assert "bomb" in grown(lambda: read_arrays(tmp_path/"a.npz")).message


def header(size=None, **tensors):
    "A safetensors file."
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + b"\0" * 64


LIES = {"size": header(10**15, a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}), "offsets": header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 10**12]}),
        "shape": header(a={"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 64]}), "overflow": header(a={"dtype": "F64", "shape": [2**62, 4], "data_offsets": [0, 64]}),
        "overlap": header(a={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, b={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}),
        "dtype": header(a={"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 64]}), "negative": header(a={"dtype": "F32", "shape": [-4], "data_offsets": [0, 64]}),
        "deep": struct.pack("<Q", 400_000) + b"[" * 400_000, "empty": b"", "enormous header": struct.pack("<Q", 1 << 27) + b" " * (1 << 27)}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies(tmp_path, evil, lie):
    "As weights of a run, and as picture features of a pair."
    import shutil
    copied, pair = copy_run(evil, tmp_path/"run"), Path(shutil.copytree(evil/"pair", tmp_path/"pair"))
    write(copied/"model.safetensors", LIES[lie])
    assert "does not fit" in grown(lambda: explored(copied).z).message
    write(pair/"source"/"images.safetensors", LIES[lie])
    manifest = read_json(pair/"manifest.json")
    write_json(pair/"manifest.json", {**manifest, "files": {**manifest["files"], "source/images.safetensors": {"bytes": len(LIES[lie]), "sha256": "0"}}})
    for verify in (True, False): grown(lambda: load_pair(pair, verify=verify))


def test_weights_of_somebody_else(tmp_path, evil):
    "Not a number, other shapes, and a configuration that claims a width for which no memory suffices."
    from safetensors.torch import load_file, save_file
    copied = copy_run(evil, tmp_path/"run")
    weights = load_file(copied/"model.safetensors")
    first = next(iter(weights))
    for change, says in ((lambda w: {**w, first: torch.full_like(w[first], torch.nan)}, "NaN"), (lambda w: {**w, first: w[first][..., :1].contiguous()}, first),
                         (lambda w: {k: v for k, v in w.items() if k != first}, "missing"), (lambda w: {**w, "more": torch.ones(1)}, "more")):
        save_file(change(dict(weights)), copied/"model.safetensors")
        with pytest.raises(RunError, match="does not fit") as e: explored(copied).z
        assert says in str(e.value)
    save_file(weights, copied/"model.safetensors")
    for width in ({"dim": 10**8}, {"ffn_dim": 10**10}, {"dim": 10**12}):
        write_json(copied/"config.json", {**open_run(evil/"run").config, **width})
        assert "does not fit" in grown(lambda: explored(copied).z).message


def test_a_checkpoint_of_somebody_else(tmp_path, evil):
    "Of the right configuration, as it says; but what it holds is something else."
    config = Config.from_dict(open_run(evil/"run").config)
    keep = {"config": config.hash(), "model": {}, "optimizer": {}, "generators": {"cpu": torch.get_rng_state(), "cuda": []}, "seeds": torch.zeros(3, 2, dtype=torch.int64),
            "epoch": 1, "step": 1, "seconds": 0., "cpu_seconds": 0., "evaluations": [], "best": {}, "extra": {}}
    for change in ({}, {"seeds": torch.ones(1, dtype=torch.int64).expand(10**10, 2)}, {"epoch": "many"}, {"seeds": "none"}, {"config": "other"}, {"model": {"w": torch.ones(1).expand(10**11)}}):
        folder = tmp_path/str(len(list(tmp_path.iterdir())))
        write_json(folder/"config.json", {**config.dict(), "data_dir": ""})
        torch.save({**keep, **change}, folder/"resume.pt")
        error = grown(lambda: run(config, folder))
        assert isinstance(error, RunError) and error.remedy
        unlock(folder/".lock")


def test_a_run_on_somebody_elses_data(tmp_path, evil):
    "A path that is not here, that is no data set, or that holds other data: a sentence."
    copied = copy_run(evil, tmp_path/"run")
    save_pair(load("synth"), tmp_path/"other")
    for dataset in ("/home/somebody/secret", "/etc", str(tmp_path/"other"), "\0", "http://evil/x", "x" * 9_999):
        write_json(copied/"config.json", {**open_run(evil/"run").config, "dataset": dataset})
        with pytest.raises(RunError) as e: align_run(copied)
        assert e.value.remedy


def test_pickled_lists_do_not_unfold(tmp_path):
    "Lists of lists of the same list, one array under many keys, and entry number two thousand million of the memo."
    laughs = [1.]
    for _ in range(12): laughs = [laughs] * 10
    one = np.ones(2_000_000, np.float32)
    for content in (pickle.dumps({0: laughs}), pickle.dumps({i: one for i in range(2_000)}), b"\x80\x04N" + b"r" + struct.pack("<I", 2**32 - 2) + b".", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."):
        error = grown(lambda: load_numpy_pickle(write(tmp_path/"p.pkl", content)))
        assert error.remedy


@pytest.mark.slow
@pytest.mark.parametrize("read", [lambda f: read_mmkb(f, "A", "B"), lambda f: load_numpy_pickle(f/"A"/"A_EntityTriples.txt.gz")])
def test_the_benchmark_readers_refuse_bombs(tmp_path, read):
    "With newlines, and as one endless line."
    for block in (b"a r b .\n" * (1 << 23), b"a" * (1 << 26)):
        write(tmp_path/"A"/"A_EntityTriples.txt.gz", gzip.compress(block) * 20)
        write(tmp_path/"B"/"B_SameAsLink.txt", "a s x .\n")
        grown(lambda: read(tmp_path), 4 << 30)


def test_a_number_of_a_million_digits_is_refused_at_once(tmp_path):
    "Patterns need time that grows with the square."
    path = write(tmp_path/"a.nt", f'<http://a/e> <http://a/h> "{"9" * 1_000_000}x"^^<http://www.w3.org/2001/XMLSchema#integer> .\n')
    with pytest.raises(DataError, match="neither a number nor a date"): import_pair(path, path)
    write(tmp_path/"A"/"A_EntityTriples.txt", "a r b .\n"), write(tmp_path/"A"/"A_NumericalTriples.txt", f"a h {'9' * 1_000_000}x .\n"), write(tmp_path/"B"/"B_EntityTriples.txt", "x r y .\n")
    write(tmp_path/"B"/"B_SameAsLink.txt", "a s x .\n")
    with pytest.raises(DataError, match="neither a number nor a date"): read_mmkb(tmp_path, "A", "B")


# ---------------------------------------------------------------- full disks, and folders that may not be written

HANDICAPPED = textwrap.dedent("""
    import json, os, resource, signal, sys, warnings
    kind, limit, codes = json.load(sys.stdin)
    import torch, mpsea.aligning, mpsea.cli, mpsea.exchange, mpsea.importing, mpsea.pipeline, mpsea.sweeps        # read while we may
    from mpsea.core import MpseaError
    torch.set_num_threads(1)
    "".encode("cp437")                                             # of zips; Python itself may be closed to others
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if kind == "full": resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif os.getuid() == 0: os.setgid(65534), os.setuid(65534)
    said = {}
    for name, code in codes.items():
        try: exec(code, {"said": said, "resource": resource})
        except MpseaError as e: said[name] = f"{type(e).__name__} {e}"
    os.write(1, b"@@" + json.dumps(said).encode())
""")


def handicapped(kind, limit, env=(), **codes):
    "What each piece of code says on a disk that takes no file beyond `limit` bytes, or as a user who may write nowhere."
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", HANDICAPPED], input=json.dumps([kind, limit, codes]), capture_output=True, text=True, env={**os.environ, "MPSEA_PROGRESS": "0", **dict(env)})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.rpartition("@@")[2])


@pytest.fixture
def open_tmp():
    "A folder that everybody may read and root alone may write."
    import shutil
    import tempfile
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def everybody(folder, writable=False):
    for p in [folder, *folder.rglob("*")]: p.chmod(0o755 if p.is_dir() or writable else 0o644)


CONFIG = "import mpsea.config, mpsea.pipeline, mpsea.train as t\nc = mpsea.config.Config(dataset='synth', dim=20, heads=2, ffn_dim=100, epochs=6, eval_every=2, precision='fp32', device='cpu', checkpoint_every=0.)\n"
WRITERS = {   # what is done to a folder AT; EVIL holds a run and two graphs
    "import": "from mpsea.importing import import_pair\nimport_pair('EVIL/a.jsonl', 'EVIL/b.jsonl', progress=False).save('AT/pair', replace=True)",
    "train": CONFIG + "mpsea.pipeline.run(c, 'AT/new')",
    **{f"align{s}": f"from mpsea.aligning import align_run\nfrom mpsea.exchange import write_pairs\nwrite_pairs('AT/old{s}', align_run('EVIL/run').pairs)" for s in (".tsv", ".parquet", ".nt", ".sssom.tsv")},
    "records": "from mpsea.runs import export_record, open_run\nexport_record(open_run('EVIL/run'), 'AT', 'record')",
}
SWEEP = {"sweep": "from mpsea.cells import cells\nfrom mpsea.sweeps import execute, insist\ninsist(execute(cells({'small': {}}, dataset=['synth'], epochs=[1], device=['cpu']), 'AT/runs', [], workers=1, retries=0))"}


@pytest.mark.parametrize("kind, codes", [("full", WRITERS), ("read-only", WRITERS), pytest.param("full", SWEEP, marks=pytest.mark.slow), pytest.param("read-only", SWEEP, marks=pytest.mark.slow)])
def test_what_cannot_be_written_says_so_and_leaves_what_was_there(evil, open_tmp, kind, codes):
    import shutil
    at = open_tmp/"at"
    shutil.copytree(evil, open_tmp/"evil")
    write_json(open_tmp/"evil"/"run"/"config.json", {**open_run(evil/"run").config, "dataset": str(open_tmp/"evil"/"pair")})     # the original may be closed to others
    shutil.copytree(evil/"pair", at/"pair")
    for name in ("old.tsv", "old.parquet"): write(at/name, "old")
    export_record(open_run(evil/"run"), at, "record")
    everybody(open_tmp)
    before = files(at)
    found = handicapped(kind, 1_500, {"MPSEA_CACHE": str(open_tmp/"cache")}, **{k: c.replace("AT", str(at)).replace("EVIL", str(open_tmp/"evil")) for k, c in codes.items()})
    assert found.keys() == codes.keys(), "all of them fail"
    for what, said in found.items():
        assert "cannot be written" in said and str(at) in said and ("make room" in said or "choose" in said), (what, said)
    after = files(at)
    assert {k: after.get(k) for k in before if not k.startswith("record/")} == {k: v for k, v in before.items() if not k.startswith("record/")}
    assert not [k for k in after if k.endswith(".part") or k.startswith("new/results")]
    assert after.get("record/results.json") in (None, before["record/results.json"]), "a record that could not be written is not finished"


def test_a_disk_that_fills_up_while_training_loses_no_epoch(open_tmp):
    "Two checkpoints fit, the third does not; with room again the run goes on from the second."
    fill = ("kept = t.save_state\ndef once(state, path, c):\n    if state.epoch == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
            "    kept(state, path, c)\nt.save_state = once\n")
    said = handicapped("full", 10**9, train=CONFIG + fill + f"mpsea.pipeline.run(c, '{open_tmp}/run')")["train"]
    assert "resume.pt: cannot be written" in said and [h["epoch"] for h in read_history(open_tmp/"run"/"history.jsonl")] == [1, 2, 3]
    config, seen = Config(dataset="synth", checkpoint_every=0., **{**SMALL, "epochs": 6, "lr": Config.lr}), []
    again, whole = run(config, open_tmp/"run", on_epoch=lambda r: seen.append(r["epoch"])), run(config, open_tmp/"whole")
    assert seen == [3, 4, 5, 6] and again["rows"] == whole["rows"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    "Of pairs that were read, and of features of flags. There is a file where the folder should be."
    from mpsea.world import flag_features, source_flag
    for name, text in {"ent_ids_1": "0\ta\n1\tb\n", "ent_ids_2": "2\tx\n3\ty\n", "triples_1": "0\t0\t1\n", "triples_2": "2\t0\t3\n", "ill_ent_ids": "0\t2\n1\t3\n"}.items(): write(tmp_path/"d"/name, text)
    monkeypatch.setenv("MPSEA_CACHE", str(write(tmp_path/"cache", "a file")))
    with pytest.warns(UserWarning, match="the parsed pair is not cached: .*cannot be written"): assert len(load(str(tmp_path/"d")).links) == 2
    monkeypatch.setattr("mpsea.world._extract", lambda paths: np.zeros((len(paths), 4), np.float32))
    with pytest.warns(UserWarning, match="the features of the flags are not cached: .*cannot be written"): assert flag_features([source_flag("CH")]).shape == (1, 4)


def test_a_path_below_a_file(tmp_path):
    "There is no folder, and there can be none."
    write(tmp_path/"file", "x")
    for do in (lambda: prepare(Config(dataset="synth", **SMALL), tmp_path/"file"/"run"), lambda: lock(tmp_path/"file"/".lock"), lambda: append_history(tmp_path/"file"/"h", {"epoch": 1}),
               lambda: write_pairs(tmp_path/"file"/"a.tsv", pd.DataFrame({"source": ["a"], "target": ["b"]})), lambda: cache_pair(load("synth"), tmp_path/"file"/"c.npz")):
        with pytest.raises(WriteError, match="cannot be written") as e: do()
        assert isinstance(e.value, OSError) and e.value.remedy and str(tmp_path/"file") in str(e.value)


# ---------------------------------------------------------------- whatever is in a file: an error of ours, or what was written

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def damaged(draw, data):
    "A few bytes lost, doubled or made up."
    at, kind = draw(st.integers(0, len(data))), draw(st.sampled_from(["cut", "drop", "put", "swap"]))
    if kind == "cut": return data[:at]
    if kind == "drop": return data[:at] + data[at + draw(st.integers(1, 8)):]
    return data[:at] + draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\0", b"\n", b"{", b"[", b"null", b"-1", b"1e999", b'"', b"\xff", b"\t", b"\\"]))) + data[at + (kind == "swap"):]


@quick
@given(names=st.lists(st.tuples(texts, texts), min_size=1, max_size=5, unique=True), confidence=st.floats(0, 1), suffix=st.sampled_from([".tsv", ".parquet", ".nt", ".sssom.tsv"]))
def test_pairs_are_read_as_they_were_written(tmp_path, names, confidence, suffix):
    table = pd.DataFrame(names, columns=["source", "target"]).assign(confidence=confidence, source_label=[b for _, b in names], target_label=[a for a, _ in names])
    back = read_pairs(write_pairs(tmp_path/f"p{suffix}", table))
    assert list(zip(back.source, back.target)) == names
    if suffix != ".nt": assert np.allclose(back.confidence.astype(float), confidence, atol=1e-5) and back.source_label.tolist() == table.source_label.tolist()


@quick
@given(data=st.data(), suffix=st.sampled_from([".tsv", ".parquet", ".nt", ".sssom.tsv"]))
def test_a_damaged_alignment_is_an_error_of_ours_or_pairs(tmp_path, data, suffix):
    path = tmp_path/f"p{suffix}"
    write_pairs(path, pd.DataFrame({"source": ["http://a/x", "b"], "target": ["http://b/x", "=c"], "confidence": [.5, 1.], "score": [1., 2.]}))
    content = data.draw(st.one_of(st.binary(max_size=60), st.just(damaged(data.draw, path.read_bytes()))))
    path.write_bytes(content)
    for read in (read_pairs, *([read_alignment] if suffix == ".tsv" else [])):
        try: assert {"source", "target"} <= set(read(path).columns)
        except MpseaError as e: assert str(path) in str(e)


@quick
@given(records=st.lists(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), st.none())), max_size=4))
def test_a_history_is_read_as_it_was_written(tmp_path, records):
    path = tmp_path/"h.jsonl"
    path.unlink(missing_ok=True)
    records = [{**{k: v for k, v in r.items()}, "epoch": i + 1} for i, r in enumerate(records)]
    for r in records: append_history(path, r)
    assert read_history(path) == records if records else not path.exists()


HISTORY = b'{"epoch":1,"loss":2.5}\n{"epoch":2,"loss":1.5,"valid":{"mrr":0.1}}\n'


@quick
@given(data=st.data())
def test_a_damaged_history_is_an_error_of_ours_or_records(tmp_path, data):
    path = write(tmp_path/"h.jsonl", data.draw(st.one_of(st.binary(max_size=80), st.just(damaged(data.draw, HISTORY)))))
    try: assert all("epoch" in r for r in read_history(path))
    except MpseaError as e: assert str(path) in str(e)


@quick
@given(data=st.data(), piece=st.sampled_from(["config.json", "results.json", "env.json", "attention.npz", "ranks.npz", "alignment.tsv", "model.safetensors"]))
def test_a_damaged_run_is_an_error_of_ours_or_a_run(tmp_path, evil, data, piece):
    copied = tmp_path/"run" if (tmp_path/"run").exists() else copy_run(evil, tmp_path/"run")
    before = (evil/"run"/piece).read_bytes()
    (copied/piece).write_bytes(damaged(data.draw, before))
    r = open_run(copied)
    try: (getattr(r, piece.partition(".")[0]) if piece != "model.safetensors" else explored(copied).embedded)
    except MpseaError as e: assert re.search(r"\w", e.message)
    assert len(load_runs(tmp_path)) == 1
    (copied/piece).write_bytes(before)


@quick
@given(values=st.dictionaries(st.sampled_from(["dataset", "data_dir", "options", "method"]), st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=9)), epochs=st.integers(1, 10**6), lr=st.floats(1e-9, 1e9))
def test_parameters_are_read_as_they_were_written(tmp_path, values, epochs, lr):
    import yaml
    said = {**values, "epochs": epochs, "lr": lr}
    assert read_params(write(tmp_path/"p.yaml", yaml.safe_dump(said, allow_unicode=True))) == said


@quick
@given(text=st.one_of(st.text(max_size=100), st.from_regex(r"\A([a-z]{1,3}: ?[\[{&*!|>'\"%@-]{0,3}[a-z0-9:.]{0,4}\n){0,4}\Z")))
def test_arbitrary_parameters_are_an_error_of_ours_or_a_dict(tmp_path, text):
    path = write(tmp_path/"p.yaml", text.encode("utf-8", "surrogatepass"))
    for read in (read_params, read_mapping):
        try: read(path)
        except MpseaError as e: assert e.remedy and str(path) in str(e)


SSSOM = b'# curie_map:\n#   a: "http://a/"\n#   b: "http://b/"\nsubject_id\tpredicate_id\tobject_id\tmapping_justification\na:E\towl:sameAs\tb:E\tx\na:B\tskos:exactMatch\tb:B\tx\n'
LINKS = {"l.sssom.tsv": SSSOM, "l.tsv": b"http://a/E\thttp://b/E\nhttp://a/B\thttp://b/B\n", "l.nt": b"<http://a/E> <http://www.w3.org/2002/07/owl#sameAs> <http://b/E> .\n", "l.csv": b"source,target\nhttp://a/E,http://b/E\n"}


@quick
@given(data=st.data(), name=st.sampled_from(sorted(LINKS)))
def test_damaged_links_are_an_error_of_ours_or_links(tmp_path, data, name):
    for side in "ab": write(tmp_path/f"{side}.nt", f"<http://{side}/E> <http://{side}/in> <http://{side}/B> .\n")
    write(tmp_path/name, data.draw(st.one_of(st.binary(max_size=60), st.just(damaged(data.draw, LINKS[name])))))
    try: assert len(import_pair(tmp_path/"a.nt", tmp_path/"b.nt", tmp_path/name, progress=False).pair.links) <= 4
    except MpseaError as e: assert re.search(r"\w", e.message)


@quick
@given(triples=st.lists(st.tuples(*[st.text("abc/é<>\"\\ \t'", min_size=1, max_size=4)] * 3), min_size=1, max_size=5), literal=st.text(st.characters(codec="utf-8"), max_size=12))
def test_rdf_that_another_library_writes_is_read_as_it_was(tmp_path, triples, literal):
    "rdflib writes N-Triples, Turtle and RDF/XML; the same graph comes in from each."
    import rdflib
    from urllib.parse import quote
    literal = "".join(c for c in literal if c.isprintable() or c in "\n\t")
    iri = lambda x: rdflib.URIRef("http://a/n" + quote(x))
    g = rdflib.Graph()
    for h, r, t in triples:
        g.add((iri(h), rdflib.URIRef("http://a/p" + quote(r, safe="").replace("%", "_")), iri(t)))
        g.add((iri(h), rdflib.URIRef("http://www.w3.org/2000/01/rdf-schema#label"), rdflib.Literal(literal)))
    found = [import_pair(f := write(tmp_path/f"g{suffix}", g.serialize(format=kind)), f, progress=False).pair.source for suffix, kind in ((".nt", "nt"), (".ttl", "turtle"), (".rdf", "xml"))]
    facts = [({(k.entities[h], k.relations[r], k.entities[t]) for h, r, t in k.triples.tolist()}, dict(zip(k.entities, k.labels or ()))) for k in found]
    assert facts[0] == facts[1] == facts[2] and facts[0][0] == {(str(iri(h)), "http://a/p" + quote(r, safe="").replace("%", "_"), str(iri(t))) for h, r, t in triples}


@quick
@given(rows=st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)] * 3), min_size=1, max_size=5))
def test_tables_are_read_as_they_were_written(tmp_path, rows):
    "CSV, Parquet, and JSON Lines by their own writers. A cell of blanks is none; brackets say that a cell is an IRI."
    import csv
    rows = [tuple("x" + c.strip() + "x" for c in r) for r in rows]
    with open(tmp_path/"t.csv", "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows([("head", "relation", "tail"), *rows])
    pq.write_table(pa.table(dict(zip(("head", "relation", "tail"), zip(*rows)))), tmp_path/"t.parquet")
    write(tmp_path/"t.jsonl", "".join(json.dumps({"id": h, f"p{r}": {"id": t}}) + "\n" for h, r, t in rows))
    for name, predicate in (("t.csv", "{}"), ("t.parquet", "{}"), ("t.jsonl", "p{}")):
        k = import_pair(tmp_path/name, tmp_path/name, progress=False).pair.source
        assert {(k.entities[h], k.relations[r], k.entities[t]) for h, r, t in k.triples.tolist()} == {(h, predicate.format(r), t) for h, r, t in rows}, name


@quick
@given(rows=st.lists(st.tuples(*[st.text("abcé/_.-", min_size=1, max_size=5)] * 3), min_size=1, max_size=5))
def test_published_layouts_are_read_as_they_were_written(tmp_path, rows):
    rows = [tuple("n" + c for c in r) for r in rows]
    for side in "AB": write(tmp_path/side/f"{side}_EntityTriples.txt", "".join(f"{h} {r} {t} .\n" for h, r, t in rows))
    write(tmp_path/"B"/"B_SameAsLink.txt", "".join(f"{h} <SameAs> {h} .\n" for h, _, _ in rows))
    pair = read_mmkb(tmp_path, "A", "B", progress=False)
    names = sorted({x for h, _, t in rows for x in (h, t)})
    ids = {n: i for i, n in enumerate(names)}
    relations = {r: i for i, r in enumerate(sorted({r for _, r, _ in rows}))}
    for k, first in ((1, 0), (2, len(names))):
        write(tmp_path/"ids"/f"ent_ids_{k}", "".join(f"{first + i}\t{n}\n" for n, i in ids.items()))
        write(tmp_path/"ids"/f"rel_ids_{k}", "".join(f"{i}\t{r}\n" for r, i in relations.items()))
        write(tmp_path/"ids"/f"triples_{k}", "".join(f"{first + ids[h]}\t{relations[r]}\t{first + ids[t]}\n" for h, r, t in rows))
    write(tmp_path/"ids"/"ill_ent_ids", "".join(f"{ids[h]}\t{len(names) + ids[h]}\n" for h, _, _ in rows))
    for found in (pair, read_ids(tmp_path/"ids", progress=False)):
        k = found.source
        assert {(k.entities[h], k.relations[r], k.entities[t]) for h, r, t in k.triples.tolist()} == set(rows)
        assert {(k.entities[a], found.target.entities[b]) for a, b in found.links.tolist()} == {(h, h) for h, _, _ in rows}


# ---------------------------------------------------------------- the same numbers twice

TWICE = "from mpsea.config import Config; from mpsea.pipeline import run; import sys, torch; torch.set_num_threads(1); run(Config(dataset='synth', valid_ratio=.2, iterative=True, iterative_epochs=2, **{}), sys.argv[1])"


def test_the_same_seed_gives_the_same_numbers_in_another_process(tmp_path):
    "Every number of every epoch, the weights, the alignment: equal to the last bit. What could change them stands in env.json."
    for name, hashing in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, "-W", "ignore", "-c", TWICE.format(SMALL), tmp_path/name], check=True, env={**os.environ, "PYTHONHASHSEED": hashing, "OMP_NUM_THREADS": "1"})
    timeless = lambda name: [{k: v for k, v in h.items() if "seconds" not in k} for h in open_run(tmp_path/name).history]
    assert timeless("a") == timeless("b")
    for file in ("model.safetensors", "alignment.tsv"): assert (tmp_path/"a"/file).read_bytes() == (tmp_path/"b"/file).read_bytes()
    env = open_run(tmp_path/"a").env
    assert {"python", "mpsea", "torch", "numpy", "scipy", "safetensors"} <= env["versions"].keys() and all(env["versions"][p] for p in ("python", "torch", "numpy"))
    assert env["cpu"] and env["threads"] == 1 and env["cpu_count"] and env["data"]["fingerprint"] and env["precision"] == "fp32"
    assert {"blas", "capability", "deterministic", "tf32", "omp_num_threads", "cuda", "platform"} <= env["numerics"].keys()
