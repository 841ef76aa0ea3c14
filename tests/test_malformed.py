"""Whatever is wrong with the input: an error of ours that names place and remedy, or a stated rule. Never another exception."""
import gzip
import os
import pickle
import pickletools
import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsea.core import ConfigError, DataError, MpseaError
from mpsea.files import load_numpy_pickle, parse_value
from mpsea.kg import Images, KGPair, KnowledgeGraph, Numbers
from mpsea.readers import read_ids, read_mmkb

MMKB = {
    "A/A_EntityTriples.txt": "/m/1 /r /m/2 .\n/m/2 /s /m/3 .\n/m/3 /s /m/4 .\n",
    "A/A_NumericalTriples.txt": "/m/1\t<height>\t3967.0\n/m/2\t<founded>\t1191.0\n",
    "A/A_ImageIndex.txt": "/m/1\tAIMG1\n/m/3\tAIMG3\n",
    "B/B_EntityTriples.txt": "<b:Eiger> <in> <b:Bern> .\n<b:Thun> <in> <b:Bern> .\n",
    "B/B_NumericalTriples.txt": '<b:Bern> <founded> "1191-##-##"^^<x#date> .\n',
    "B/B_SameAsLink.txt": "/m/1 <SameAs> <b:Eiger> .\n/m/2 <SameAs> <b:Bern> .\n/m/3 <SameAs> <b:Thun> .\n",
}
IDS = {
    "ent_ids_1": "0\ta:x\n1\ta:y\n7\ta:z\n", "ent_ids_2": "2\tb:x\n3\tb:y\n9\tb:z\n",
    "triples_1": "0\t4\t1\n1\t4\t7\n", "triples_2": "3\t5\t2\n9\t5\t2\n",
    "ill_ent_ids": "0\t2\n1\t3\n7\t9\n", "training_attrs_1": "a:x\tborn\n", "training_attrs_2": "b:y\tborn\theight\n",
}


def write(folder, files):
    for name, content in files.items():
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None: path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def mmkb(folder, **changes): return read_mmkb(write(folder, {**MMKB, **{f"{k[0]}/{k}.txt": v for k, v in changes.items()}}), "A", "B")
def ids(folder, **changes): return read_ids(write(folder, {**IDS, **changes}))


def names_place(error, file, line=None):
    "The error says where, and what to do."
    assert str(error.file).endswith(file), error
    assert error.line == line, error
    assert error.remedy, error


def test_the_files_as_they_are_can_be_read(tmp_path):
    assert len(mmkb(tmp_path/"mmkb").links) == len(ids(tmp_path/"ids").links) == 3


@pytest.mark.parametrize("file, content, line, says", [
    ("A_EntityTriples", None, None, "no such file"),
    ("B_SameAsLink", None, None, "no such file"),
    ("A_EntityTriples", "", None, "no triples"),
    ("A_EntityTriples", "\n\n", None, "no triples"),
    ("A_EntityTriples", "/m/1 /r /m/2 .\n/m/2 /s", 2, "expected 3 columns, found 2"),
    ("A_EntityTriples", "/m/1 /r /m/2 .\n\n/m/2 /s /m/3 /m/4 .\n", 3, "expected 3 columns, found 5"),
    ("A_EntityTriples", b"/m/1 /r /m/2 .\n/m/1 /r /m/\xe9 .\n", 2, "not UTF-8"),
    ("A_EntityTriples", gzip.compress(MMKB["A/A_EntityTriples.txt"].encode())[:-9], None, "damaged file"),
    ("A_EntityTriples", b"\x1f\x8bnot gzip at all", None, "damaged file"),
    ("A_NumericalTriples", "/m/1\t<height>\t3967.0\n/m/1\t<height>\n", 2, "expected 3 columns"),
    ("A_NumericalTriples", "/m/1\t<height>\t3967.0\n/m/1\t<height>\ttall\n", 2, "neither a number nor a date"),
    ("A_NumericalTriples", "/m/1\t<height>\tNaN\n", 1, "neither a number nor a date"),
    ("A_NumericalTriples", "/m/1\t<height>\t1e999\n", 1, "out of range"),
    ("B_NumericalTriples", '<b:Bern> <founded> "1191-13-01"^^<x#date> .\n', 1, "not a date"),
    ("A_ImageIndex", "/m/1\tAIMG1\n/m/3\n", 2, "expected 2 columns, found 1"),
    ("B_SameAsLink", "/m/1 <SameAs> <b:Eiger> .\n/m/2 <SameAs>", 2, "expected 3 columns"),
    ("B_SameAsLink", "<b:Eiger> <SameAs> /m/1 .\n", None, "linked entities occur nowhere"),
    ("B_SameAsLink", "/m/x <SameAs> <b:Eiger> .\n/m/y <SameAs> <b:Bern> .\n", None, "linked entities occur nowhere in A"),
])
def test_mmkb(tmp_path, file, content, line, says):
    with pytest.raises(DataError, match=says) as e: mmkb(tmp_path, **{file: content})     # None: the file is not written
    names_place(e.value, f"{file}.txt", line)


