"""Graphs from elsewhere: whatever is in a file, an error of ours or a pair; what is written is read back as it was; hostile files do no harm."""
import bz2
import gzip
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpsea.bounded import FREE_BYTES, Problems
from mpsea.core import DataError, MpseaError
from mpsea.datasets import DATASETS, load, locate
from mpsea.documents import json_statements
from mpsea.folder import load_pair, save_pair
from mpsea.importing import import_pair, import_text
from mpsea.kg import Images, KGPair, KnowledgeGraph, Numbers, distinct
from mpsea.literals import XSD, typed_value
from mpsea.mapping import FileOptions, read_mapping
from mpsea.rdf import rdf_statements
from mpsea.tabular import parquet_statements, table_statements

ROOT = Path(__file__).parent.parent
MAPPINGS = ROOT/"params"/"import"
slow_files = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# ---------------------------------------------------------------- arbitrary files

GOOD = {
    "a.nt": b'<http://a/E> <http://a/in> <http://a/B> .\n<http://a/E> <http://a/h> "3967"^^<http://www.w3.org/2001/XMLSchema#integer> .\n_:x <http://a/in> <http://a/E> .\n',
    "a.nq": b'<http://a/E> <http://a/in> <http://a/B> <http://g> .\n<http://a/E> <http://a/l> "ja"@de .\n',
    "a.ttl": b'@prefix a: <http://a/> .\na:E a:in a:B ; a:h 3967, 12.5 ; a:born "1858-08-11"^^<http://www.w3.org/2001/XMLSchema#date> .\n[] a:in ( a:E ) .\n',
    "a.rdf": b'<?xml version="1.0"?>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:a="http://a/"><rdf:Description rdf:about="http://a/E">'
             b'<a:in rdf:resource="http://a/B"/><a:h>3967</a:h></rdf:Description></rdf:RDF>',
    "a.csv": b'id,name,height:int,:LABEL\nE,"Eiger, the",3967,Peak;Alp\nB,Bern,,City\n',
    "a.tsv": b"subject\tpredicate\tobject\nE\tin\tB\nE\theight\t3967\nE\tborn\t1858-08-11\n",
    "a.txt": b"/m/1 /r /m/2 .\n",
    "a.jsonl": b'{"id": "E", "in": {"id": "B", "name": "Bern"}, "height": 3967, "tags": ["x", "y"], "area": {"land": 1.5}}\n{"@id": "B", "p": {"@value": "1", "@type": "xsd:int"}}\n',
}
OPTIONS = {"a.txt": FileOptions("table", "whitespace", ["head", "relation", "tail"])}
READERS = {".nt": ("ntriples", rdf_statements), ".nq": ("nquads", rdf_statements), ".ttl": ("turtle", rdf_statements), ".rdf": ("rdfxml", rdf_statements),
           ".csv": ("table", table_statements), ".tsv": ("table", table_statements), ".txt": ("table", table_statements), ".jsonl": ("jsonl", json_statements)}


def statements(path, problems=None):
    format, read = READERS[path.suffix]
    return list(read(path, OPTIONS.get(path.name, FileOptions(format)), problems))


def well_formed(found):
    for line, subject, predicate, value, kind in found:
        assert line is None or line >= 1
        assert isinstance(subject, str) and (predicate is None or isinstance(predicate, str)) and (kind is None or isinstance(kind, str)) and (value is None or isinstance(value, str))


def damaged(draw, data):
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "drop", "put", "swap", "double"]))
        if kind == "cut": data = data[:at]
        elif kind == "drop": data = data[:at] + data[at + draw(st.integers(1, 5)):]
        elif kind == "put": data = data[:at] + draw(st.one_of(st.binary(min_size=1, max_size=6), st.text(max_size=4).map(lambda t: t.encode("utf-8", "surrogatepass")))) + data[at:]
        elif kind == "double": data = data[:at] * 2 + data[at:]
        else: data = data[:at] + draw(st.sampled_from([b"\n", b"\t", b"\0", b'"', b"<", b"&", b"{", b"]", b"\\", b"\xff", b"9" * 30, b"\r", b"^^"])) + data[at + 1:]
    return data


@pytest.mark.parametrize("name", GOOD)
@slow_files
@given(data=st.data())
def test_a_damaged_file_is_an_error_of_ours_or_statements(tmp_path, name, data):
    path = tmp_path/name
    path.write_bytes(damaged(data.draw, GOOD[name]))
    try: well_formed(statements(path))
    except DataError as e: assert e.remedy and str(path) in str(e)
    well_formed_or_ours(path)


