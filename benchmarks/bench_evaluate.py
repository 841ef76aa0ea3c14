"""Time and peak memory of one full evaluation, beside the same evaluation done the usual way.

    python benchmarks/bench_evaluate.py                          # 10,277 x 10,277, width 1,200, 2 threads
    python benchmarks/bench_evaluate.py --width 3000 --threads 1

Ours: `mpsea.metrics.evaluate`: both directions, with CSLS and without, filtered ranks with the realistic tie rule.
Usual: what the released code of the peers does: one dense matrix by the default matrix product, dense CSLS, then for each test entity
one full sort of its row, in a Python loop, in both directions; with CSLS only. The sorts are timed on a subsample of the rows and
extrapolated, which the output says.
Each side runs in a process of its own, so that the peaks do not mix. The input, random embeddings, is counted in both.
"""
import argparse
import json
import resource
import subprocess
import sys
import time


def embeddings(n, width):
    import torch
    torch.manual_seed(0)
    truth, noise = torch.randn(n, width), width**.25/2      # about every second counterpart is found
    return truth + noise*torch.randn(n, width), truth + noise*torch.randn(n, width)


def ours(args):
    import numpy as np
    from mpsea.metrics import evaluate
    a, b = embeddings(args.n, args.width)
    links = np.stack([np.arange(args.n)]*2, 1)
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        rows = evaluate(a, b, links, csls=args.csls, keep=args.keep*2**20)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "all": seconds, "hits@1": rows[3]["hits@1"], "mrr": rows[3]["mrr"]}


def usual(args):
    import numpy as np
    import torch
    a, b = embeddings(args.n, args.width)
    start = time.perf_counter()
    a, b = torch.nn.functional.normalize(a), torch.nn.functional.normalize(b)
    s = a @ b.T
    r_a, r_b = torch.topk(s, args.csls, dim=1).values.mean(1), torch.topk(s.t(), args.csls, dim=1).values.mean(1)
    s = 2*s - r_a[:, None] - r_b
    dense = time.perf_counter() - start
    some = np.random.default_rng(0).choice(args.n, min(args.rows, args.n), replace=False)
    start, places = time.perf_counter(), []
    for matrix in (s, s.t()):
        for i in some:
            order = torch.sort(matrix[i], descending=True).indices
            places.append((order == int(i)).nonzero().squeeze().item())
    loop = time.perf_counter() - start
    return {"seconds": dense + loop*args.n/len(some), "dense": dense, "loop": loop, "rows": len(some),
            "hits@1": float((np.array(places[:len(some)]) == 0).mean())}


def measure(side, args):
    "Run one side in a fresh process and return its report."
    command = [sys.executable, __file__, "--side", side, *(f"--{k}={v}" for k, v in vars(args).items() if k != "side")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(args):
    print(f"{args.n:,} x {args.n:,}, width {args.width:,}, CSLS k = {args.csls}, {args.threads} threads; best of {args.repeat} for ours")
    mine, theirs = measure("ours", args), measure("usual", args)
    for name, side, what in (
            ("mpsea.metrics.evaluate", mine, f"k = 0 and {args.csls}; Hits@1 {mine['hits@1']:.3f}"),
            ("dense, one sort a row", theirs, f"k = {args.csls} only; Hits@1 {theirs['hits@1']:.3f} on {theirs['rows']:,} rows")):
        print(f"{name:24s} {side['seconds']:7.2f} s   peak {side['peak_mb']:6,.0f} MB (before the call {side['base_mb']:,.0f} MB)   "
              f"both directions, {what}")
    print(f"  of it {theirs['dense']:.2f} s for the dense matrix (measured) and {theirs['seconds'] - theirs['dense']:.2f} s for the sorts "
          f"(extrapolated from {theirs['rows']:,} of {args.n:,} rows)")
    print(f"ratio                    {theirs['seconds']/mine['seconds']:7.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_277, help="entities on each side")
    parser.add_argument("--width", type=int, default=1_200, help="width of the embeddings")
    parser.add_argument("--csls", type=int, default=3, help="neighbours of the CSLS correction, 1 or more")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--keep", type=int, default=512, help="MiB of cosines that may be kept; 0 computes them twice")
    parser.add_argument("--rows", type=int, default=300, help="rows that the usual way is timed on")
    parser.add_argument("--repeat", type=int, default=3, help="evaluations, the best of which counts")
    parser.add_argument("--side", choices=("ours", "usual"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.side: return report(args)
    import torch
    torch.set_num_threads(args.threads)
    embeddings(args.n, args.width)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"ours": ours, "usual": usual}[args.side](args)
    print(json.dumps({**found, "base_mb": base/1024, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024}))


if __name__ == "__main__": main()