@pytest.mark.parametrize("file, content, line, says", [
    ("ent_ids_1", None, None, "no such file"),
    ("triples_2", None, None, "no such file"),
    ("ent_ids_1", "", None, "no names"),
    ("ent_ids_1", "0\ta:x\n1\n", 2, "expected a number, a tab and a name"),
    ("ent_ids_1", "0\ta:x\none\ta:y\n", 2, "expected a number, a tab and a name"),
    ("ent_ids_1", "0\ta:x\n0\ta:y\n", 2, "id 0 occurs twice"),
    ("ent_ids_2", "0\tb:x\n3\tb:y\n", None, "id 0 is in both graphs"),
    ("ent_ids_2", b"2\tb:x\n3\tb:\xff\n", 2, "not UTF-8"),
    ("triples_1", "0\t4\t1\n0\t4\n", 2, "expected 3 columns, found 2"),
    ("triples_1", "0\t4\t1\n0\t4\t8\n", 2, "unknown id 8"),
    ("triples_1", "0\tborn\t1\n", 1, "expected an id, found 'born'"),
    ("triples_1", "0\t4\t99999999999999999999999\n", 1, "expected an id"),
    ("ill_ent_ids", "0\t2\n1\t4\n", 2, "unknown id 4"),
    ("ill_ent_ids", "2\t0\n", 1, "unknown id 2"),
    ("ill_ent_ids", "0\t-2\n", 1, "unknown id -2"),
    ("training_attrs_1", "zzz\tborn\n", None, "none of the entities is known"),
    ("x_id_img_feature_dict.pkl", b"no pickle", None, "not a pickle of arrays"),
    ("x_id_img_feature_dict.pkl", pickle.dumps([1, 2]), None, "something else than a dictionary"),
    ("x_id_img_feature_dict.pkl", pickle.dumps({0: np.ones(4), 2: np.ones(3)}), None, "widths"),
    ("x_id_img_feature_dict.pkl", pickle.dumps({0: np.ones(4), 2: np.full(4, np.nan)}), None, "NaN"),
    ("x_id_img_feature_dict.pkl", pickle.dumps({50: np.ones(4), 51: np.ones(4)}), None, "no entities"),
    ("x_id_img_feature_dict.pkl", pickle.dumps({0: np.array(["text"], object)}), None, "not of numbers"),
    ("x_id_img_feature_dict.pkl", pickle.dumps({0: "text"}), None, "holds str where an array of numbers should be"),
])
def test_numbered_files(tmp_path, file, content, line, says):
    with pytest.raises(DataError, match=says) as e: ids(tmp_path, **{file: content})
    names_place(e.value, file, line)


def test_no_links_at_all_and_names_that_repeat(tmp_path):
    with pytest.raises(DataError, match="no links") as e: ids(tmp_path/"a", ill_ent_ids=None)
    assert e.value.remedy
    with pytest.raises(DataError, match="'a:x' occurs 2 times"): ids(tmp_path/"b", ent_ids_1="0\ta:x\n1\ta:x\n7\ta:z\n")


# Rules rather than errors

def test_duplicates_count_once(tmp_path):
    doubled = {k: v * 2 for k, v in MMKB.items()}
    assert read_mmkb(write(tmp_path/"twice", doubled), "A", "B").fingerprint() == mmkb(tmp_path/"once").fingerprint()
    doubled = {k: IDS[k] * 2 for k in ("ill_ent_ids", "triples_1", "training_attrs_2")}
    assert ids(tmp_path/"ids2", **doubled).fingerprint() == ids(tmp_path/"ids1").fingerprint()