def well_formed_or_ours(path):
    "Lenient reading goes on where there are lines; what cannot be read at all is still an error of ours."
    lenient = Problems(lenient=True)
    try: well_formed(statements(path, lenient))
    except DataError as e: assert e.remedy
    assert len(lenient.listed) == lenient.count and lenient.table().count("\n") == lenient.count + 1


@pytest.mark.parametrize("name", GOOD)
@slow_files
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_an_arbitrary_file_is_an_error_of_ours_or_statements(tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    well_formed_or_ours(tmp_path/name)


@slow_files
@given(data=st.data())
def test_a_damaged_parquet_file_is_an_error_of_ours_or_statements(tmp_path, data):
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["E", "B"], "h": [1, None], "t": [["x"], []]}), sink)
    (tmp_path/"a.parquet").write_bytes(damaged(data.draw, sink.getvalue()))
    try: well_formed(parquet_statements(tmp_path/"a.parquet"))
    except DataError as e: assert e.remedy


@slow_files
@given(data=st.data())
def test_importing_damaged_files_is_an_error_of_ours_or_a_pair(tmp_path, data):
    a, b = (data.draw(st.sampled_from(sorted(set(GOOD) - {"a.txt"}))) for _ in range(2))
    for folder, name in (("s", a), ("t", b)):
        (tmp_path/folder).mkdir(exist_ok=True)
        (tmp_path/folder/name).write_bytes(damaged(data.draw, GOOD[name]))
    (tmp_path/"links.tsv").write_bytes(damaged(data.draw, b"E\tE\nB\tB\nhttp://a/E\thttp://a/E\nhttp://a/E\tE\n"))
    for links in (None, tmp_path/"links.tsv"):
        for lenient in (False, True):
            try: found = import_pair(tmp_path/"s"/a, tmp_path/"t"/b, links, lenient=lenient)
            except MpseaError as e: assert re.search(r"\w", e.message)
            else: assert import_text(found) and isinstance(found.pair, KGPair)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"\A-?P?T?[\dYMDTHS.-]{0,12}\Z"), st.floats().map(str)),
       st.sampled_from([XSD + t for t in ("integer", "double", "date", "dateTime", "gYear", "gYearMonth", "duration", "string", "degrees", "")] + ["http://unit/km", ""]))
def test_a_literal_is_a_finite_number_or_text_or_an_error(text, datatype):
    try: found = typed_value(text, datatype, "born")
    except DataError: return
    assert found is None or np.isfinite(found[0])


@slow_files
@given(text=st.one_of(st.text(max_size=120), st.sampled_from(["both: {files: {a: 1}}", "source: {predicates: {a: [1]}}", "links: 3", "name: [1]", "both: {files: 3}", "source: 3\ntarget: {name: x}",
                                                           "source: {files: {'*': {columns: {a: {b: 1}}}}}", "&a [*a, *a]", "a: &a {b: *a}", "!!python/object/apply:os.system [true]"])))
