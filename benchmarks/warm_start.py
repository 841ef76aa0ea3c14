"""A newer version of the same graphs: carrying a trained model over, beside training from scratch and beside not training at all.

    python benchmarks/warm_start.py synth                                   # minutes
    python benchmarks/warm_start.py fbdb15k --dim 100 --epochs 24 --json results/benchmarks/warm-start.json

The older version lacks 3 % of the entities of each graph (with all that is said of them), and 3 % of the other triples and values. A model is
trained on it; then the newer version, the whole pair, is aligned in several ways with the same seeds and the same test pairs. Hits@1 is with CSLS,
mean of both directions, of the last epoch, without evidence; seconds are CPU seconds of training. `hits@1` is of the older version's test pairs,
`hits@1 of new` of pairs that have an entity which the older version did not have.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np


def thinned(kg, share, rng):
    "The graph without a share of its entities, and of the statements of the others; and which entities stay."
    from mpsea.kg import Images, KnowledgeGraph, Numbers
    n = len(kg.entities)
    stay = np.sort(rng.permutation(n)[round(share * n):])
    new = np.full(n, -1)
    new[stay] = np.arange(len(stay))
    keep = lambda ids: (new[ids] >= 0).reshape(len(ids), -1).all(1) & (rng.random(len(ids)) >= share)
    t, a, v, pictured = kg.triples, kg.attribute_triples, kg.numbers, kg.pictured
    t, a, k = t[keep(t[:, [0, 2]])], a[keep(a[:, 0])], keep(v.entity)
    images = None if kg.images is None else Images(new[kg.images.entity[i := new[kg.images.entity] >= 0]], kg.images.feature[i])
    return KnowledgeGraph(kg.name, tuple(np.array(kg.entities, object)[stay]), kg.relations, np.stack([new[t[:, 0]], t[:, 1], new[t[:, 2]]], 1), kg.attributes,
                          np.stack([new[a[:, 0]], a[:, 1]], 1), kg.keys, Numbers(new[v.entity[k]], v.key[k], v.value[k], v.kind[k]), images,
                          new[pictured[new[pictured] >= 0]]), new


def older_version(pair, share, seed):
    from mpsea.kg import KGPair
    rng = np.random.default_rng(seed)
    (source, i), (target, j) = (thinned(kg, share, rng) for kg in (pair.source, pair.target))
    links = np.stack([i[pair.links[:, 0]], j[pair.links[:, 1]]], 1)
    return KGPair(source, target, links[(links >= 0).all(1)], pair.name, pair.note), np.concatenate([i, j])


def hits(state, ready, pairs):
    "Hits@1 of some pairs among the entities of the test and of these."
    from mpsea.metrics import link_ranks
    from mpsea.matching import Cosines
    from mpsea.train import embed
    (s, i), (t, j) = (np.unique(x, return_inverse=True) for x in np.concatenate([ready.task.test.numpy(), pairs]).T)
    import torch
    z = embed(state.model, torch.as_tensor(np.concatenate([s, t])), ready.config.joint)
    links, at = np.unique(np.stack([i, j], 1), axis=0, return_index=True)
    ranks = np.mean([np.asarray(r) <= 1 for r in link_ranks(Cosines(z[:len(s)], z[len(s):]), links, (ready.config.csls_k,)).values()], 0)
    asked = at >= len(ready.task.test)
    return float(ranks[~asked].mean()), float(ranks[asked].mean()) if asked.any() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", help="synth, or a data set by name")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--share", type=float, default=.03, help="of entities, and of statements, that the older version lacks")
    parser.add_argument("--entities", type=int, default=1000, help="of each synthetic graph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="", help="file to add the rows to")
    args = parser.parse_args()
    import torch
    from mpsea import newer, pipeline
    from mpsea.datasets import load
    from mpsea.explore import open_run
    from mpsea.folder import save_pair
    from mpsea.launch import parameters
    from mpsea.synth import SynthSpec, synthesise
    from mpsea.train import fit
    pair = synthesise(SynthSpec(entities=args.entities)) if args.pair == "synth" else load(args.pair, args.data_dir)
    before, new = older_version(pair, args.share, args.seed)
    base = Path(tempfile.mkdtemp())
    save_pair(before, base/"v1")
    save_pair(pair, base/"v2")
    _, config = parameters(["base", "recommended"], [], dataset=str(base/"v1"), dim=args.dim, epochs=args.epochs, seed=args.seed, seed_ratio=.2, device="cpu")
    pipeline.run(config, base/"first")
    run = open_run(base/"first")
    print("older version:", pipeline.pick_row(run.results, direction="mean")["hits@1"], flush=True)
    rows = []

    def report(way, ready, state, epochs, seconds):
        n = len(ready.pair.source.entities)
        fresh = ready.pair.joint(ready.pair.links)
        fresh = fresh[(new[fresh] < 0).any(1) & ~np.isin(fresh, torch.cat([ready.task.seeds, ready.task.valid]).numpy()).any(1)]
        whole, only_new = hits(state, ready, fresh)
        rows.append({"pair": pair.title, "way": way, "epochs": epochs, "cpu_seconds": seconds, "hits@1": whole, "hits@1 of new": only_new, "new": len(fresh),
                     "seeds": len(ready.task.seeds), "test": len(ready.task.test), "dim": args.dim, "share": args.share, "entities": n})
        print(rows[-1], flush=True)

    # the links of new entities are asked, not learned: they are taken out of the newer version
    known = (new[pair.joint(pair.links)] >= 0).all(1)
    asked = pair.links[~known]
    save_pair(type(pair)(pair.source, pair.target, pair.links[known], pair.name, pair.note), base/"v2", replace=True)
    short = newer.newer_config(run.settings, base/"v2")

    def with_all(ready):
        ready.pair = type(pair)(ready.pair.source, ready.pair.target, np.concatenate([ready.pair.links, asked]), pair.name, pair.note)
        return ready

    for near in (False, True):
        ready, state = newer.warmed(run, short, near)
        name = "neighbours' mean" if near else "own initial rows"
        report(f"carried over, not trained; new entities: {name}", with_all(ready), state, 0, 0.)
    for near in (False, True):
        ready, state = newer.warmed(run, short, near)
        name = "neighbours' mean" if near else "own initial rows"
        from mpsea.train import save_state
        save_state(state, base/"resume.pt", short)
        state = fit(ready.task, ready.features, short, base/"resume.pt")
        (base/"resume.pt").unlink()
        report(f"carried over, an eighth of the epochs; new entities: {name}", with_all(ready), state, short.epochs, state.cpu_seconds)
    for name, epochs in (("from scratch, an eighth of the epochs", short.epochs), ("from scratch", args.epochs)):
        config = short.replace(epochs=epochs, eval_every=epochs)
        state = fit(ready.task, ready.features, config)
        report(name, ready, state, epochs, state.cpu_seconds)
    if args.json:
        path = Path(args.json)
        held = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        path.write_text(json.dumps({"benchmark": "warm start", "command": " ".join(["python", *sys.argv]), "rows": held + rows}, indent=1), encoding="utf-8")


if __name__ == "__main__": main()