def test_a_linked_entity_need_not_occur_elsewhere(tmp_path):
    pair = mmkb(tmp_path, B_SameAsLink=MMKB["B/B_SameAsLink.txt"] + "/m/new <SameAs> <b:New> .\n")
    assert "/m/new" in pair.source.entities and "b:New" in pair.target.entities and len(pair.links) == 4


def test_numbers_and_pictures_may_be_missing_and_the_title_says_so(tmp_path):
    missing = {k: None for k in ("A_NumericalTriples", "B_NumericalTriples", "A_ImageIndex")}
    assert mmkb(tmp_path, **missing).title == "A-B (no attributes, no images)"


def test_pictures_without_features_and_features_without_entities(tmp_path):
    pair = ids(tmp_path, **{"x_id_img_feature_dict.pkl": pickle.dumps({0: np.ones(4), 2: np.ones(4), 77: np.ones(4)})})
    assert pair.source.images.entity.tolist() == pair.target.images.entity.tolist() == [0]


@pytest.mark.parametrize("make, says", [
    (lambda f: f.write_bytes(b"not HDF5"), "not an HDF5 file"),
    (lambda f: h5(f, OTHER=np.ones(4)), "none of the images"),
    (lambda f: h5(f, AIMG1=np.ones(4), AIMG3=np.ones(3)), "width 3, others 4"),
    (lambda f: h5(f, AIMG1=np.full(4, np.inf)), "NaN or infinity"),
])
def test_image_features(tmp_path, make, says):
    folder = write(tmp_path, MMKB)
    make(folder/"A"/"A_ImageData.h5")
    with pytest.raises(DataError, match=says) as e: read_mmkb(folder, "A", "B")
    names_place(e.value, "A_ImageData.h5")


def h5(path, **arrays):
    with h5py.File(path, "w") as f:
        for name, array in arrays.items(): f[name] = array


# Seeds

def graph(n): return KnowledgeGraph("g", [str(i) for i in range(n)], ["r"], None)


@pytest.mark.parametrize("links, ratio, valid, error, says", [
    ([[0, 0], [1, 1], [2, 2]], .01, 0., DataError, "left for seeds"),
    ([[0, 0], [1, 1], [2, 2]], .99, 0., DataError, "left for test"),
    ([[0, 0], [1, 1], [2, 2]], .67, .05, DataError, "left for valid"),
    ([[0, 0], [1, 0], [1, 1]], .5, 0., DataError, "left for"),        # one component: it cannot be on both sides
    (None, .2, 0., DataError, "none of 0 links"),
    ([[0, 0], [1, 1]], 0., 0., ConfigError, "seed_ratio is 0"),
    ([[0, 0], [1, 1]], 1., 0., ConfigError, "seed_ratio is 1"),
    ([[0, 0], [1, 1]], float("nan"), 0., ConfigError, "seed_ratio is nan"),
    ([[0, 0], [1, 1]], .5, 1., ConfigError, "valid_ratio is 1"),
])
def test_splits(links, ratio, valid, error, says):
    with pytest.raises(error, match=says) as e: KGPair(graph(3), graph(3), links, "p").split(ratio, 0, valid)
    assert e.value.remedy


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=40), st.floats(.05, .95), st.floats(0, .9),
       st.integers(0, 5))
def test_a_split_never_leaks_and_never_loses_a_link(links, ratio, valid, seed):
    pair = KGPair(graph(13), graph(13), np.array(sorted(links)), "p")
    try: s = pair.split(ratio, seed, valid)
    except DataError: return
    parts = [s.seeds, s.valid, s.test]
    assert sum(map(len, parts)) == len(links)
    for c in (0, 1):
        sides = [set(p[:, c].tolist()) for p in parts]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


# Arrays

@pytest.mark.parametrize("make, says", [
    (lambda: Numbers([0], [0], [float("nan")]), "NaN"),
    (lambda: Numbers([0], [0], ["tall"]), "not numbers"),
    (lambda: KnowledgeGraph("g", ["a"], [], None, keys=["k"], numbers=Numbers([-1], [0], [1.])), "holds id -1"),
    (lambda: Images([0, 1], np.zeros((1, 4))), "expected shape"),
    (lambda: Images([0], [[float("inf")]]), "NaN or infinite"),
    (lambda: KnowledgeGraph("g", ["a"], ["r"], [[0, 0]]), "expected shape"),
    (lambda: KnowledgeGraph("g", ["a"], ["r"], [[0., 0., 0.]]), "expected integers"),
    (lambda: KnowledgeGraph("g", ["a"], ["r"], [[0, 1, 0]]), "holds id 1"),
    (lambda: KnowledgeGraph("g", ["a", "b"], ["r"], [[0, 0, 1]] * 2), "occur twice"),
    (lambda: KGPair(graph(2), graph(2), [[0, 2]], "p"), "holds id 2"),
    (lambda: KGPair(graph(2), graph(2), [[0, 1], [0, 1]], "p"), "occur twice"),
])
def test_arrays(make, says):
    with pytest.raises(DataError, match=says): make()