def test_an_arbitrary_mapping_is_an_error_of_ours_or_a_mapping(tmp_path, text):
    (tmp_path/"m.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try: read_mapping(tmp_path/"m.yaml")
    except MpseaError as e: assert e.remedy


# ---------------------------------------------------------------- the folder

names = st.text(st.characters(codec="utf-8"), max_size=8)


@st.composite
def graphs(draw):
    entities, relations, attributes, keys = (draw(st.lists(names, unique=True, max_size=5)) for _ in range(4))
    rows = lambda *bounds: distinct(np.array(draw(st.lists(st.tuples(*(st.integers(0, b - 1) for b in bounds)), max_size=6)) if all(bounds) else [], np.int32).reshape(-1, len(bounds)))
    triples, pairs, owned = rows(len(entities), len(relations), len(entities)), rows(len(entities), len(attributes)), rows(len(entities), len(keys))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    numbers = Numbers(owned[:, 0], owned[:, 1], [draw(finite) for _ in owned], np.array([draw(st.integers(0, 1)) for _ in owned], np.uint8))
    shown = np.unique(rows(len(entities))[:, 0])
    feature = draw(hnp.arrays(np.float32, (len(shown), draw(st.integers(1, 3))), elements=st.floats(-1e6, 1e6, width=32)))
    labels = draw(st.one_of(st.none(), st.lists(names, min_size=len(entities), max_size=len(entities))))
    return KnowledgeGraph(draw(names), entities, relations, triples, attributes, pairs, keys, numbers, Images(shown, feature) if draw(st.booleans()) else None, shown, labels)


@st.composite
def pairs(draw):
    s, t = draw(graphs()), draw(graphs())
    ids = st.tuples(st.integers(0, len(s.entities) - 1), st.integers(0, len(t.entities) - 1))
    links = draw(st.lists(ids, max_size=4)) if s.entities and t.entities else []
    return KGPair(s, t, distinct(np.array(links, np.int32).reshape(-1, 2)), draw(names), draw(names))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(pair=pairs())
def test_what_is_saved_is_loaded_as_it_was(tmp_path, pair):
    save_pair(pair, tmp_path/"pair", replace=True)
    back = load_pair(tmp_path/"pair")
    assert (back.fingerprint(), back.name, back.note) == (pair.fingerprint(), pair.name, pair.note)
    for a, b in ((pair.source, back.source), (pair.target, back.target)):
        assert (a.name, a.labels, a.images is None) == (b.name, b.labels, b.images is None)
        assert a.numbers.value.tobytes() == b.numbers.value.tobytes()


def small_pair(): return load("synth")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_folder_is_an_error_of_ours(tmp_path, data):
    folder = tmp_path/"pair"
    if not folder.exists(): save_pair(KGPair(KnowledgeGraph("s", ["a", "b"], ["r"], [[0, 0, 1]]), KnowledgeGraph("t", ["x"], [], None, images=Images([0], [[1., 2.]])), [[0, 0]], "p"), folder)
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    before = path.read_bytes()
    path.write_bytes(damaged(data.draw, before))
    try: load_pair(folder, verify=data.draw(st.booleans()))
    except DataError as e: assert e.remedy
    finally: path.write_bytes(before)


def test_a_folder_is_a_data_set(tmp_path):
    pair = small_pair()
    save_pair(pair, tmp_path/"pair")
    assert load(str(tmp_path/"pair")).fingerprint() == pair.fingerprint()
    seconds = min(_timed(lambda: load_pair(tmp_path/"pair")) for _ in range(3))
    assert seconds < 2, seconds


def _timed(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def test_a_full_disk_and_a_read_only_folder_leave_what_was_there(tmp_path, monkeypatch):
    pair = small_pair()
    save_pair(pair, tmp_path/"pair")
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(DataError, match="No space left on device") as e: save_pair(pair, tmp_path/"pair", replace=True)
    assert e.value.remedy and load_pair(tmp_path/"pair").fingerprint() == pair.fingerprint()
    assert os.listdir(tmp_path) == ["pair"]


# ---------------------------------------------------------------- hostile files

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


HEAD = '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:x="http://x/"><rdf:Description rdf:about="http://a"><x:p>&e;</x:p></rdf:Description></rdf:RDF>'
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize("declared", ['[<!ENTITY e SYSTEM "file:///etc/passwd">]', '[<!ENTITY e PUBLIC "x" "http://evil/x">]', 'SYSTEM "http://evil/x.dtd"',
                                      '[<!ENTITY % e SYSTEM "http://evil/x.dtd"> %e;]', f'[<!ENTITY l0 "ha">{LAUGHS}<!ENTITY e "&l9;">]', f'[<!ENTITY e "{"ha" * 999}">]'])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_xml_that_refers_to_files_or_unfolds_is_refused(tmp_path, declared, pack):
    path = write(tmp_path/"a.rdf", pack(f'<?xml version="1.0"?>\n<!DOCTYPE rdf:RDF {declared}>\n{HEAD}'.encode()))
    with pytest.raises(DataError, match="nothing outside the file is read") as e: import_pair(path, path)
    assert e.value.line == 2 and "trust" in e.value.remedy
    with pytest.raises(DataError): import_pair(path, path, lenient=True)


def _bomb(pack):
    "A gibibyte and a bit of comments: 64 MB packed, many times in a row."
    block = (b"#" * 1023 + b"\n") * (1 << 16)
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "zst": lambda b: pa.compress(b, "zstd", asbytes=True)}[pack](block)
    return packed * (FREE_BYTES // len(block) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("pack", ["gz", "bz2", "zst"])
def test_a_bomb_is_refused(tmp_path, pack):
    path = write(tmp_path/f"a.nt.{pack}", _bomb(pack))
    with pytest.raises(DataError, match="decompression bomb") as e: import_pair(path, path)
    assert e.value.remedy


def test_tables_that_claim_too_much_are_refused(tmp_path):
    pq.write_table(pa.table({"id": pa.nulls(200_000_000, pa.int8())}), tmp_path/"zeros.parquet")
    with pytest.raises(DataError, match="decompression bomb"): import_pair(tmp_path/"zeros.parquet", tmp_path/"zeros.parquet")
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 1_000_000]))     # 20 GB, if written out
    pq.write_table(pa.table({"id": np.arange(20_000), "name": long, "other": long}), tmp_path/"long.parquet")
    assert {len(text) for text in import_pair(tmp_path/"long.parquet", tmp_path/"long.parquet").pair.source.labels} == {300}


