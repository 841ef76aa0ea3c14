"""The published numbers: well-formed, and equal to the paper's text where that is at hand."""

import os
import re
from pathlib import Path

import pytest
import yaml

from mpsea.tables import RATES, published, published_file, published_rows, published_slips

ROOT = Path(__file__).resolve().parent.parent
PAPER = Path(os.environ.get("MPSEA_PAPER") or ROOT.parent / "shared" / "paper" / "mpsea.txt")
CONTENT = yaml.safe_load(published_file().read_text(encoding="utf-8"))
ALLOWED = {"table": int, "row": str, "method": str, "dataset": str, "seed_ratio": float, "iterative": bool, "note": str}


@pytest.mark.parametrize("row", CONTENT["rows"], ids=lambda r: f"{r['table']}-{r['dataset']}-{r['seed_ratio']}-{r['row']}")
def test_a_row_is_well_formed(row):
    rates = {k: row[k] for k in RATES}
    assert all(v is None or (type(v) is float and 0 < v < 1) for v in rates.values()), rates
    assert all(type(v) is ALLOWED[k] for k, v in row.items() if k not in RATES)
    assert row["hits@1"] is not None
    known = [rates[k] for k in ("hits@1", "hits@5", "hits@10") if rates[k] is not None]
    assert known == sorted(known), "Hits@k grows with k"
    assert row["mrr"] is None or row["hits@1"] < row["mrr"], "MRR is at least Hits@1"
    assert row["dataset"] in ("fbdb15k", "fbyg15k") and row["seed_ratio"] in (.2, .5, .8)
    assert row["iterative"] == (row["table"] == 4)


def test_no_row_is_said_twice():
    rows = published_rows()
    assert not rows.duplicated(["table", "row", "dataset", "seed_ratio"]).any()
    assert not rows.duplicated(["table", "method", "dataset", "seed_ratio"]).any()


def test_the_full_model_is_the_same_in_every_table():
    for dataset in ("fbdb15k", "fbyg15k"):
        rows = published(dataset, .2, tables=(2, 3, 5, 6)).query("method == 'MPSEA'")
        assert len(rows) == 3
        assert len(rows[list(RATES)].drop_duplicates()) == 1


def test_notes_and_slips_are_true_of_the_numbers():
    at = published_rows().set_index(["table", "method", "dataset", "seed_ratio"])[list(RATES)].to_dict("index")
    rest = RATES[1:]
    multijaf, meaie = at[4, "MultiJAF", "fbdb15k", .2], at[4, "MEAIE", "fbdb15k", .2]
    assert [multijaf[k] for k in rest] == [meaie[k] for k in rest] and multijaf["hits@1"] != meaie["hits@1"]
    assert at[4, "MSNEA", "fbdb15k", .2] == at[4, "MSNEA", "fbyg15k", .2]
    assert at[4, "MPSEA", "fbyg15k", .8]["hits@1"] < at[3, "MPSEA", "fbyg15k", .8]["hits@1"]
    assert at[4, "MPSEA", "fbyg15k", .8]["mrr"] < at[3, "MPSEA", "fbyg15k", .8]["mrr"]
    assert at[4, "MPSEA", "fbyg15k", .5]["mrr"] < at[3, "MPSEA", "fbyg15k", .5]["mrr"]
    assert at[5, "w/o OC", "fbyg15k", .2]["mrr"] > at[5, "MPSEA", "fbyg15k", .2]["mrr"]
    for table, dataset, gap, own in ((2, "fbdb15k", .070, .160), (3, "fbyg15k", .091, .131)):
        best = max(v["hits@1"] for (t, m, d, r), v in at.items() if (t, d, r) == (table, dataset, .2) and m != "MPSEA")
        ours = at[table, "MPSEA", dataset, .2]["hits@1"]
        assert round(ours - best, 3) == gap and round(ours - at[5, "w/o MMPF", dataset, .2]["hits@1"], 3) == own
    for ratio in (.2, .5):
        assert at[3, "HMEA", "fbyg15k", ratio]["hits@10"] == at[2, "HMEA", "fbdb15k", ratio]["hits@10"]
    for k in ("hits@10", "mrr"):
        assert at[6, "w/o img", "fbyg15k", .2][k] == at[6, "w/o relation", "fbyg15k", .2][k]
    assert set(published_slips().table) <= set(range(1, 7))


def test_captions_say_what_the_tables_hold():
    captions = {t["table"]: t["caption"] for t in CONTENT["tables"]}
    assert set(captions) == {2, 3, 4, 5, 6}
    rows = published_rows()
    assert "component" in captions[5] and "w/o MMPF" in set(rows[rows.table == 5].method)
    assert "modality" in captions[6] and "w/o img" in set(rows[rows.table == 6].method)


def cells_of(line):
    return [re.sub(r"</?u>", "", c).strip() for c in line.rstrip("\n").split("\t")]


def numbers_of(cells):
    return tuple(None if c in ("-", "_", "") else float(c) for c in cells)


def rows_of_the_paper(lines):
    "(table, row, dataset, seed_ratio) -> numbers, read from the paper's text."
    found, datasets = {}, ("fbdb15k", "fbyg15k")
    tables = {2: ("Table 2:", "Table 3:"), 3: ("Table 3:", "Table 4:"), 4: ("Table 4:", "4.2.2"),
              5: ("\t\tFBD\tB15K\t\tFBYG15K", "Table 5:"), 6: ("Table 6:", "4.2.3")}           # the caption of Table 5 stands below it
    for table, (first, last) in tables.items():
        begin = next(i for i, line in enumerate(lines) if line.startswith(first))
        end = next(i for i, line in enumerate(lines[begin + 1:], begin + 1) if line.startswith(last))
        seed = .2
        for cells in map(cells_of, lines[begin:end]):
            skip = 1 if table == 4 else 0
            width = 12 if table in (2, 3) else 8
            numbers = cells[skip + 1:skip + 1 + width]
            if len(numbers) < width - 1 or not re.fullmatch(r"0\.\d+", numbers[0]): continue
            numbers += [""] * (width - len(numbers))
            if skip and cells[0]: seed = float(cells[0].rstrip("%")) / 100
            for i in range(width // 4):
                where = (datasets[table - 2], (.2, .5, .8)[i]) if width == 12 else (datasets[i], seed)
                key = (table, cells[skip], *where)
                assert key not in found, key
                found[key] = numbers_of(numbers[4 * i:4 * i + 4])
    return found


def test_numbers_equal_the_papers_text():
    if not PAPER.is_file(): pytest.skip("the paper's text is not at hand (MPSEA_PAPER names it); its numbers were not compared")
    found = rows_of_the_paper(PAPER.read_text(encoding="utf-8").splitlines())
    ours = {(r["table"], r["row"], r["dataset"], r["seed_ratio"]): tuple(r[k] for k in RATES) for r in CONTENT["rows"]}
    assert set(ours) == set(found)
    assert {k: (ours[k], found[k]) for k in ours if ours[k] != found[k]} == {}