# Hostile pickles

class Call:
    def __init__(self, function, *arguments): self.how = function, arguments
    def __reduce__(self): return self.how


@pytest.mark.parametrize("evil", [
    Call(os.system, "touch pwned"), Call(eval, "open('pwned', 'w')"), Call(getattr, "text", "upper"), Call(np.load, "pwned", None, True),
    Call(np.memmap, "pwned", "float32", "w+", 0, (4,)), Call(pickle.loads, b"N."),
])
def test_a_pickle_runs_nothing(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for content in ({0: evil}, evil, {0: [evil]}):
            try: data = pickle.dumps(content, protocol)
            except pickle.PicklingError: continue
            (tmp_path/"evil.pkl").write_bytes(data)
            with pytest.raises(DataError, match="asks for|not a pickle") as e: load_numpy_pickle(tmp_path/"evil.pkl")
            assert e.value.remedy
    assert os.listdir(tmp_path) == ["evil.pkl"]


@pytest.mark.parametrize("program", [
    b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR.",                 # no dictionary
    b"\x80\x04}K\x00cnumpy\ndtype\n(X\x01\x00\x00\x00OtRs.",                                                 # a dtype of objects
    b"\x80\x04}K\x00cos\nsystem\ns.",
    b"\x80\x04}K\x00cnumpy.core.numeric\n_frombuffer\n"                                                      # 8 GB from nothing
    b"(C\x00cnumpy\ndtype\n(X\x02\x00\x00\x00f4tRJ\xff\xff\xff\x7fX\x01\x00\x00\x00CtRs.",
    b"\x80\x04}K\x00cposix\nsystem\n(X\x04\x00\x00\x00true\x85Rs.",
    b"(lp0\ng0\na" * 50 + b".",
])
def test_programs_written_by_hand(tmp_path, program):
    (tmp_path/"p.pkl").write_bytes(program)
    with pytest.raises(DataError): load_numpy_pickle(tmp_path/"p.pkl")


# Any damage: an error of ours, or a pair

def damaged(draw, data):
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "drop", "put", "swap"]))
        if kind == "cut": data = data[:at]
        elif kind == "drop": data = data[:at] + data[at + draw(st.integers(1, 5)):]
        elif kind == "put": data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]
        else: data = data[:at] + draw(st.sampled_from([b"\n", b"\t", b" ", b".", b"\0", b"\"", b"#", b"\xff", b"9" * 30])) + data[at + 1:]
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_never_raise_anything_else(tmp_path, data):
    for files, read in ((MMKB, lambda f: read_mmkb(f, "A", "B")), (IDS, read_ids)):
        name = data.draw(st.sampled_from(sorted(files)))
        folder = write(tmp_path, {**files, name: damaged(data.draw, files[name].encode())})
        try: assert isinstance(read(folder), KGPair)
        except MpseaError as e: assert re.search(r"\w", e.message)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_damaged_pickles_never_raise_anything_else(tmp_path, data, protocol):
    good = pickletools.optimize(pickle.dumps({3: np.arange(4, dtype=np.float32), 9: np.zeros(4, np.float64)}, protocol))
    (tmp_path/"f.pkl").write_bytes(damaged(data.draw, good))
    try: assert all(isinstance(v, np.ndarray) for v in load_numpy_pickle(tmp_path/"f.pkl").values())
    except DataError: pass


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"\A-?\d{0,6}[-.#]?\d{0,4}[-#]{0,2}\d{0,4}\Z"), st.floats().map(str)),
       st.sampled_from(["", "date_founded"]))
def test_a_value_is_a_finite_number_or_an_error(text, key):
    try: value, kind = parse_value(text, key)
    except DataError: return
    assert np.isfinite(value) and kind in (0, 1) and (kind == 0 or abs(value) < 10_000)