@pytest.mark.parametrize("content", ["[" * 200_000, '{"id":' * 200_000, '{"id": "a", "x": ' + "9" * 100_000 + "}", '{"id": "\\ud800", "\\udfff": "\\ud83d"}'])
def test_json_that_nests_or_lies(tmp_path, content):
    path = write(tmp_path/"a.jsonl", content)
    try: found = import_pair(path, path)
    except DataError as e: assert e.line == 1 and e.remedy
    else: save_pair(found.pair, tmp_path/"pair")


@pytest.mark.parametrize("name", ["a.zip", "a.nt", "a.tar"])
def test_archives_are_not_opened(tmp_path, name):
    import tarfile
    import zipfile
    with zipfile.ZipFile(tmp_path/name, "w") if name != "a.tar" else tarfile.open(tmp_path/name, "w") as f:
        if name == "a.tar": f.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
        else: f.writestr("../evil", "x")
    with pytest.raises(DataError): import_pair(tmp_path/name, tmp_path/name)
    assert not (tmp_path.parent/"evil").exists()


def test_markup_in_names_is_data(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    path = write(tmp_path/"a.jsonl", json.dumps({"id": f"x{evil}", evil: evil, "label": evil, "in": {"id": "\x1b[31mred\x1b[0m"}}) + "\n")
    found = import_pair(path, path)
    assert f"x{evil}" in found.pair.source.entities and evil in found.pair.source.labels
    found.save(tmp_path/"pair")
    assert load_pair(tmp_path/"pair").fingerprint() == found.pair.fingerprint()
    assert "\x1b" not in import_text(found)


def test_pictures_are_only_looked_for_in_the_graphs_folder(tmp_path):
    write(tmp_path/"secret.jpg", b"x")
    path = write(tmp_path/"g"/"a.jsonl", "".join(json.dumps({"id": f"e{i}", "image": p}) + "\n" for i, p in enumerate(("../secret.jpg", str(tmp_path/"secret.jpg"), f"file://{tmp_path}/secret.jpg"))))
    os.symlink(tmp_path/"secret.jpg", tmp_path/"g"/"e0.jpg")
    found = import_pair(path.parent, path.parent)
    assert not found.pictures[0]["local"].any() and len(found.pictures[0]["path"]) == 3


# ---------------------------------------------------------------- the benchmarks

def place(name):
    "Where a benchmark is: $MPSEA_DATA, the cache, or beside the repository."
    for data_dir in ("", ROOT.parent/"shared"/"data"/DATASETS[name].places[0]):
        try: return Path(locate(DATASETS[name], data_dir))
        except MpseaError: pass
    pytest.skip(f"{name} is not here (set MPSEA_DATA)")


@pytest.mark.parametrize("name, target", [("fbdb15k", "DB15K"), ("fbyg15k", "YAGO15K")])
def test_mmkb_through_import_is_the_benchmark(name, target, tmp_path):
    folder = place(name)
    found = import_pair(folder/"FB15K", folder/target, folder/target/f"{target}_SameAsLink.txt", MAPPINGS/"mmkb.yaml", progress=False)
    pair = DATASETS[name].read(folder)
    assert (found.pair.fingerprint(), found.pair.note, found.pair.target.labels) == (pair.fingerprint(), pair.note, pair.target.labels)
    found.save(tmp_path/"pair")
    assert load_pair(tmp_path/"pair").fingerprint() == pair.fingerprint()
    assert _timed(lambda: load_pair(tmp_path/"pair")) < 2


def test_dbp15k_through_import_is_the_benchmark_in_another_order(tmp_path):
    "The numbered files give entities their order; an import orders them by name. Otherwise the pairs are the same."
    folder = place("dbp15k_zh_en")
    for side, n in (("zh", 1), ("en", 2)):
        (tmp_path/side).mkdir()
        for kind in ("ent_ids", "triples"): shutil.copy(folder/f"{kind}_{n}", tmp_path/side)
    found = import_pair(tmp_path/"zh", tmp_path/"en", folder/"ill_ent_ids", MAPPINGS/"dbp15k.yaml", progress=False).pair
    pair = DATASETS["dbp15k_zh_en"].read(folder)
    assert by_name(found) == by_name(pair)


def by_name(pair):
    "Triples and links with names for ids."
    triples = [{(k.entities[h], k.relations[r], k.entities[t]) for h, r, t in k.triples.tolist()} for k in (pair.source, pair.target)]
    return *triples, {(pair.source.entities[a], pair.target.entities[b]) for a, b in pair.links.tolist()}
