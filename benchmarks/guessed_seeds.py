"""How honest the estimated precision of guessed seeds is: estimate and truth, side by side, for several numbers of seeds.

    python benchmarks/guessed_seeds.py synth world                          # no data needed
    python benchmarks/guessed_seeds.py synth world fbdb15k fbyg15k --json results/benchmarks/guessed-seeds.json

Seeds are guessed without any link (`mpsea.guesses`); the links then judge the guesses, and nothing else. Every choice in `mpsea.witness` and
`mpsea.guesses` was made on synthetic pairs and on `world`; FBDB15K and FBYG15K were looked at once, afterwards.
"""
import argparse
import json
import sys
import time

import numpy as np

SYNTH = {"synth": {}, "synth, half without partner": dict(overlap=.5), "synth, values only": dict(image_width=0),
         "synth, values only, 70 % without partner, noisy": dict(image_width=0, overlap=.3, value_noise=.5, entities=4000),
         "synth, pictures only, noisy": dict(keys=0, image_noise=1.)}


def judged(name, pair, names=False, points=20):
    from mpsea.core import DataError
    from mpsea.guesses import guess_pairs
    gold, began = set(map(tuple, pair.links.tolist())), time.perf_counter()
    found = guess_pairs(pair, names=names)
    seconds = time.perf_counter() - began
    right = np.array([tuple(p) in gold for p in found.pairs.tolist()])
    true, k = np.cumsum(right) / np.arange(1, len(right) + 1), np.unique(np.linspace(0, len(right), points + 1).astype(int)[1:])
    curve = [{"seeds": int(i), "true": float(true[i - 1]), **{n: float(x[i - 1]) for n, x in zip(("estimated", "low", "high"), found.precision)}} for i in k]
    chosen = {}
    for wanted in (.95, .9, .8):
        try: n = found.count(wanted)
        except DataError: continue
        chosen[str(wanted)] = {"seeds": n, "estimated": float(found.precision.mean[n - 1]), "true": float(true[n - 1])}
    return {"pair": name, "title": pair.title, "by": list(found.views), "guessed": len(right), "right": int(right.sum()), "confirmed": found.confirmed,
            "witness": found.witness, "links": len(pair.links), "seconds": seconds, "chosen": chosen, "curve": curve}


def pairs(asked, data_dir):
    from mpsea.datasets import load
    from mpsea.synth import SynthSpec, synthesise
    for name in asked:
        if name == "synth":
            for title, changes in SYNTH.items(): yield title, synthesise(SynthSpec(**{"entities": 1500, **changes})), False
        else: yield name, load(name, data_dir), False
        if name == "world": yield "world, with names", load(name, data_dir), True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="synth, or a data set by name")
    parser.add_argument("--data-dir", default="", help="folder with the raw files")
    parser.add_argument("--json", default="", help="file to write")
    args = parser.parse_args()
    rows = []
    for name, pair, names in pairs(args.pairs, args.data_dir):
        rows.append(row := judged(name, pair, names))
        said = ", ".join(f"at {w}: {c['seeds']} seeds, estimated {c['estimated']:.3f}, true {c['true']:.3f}" for w, c in row["chosen"].items())
        print(f"{name} ({', '.join(row['by'])}): {row['guessed']} guessed, {row['right']} right; {said}", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f: json.dump({"benchmark": "guessed seeds", "command": " ".join(["python", *sys.argv]), "rows": rows}, f, indent=1)


if __name__ == "__main__": main()
