"""Your own graphs, end to end, as commands: without links, and in a newer version."""
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsea.cli import main
from mpsea.folder import save_pair
from mpsea.synth import SynthSpec, synthesise

SMALL = ["--epochs", "6", "--dim", "40", "--heads", "4", "--valid-ratio", ".2", "--precision", "fp32", "--evidence-rounds", "1", "--assignment", ""]


@pytest.fixture(scope="module")
def pair(): return synthesise(SynthSpec(entities=150, seed=4))


def names(pair, pairs): return {(pair.source.entities[s], pair.target.entities[t]) for s, t in pairs.tolist()}


def as_triples(kg):
    "A graph as N-Triples: relations and numbers."
    iri = lambda name: f"<http://x/{name.replace(' ', '_')}>"
    n = kg.numbers
    lines = [f"{iri(kg.entities[h])} {iri(kg.relations[r])} {iri(kg.entities[t])} ." for h, r, t in kg.triples.tolist()]
    lines += [f'{iri(kg.entities[e])} {iri(kg.keys[k])} "{v!r}"^^<http://www.w3.org/2001/XMLSchema#double> .' for e, k, v in zip(n.entity.tolist(), n.key.tolist(), n.value.tolist())]
    return "\n".join(lines) + "\n"


def test_import_without_links_then_align(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPSEA_PROGRESS", "0")
    for side in ("source", "target"): (tmp_path/f"{side}.nt").write_text(as_triples(getattr(pair, side)))
    assert not main(["import", "--source", "source.nt", "--target", "target.nt", "--out", "pair"])
    assert "seeds will be guessed" in capsys.readouterr().out
    assert not main(["train", "--params", "base", "recommended", "evidence", "--dataset", "pair", "--out", "run", *SMALL])
    said = capsys.readouterr().out
    assert re.search(r"no gold links are learned from.*pairs that stand out by values, \d+% of them right by estimate \(\d+% to \d+%\)", said)
    assert not main(["align", "run", "--choose", "mutual", "-o", "pairs.tsv"])
    said = capsys.readouterr().out
    assert "guessed seeds" in said and "estimated precision" in said
    table = pd.read_csv("pairs.tsv", sep="\t")
    gold = {(f"http://x/{s}", f"http://x/{t}") for s, t in names(pair, pair.links)}
    right = [(s, t) in gold for s, t in zip(table.source, table.target)]
    assert table.confidence.between(0, 1).all() and np.mean(right) > .7 and sum(right) > 60


def test_names_only_where_they_can_help(pair, tmp_path, capsys):
    save_pair(pair, tmp_path/"linked")
    assert main(["align", str(tmp_path/"linked"), "--names"]) == 1
    assert "without links" in capsys.readouterr().err


def test_nothing_to_guess_from_is_one_clear_line(pair, tmp_path, capsys):
    bare = [replace(kg, keys=(), numbers=None, images=None, pictured=np.zeros(0, np.int32)) for kg in (pair.source, pair.target)]
    save_pair(replace(pair, source=bare[0], target=bare[1], links=np.zeros((0, 2), np.int32)), tmp_path/"bare")
    assert main(["train", "--dataset", str(tmp_path/"bare"), "--out", str(tmp_path/"run"), "--epochs", "1"]) == 1
    err = capsys.readouterr().err
    assert "nothing that both graphs have" in err and "--links" in err and "Traceback" not in err


def test_a_newer_version(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPSEA_PROGRESS", "0")
    save_pair(replace(pair, links=pair.links[:100]), "v1")
    kg = pair.source
    save_pair(replace(pair, source=replace(kg, triples=kg.triples[:-20])), "v2")
    assert not main(["train", "--params", "base", "recommended", "--dataset", "v1", "--seed-ratio", ".5", "--out", "run", *SMALL[:-4]])
    assert not main(["align", "run", "--newer", "v2", "--choose", "mutual", "-o", "pairs.tsv"])
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.split()[:2] == ["source", "triples"]]
    assert [int(x) for x in rows[0][2:]] == [len(kg.triples), len(kg.triples) - 20, 0, 20]
    assert "changed pairs:" in said and "run-v2" in said
    changes = pd.read_csv("run-v2/changes.tsv", sep="\t")
    assert {"change", "source", "target_before", "target_now", "confidence_before", "confidence_now"} <= set(changes) and "new" in set(changes.change)
    assert pd.read_csv("pairs.tsv", sep="\t").source.is_unique
    assert not main(["align", "run-v2", "-o", "again.tsv"])                              # a run like any other
    assert main(["align", "run", "--newer", "nowhere"]) == 1 and "no folder of graphs" in capsys.readouterr().err


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 59), max_size=55), st.integers(0, 3))
def test_no_test_pair_becomes_a_seed(gone, seed):
    """Whatever source entities disappear: pairs that are left keep their role, and new links join the seeds alone."""
    from types import SimpleNamespace

    from mpsea.config import Config
    from mpsea.core import RunError
    from mpsea.newer import carried_task
    from mpsea.train import make_task
    pair = synthesise(SynthSpec(entities=60, seed=seed))
    before = SimpleNamespace(pair=pair, task=make_task(pair, Config(seed=seed, seed_ratio=.5, valid_ratio=.2)))
    name = {i: f"new {i}" if i in gone else e for i, e in enumerate(pair.source.entities)}
    now = replace(pair, source=replace(pair.source, entities=tuple(name.values())))
    try: task = carried_task(before, now)
    except RunError: return
    roles = {n: {tuple(p) for p in getattr(task, n).tolist()} for n in ("seeds", "valid", "test")}
    for n in ("valid", "test"):
        assert roles[n] == {tuple(p) for p in getattr(before.task, n).tolist() if p[0] not in gone}
        assert not roles[n] & roles["seeds"]
    assert roles["seeds"] >= {tuple(p) for p in before.task.seeds.tolist() if p[0] not in gone}
