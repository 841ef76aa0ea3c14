"""Graphs of one's own through the real commands: import, train, align, judge; what each costs, and how right the pairs are.

    python benchmarks/own_graphs.py sample                       # the embedded sample, written as RDF: about two minutes
    python benchmarks/own_graphs.py mmkb --data-dir DIR          # FBDB15K from MMKB's raw files; DIR holds FB15K and DB15K
    python benchmarks/own_graphs.py dbp15k --data-dir DIR        # DBP15K zh_en from its numbered files; DIR holds ent_ids_1, triples_1, ...
    python benchmarks/own_graphs.py synth --entities 100000      # an invented pair of any size, a fifth of each side without a partner

Each step is a command in a process of its own. Wall seconds, CPU seconds (all threads, and all processes that it started) and the largest
resident memory are the operating system's; a busy machine changes the first and not the second. The record goes to
results/benchmarks/own-<case>.json; the how-to on aligning your own graphs shows it.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
XSD = "http://www.w3.org/2001/XMLSchema#"


def missing(path, what):
    "End with what is absent and where it comes from."
    sys.exit(f"own_graphs: {path} is not there. {what}")


def need(folder, names, what):
    "The folder, if it holds these files."
    for name in names:
        if not (folder/name).is_file(): missing(folder/name, what)
    return folder


def step(name, command, work):
    "Run a command; what it took and what it said."
    print(f"\n$ {' '.join(command)}", flush=True)
    began = time.perf_counter()
    with open(work/f"{name}.out", "w+b") as said:
        child = subprocess.Popen([sys.executable, "-c", "from mpsea.cli import main; raise SystemExit(main())", *command[1:]], cwd=work, stdout=said)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    print(text, flush=True)
    if child.returncode: sys.exit(f"own_graphs: {name} ended with {child.returncode}")
    peak = used.ru_maxrss/(2**20 if sys.platform == "darwin" else 2**10)
    cost = {"step": name, "command": " ".join(command), "seconds": time.perf_counter() - began, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mb": peak}
    return cost, text


def measures(text):
    "What `mpsea judge` says, by name."
    rows = (line.rsplit(None, 1) for line in text.splitlines() if line.strip())
    return {name.strip(): float(value.replace(",", "")) for name, value in rows}


def told(text):
    "What `mpsea align` says of its confidence."
    found = {"said": text.strip().splitlines()[-4:]}
    for name, pattern in {"expected_precision": r"expected to be right: ([\d.]+)%", "alone": r"without a partner: about (\d+)%"}.items():
        if m := re.search(pattern, text): found[name] = float(m[1])/100
    return found


def write_table(path, rows):
    "A table of pairs, with a header."
    path.write_text("\n".join(["source\ttarget", *("\t".join(r) for r in rows)]) + "\n", encoding="utf-8")


def write_rdf(path, kg, side):
    "A graph as N-Triples: relations, attributes as texts, numbers and dates as typed literals, names."
    n = kg.numbers
    iri = lambda space, names: [f"<http://{space}.example.org/{x.replace(' ', '_')}>" for x in names]
    e, r, a, k = iri(side, kg.entities), *(iri("words", names) for names in (kg.relations, kg.attributes, kg.keys))
    keyed = set(kg.keys)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(f"{e[h]} {r[p]} {e[t]} .\n" for h, p, t in kg.triples.tolist())
        f.writelines(f'{e[i]} {a[p]} "yes" .\n' for i, p in kg.attribute_triples.tolist() if kg.attributes[p] not in keyed)
        f.writelines(f'{e[i]} {k[p]} "{v!r}"^^<{XSD}double> .\n' for i, p, v in zip(n.entity.tolist(), n.key.tolist(), n.value.tolist()))
        f.writelines(f'{x} <http://www.w3.org/2000/01/rdf-schema#label> "{name}" .\n' for x, name in zip(e, kg.labels))


def as_rdf(pair, work, known):
    "Write a pair as two RDF files; a share of its links as known.tsv, the others as rest.tsv. Returns what is imported."
    import numpy as np
    files = ["--source", "a.nt", "--target", "b.nt", "--links", "known.tsv"]
    if (work/"rest.tsv").exists(): return files
    for side, kg in (("a", pair.source), ("b", pair.target)): write_rdf(work/f"{side}.nt", kg, side)
    iri = lambda kg, side, i: f"http://{side}.example.org/{kg.entities[i].replace(' ', '_')}"
    rows = [(iri(pair.source, "a", s), iri(pair.target, "b", t)) for s, t in np.random.default_rng(0).permutation(pair.links).tolist()]
    cut = round(known*len(rows))
    write_table(work/"known.tsv", rows[:cut])
    write_table(work/"rest.tsv", rows[cut:])
    return files


def sample(args, work):
    "The embedded sample as RDF, without its pictures; two fifths of its links are known."
    from mpsea.datasets import load
    files = as_rdf(load("world", progress=False), work, .4)
    about = {"what": "the embedded sample as RDF, without its pictures", "known": .4}
    return about, files, dict(seed_ratio=.9, valid_ratio=.2, epochs=30, dim=100, evidence_rounds=1)


def mmkb(args, work):
    "FBDB15K from MMKB's raw files, a fifth of its links as seeds."
    data = Path(args.data_dir or os.environ.get("MPSEA_DATA", "../shared/data/mmkb")).resolve()
    names = [f"{g}/{g}_{kind}Triples.txt" for g in ("FB15K", "DB15K") for kind in ("Entity", "Numerical")]
    need(data, [*names, "DB15K/DB15K_SameAsLink.txt"], "Get it with `mpsea data get fbdb15k`, or from mniepert/mmkb, and name its folder with --data-dir.")
    files = ["--source", str(data/"FB15K"), "--target", str(data/"DB15K"), "--links", str(data/"DB15K/DB15K_SameAsLink.txt"),
             "--mapping", str(ROOT/"params/import/mmkb.yaml")]
    about = {"what": "FBDB15K from MMKB's raw files", "reader": ("fbdb15k", str(data))}
    return about, files, dict(seed_ratio=.2, valid_ratio=.05, epochs=args.epochs, evidence_rounds=args.rounds)


def dbp15k(args, work):
    "DBP15K zh_en from its numbered files, three tenths of its links as seeds."
    data = Path(args.data_dir or "../shared/data/dbp15k/zh_en").resolve()
    need(data, [f"{what}_{side}" for what in ("ent_ids", "triples") for side in (1, 2)] + ["ill_ent_ids"], "It is DBP15K in the layout of MCLEA or EVA; name its folder with --data-dir.")
    for side, name in ((1, "zh"), (2, "en")):
        (work/name).mkdir(exist_ok=True)
        for what in ("ent_ids", "triples"): shutil.copy(data/f"{what}_{side}", work/name)
    files = ["--source", "zh", "--target", "en", "--links", str(data/"ill_ent_ids"), "--mapping", str(ROOT/"params/import/dbp15k.yaml")]
    about = {"what": "DBP15K zh_en from its numbered files: relations only, no attributes, values or pictures", "reader": ("dbp15k_zh_en", str(data))}
    return about, files, dict(seed_ratio=.3, valid_ratio=.05, epochs=args.epochs, evidence_rounds=args.rounds)


def synth(args, work):
    "An invented pair; a fifth of each side has no partner, and a quarter of the links are known."
    from dataclasses import asdict

    from mpsea.synth import SynthSpec, synthesise
    spec = SynthSpec(entities=args.entities, overlap=.8, relations=100, attributes=100, keys=30, image_width=0, seed=args.seed)
    files = as_rdf(synthesise(spec), work, .25)
    about = {"what": f"an invented pair of 2 x {args.entities:,} entities as RDF", "spec": asdict(spec), "known": .25}
    return about, files, dict(seed_ratio=.9, valid_ratio=.1, epochs=args.epochs, dim=args.dim, batch_size=2000, eval_every=5, evidence_rounds=args.rounds)


def same_as_reader(pair, reader):
    "Whether the imported pair is what the benchmark's own reader gives: to the bit, or up to the order of ids."
    from mpsea.datasets import load
    known = load(*reader, progress=False)
    names = lambda p: {(p.source.entities[s], p.target.entities[t]) for s, t in p.links.tolist()}
    triples = lambda kg: {(kg.entities[h], kg.relations[r], kg.entities[t]) for h, r, t in kg.triples.tolist()}
    alike = [set(a.entities) == set(b.entities) and triples(a) == triples(b) for a, b in ((pair.source, known.source), (pair.target, known.target))]
    return {"fingerprint": known.fingerprint(), "identical": known.fingerprint() == pair.fingerprint(), "equal_up_to_order": all(alike) and names(pair) == names(known)}


def gold_of(work):
    "Write all right pairs that no seed holds: those that were never imported, and the run's own test and validation pairs."
    from mpsea.datasets import load
    pair, config = load(str(work/"pair"), progress=False), json.loads((work/"run/config.json").read_text())
    split = pair.split(config["seed_ratio"], config["seed"], config["valid_ratio"])
    rows = [(pair.source.entities[s], pair.target.entities[t]) for part in (split.test, split.valid) for s, t in part.tolist()]
    if (work/"rest.tsv").exists(): rows += [line.split("\t") for line in (work/"rest.tsv").read_text().splitlines()[1:]]
    write_table(work/"gold.tsv", rows)
    return {"gold": len(rows), "free": len(pair.source.entities) - len({s for s, _ in split.seeds.tolist()}), "with_partner": len({s for s, _ in rows})}


def commands(parameters, seed, precision):
    "The commands after the import."
    given = [x for k, v in {**parameters, "seed": seed}.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    yield "train", ["mpsea", "train", "--params", "base", "recommended", "evidence", "--dataset", "pair", *given, "--assignment", "", "--out", "run"]
    yield "align sure", ["mpsea", "align", "run", "--choose", "mutual", "--precision", str(precision), "-o", "sure.nt"]
    yield "judge sure", ["mpsea", "judge", "sure.nt", "--gold", "gold.tsv"]
    yield "align", ["mpsea", "align", "run", "-k", "10", "-o", "ten.tsv"]
    yield "judge", ["mpsea", "judge", "ten.tsv", "--gold", "gold.tsv"]


def described(case, args, work, about, parameters):
    "What a record says beside its steps: the data, and what was asked."
    from mpsea.datasets import load
    pair = load(str(work/"pair"), progress=False)
    size = lambda kg: {"entities": len(kg.entities), "triples": len(kg.triples), "attributes": len(kg.attribute_triples), "values": len(kg.numbers)}
    reader = {"reader": same_as_reader(pair, about["reader"])} if "reader" in about else {}
    return {"case": case, **about, **reader, "title": pair.title, "source": size(pair.source), "target": size(pair.target), "links": len(pair.links),
            "fingerprint": pair.fingerprint(), "parameters": {**parameters, "seed": args.seed}, "precision": args.precision}


def record(case, args, work, about, files, parameters):
    "Run the commands of a case, those that have not been run in this folder; the record, after each step."
    done, out = json.loads((work/"steps.json").read_text()) if (work/"steps.json").exists() else {}, {}
    for name, command in [("import", ["mpsea", "import", *files, "--out", "pair"]), *commands(parameters, args.seed, args.precision)]:
        if name.startswith("align"): out |= gold_of(work)
        if name not in done: done[name] = step(name, command, work)
        (work/"steps.json").write_text(json.dumps(done))
        if name == "import": out = described(case, args, work, about, parameters)
        if name == "train": out["environment"] = json.loads((work/"run/env.json").read_text())
        if name.startswith("align"): out[name] = told(done[name][1])
        if name.startswith("judge"): out[name] = measures(done[name][1])
        if (work/"run/results.json").exists(): out |= {k: json.loads((work/"run/results.json").read_text())[k] for k in ("seeds", "valid", "epochs")}
        plain = lambda c: {**c, "command": re.sub(r"/\S*/(?=\S)", "", c["command"])}                   # the files' names, without the folders of this machine
        yield {**out, "steps": [plain(cost) for cost, _ in done.values()]}


CASES = {"sample": sample, "mmkb": mmkb, "dbp15k": dbp15k, "synth": synth}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--data-dir", default="", help="the raw files of mmkb or dbp15k")
    parser.add_argument("--work", default="", help="a folder for the files in between, in which the same command goes on where it stopped; left out: a temporary one")
    parser.add_argument("--out", default=str(ROOT/"results/benchmarks"), help="the folder of the record")
    parser.add_argument("--precision", type=float, default=.9, help="what is asked of the sure pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--entities", type=int, default=100_000, help="synth: of each side")
    parser.add_argument("--epochs", type=int, default=10, help="of training; the sample has 30")
    parser.add_argument("--dim", type=int, default=100, help="synth: width of each modality")
    parser.add_argument("--rounds", type=int, default=1, help="in which sure pairs become anchors")
    args = parser.parse_args()
    import tempfile
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        path = Path(args.out)/f"own-{args.case}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for found in record(args.case, args, work, *CASES[args.case](args, work)):
            path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__": main()
