"""Time and peak memory of one training epoch and of one full evaluation, beside the released code of MEAformer.

    python benchmarks/bench_epoch.py                                       # FBDB15K, 20 % seeds, 2 threads
    python benchmarks/bench_epoch.py --dataset synth --method mpsea        # a few seconds, to see that it works
    python benchmarks/bench_epoch.py --meaformer ../MEAformer --json OUT   # and the released code, and the ratio

An epoch is one pass over the seeds: forward, losses, backward, clipping, AdamW. An evaluation embeds the test entities and ranks them all,
both directions. Epochs before the first measured one are warm-up. Each side runs in a process of its own, so that the peaks do not mix.

`--meaformer` names a checkout of https://github.com/zjukg/MEAformer (nothing of it is copied here). What runs is its own `Runner.train` and
`Runner._test`, with the options of its `run_meaformer.sh` for FBDB15K, on our graph, our bags of words, our seeds and our test pairs. Its
readers are left out, and so are its data loader's workers. It runs in 32-bit, which is what it does. What it needs is stood in for:
- without a GPU `.cuda()` does nothing while it runs: it assumes one;
- what it imports and hardly uses comes from `stand_ins`, installed or not, so that its peak does not contain other people's libraries;
- it cannot do without pictures: where the data have none, it gets a narrow random matrix, and MPSEA in its style gets the same one.
"""
import argparse
import builtins
import contextlib
import importlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
import types

MEAFORMER_STYLE = dict(gat="diag", projections="shared", graph_branch="token", weighting="symmetric", joint="early", prefix="",
                       rl_weight=0., activation="gelu", heads=1, visual_ffn="plain", modalities="graph,relation,attribute,image")
RUN_MEAFORMER = """--batch_size 3500 --epoch 500 --lr 5e-4 --hidden_units 300,300,300 --csls --csls_k 3 --random_seed 42
 --accumulation_steps 1 --scheduler cos --attr_dim 300 --img_dim 300 --name_dim 300 --char_dim 300 --hidden_size 300 --tau 0.1
 --structure_encoder gat --num_attention_heads 1 --num_hidden_layers 1 --use_surface 0 --use_intermediate 1 --enable_sota --replay 0
 --data_choice FBDB15K --data_split norm --no_tensorboard"""
VGG = 4096      # width of VGG-16's fc7
SIDES = {       # name: title, changes of the defaults, width of the random pictures where the data have none (None: --image-width)
    "mpsea": ("MPSEA, literal defaults", {}, 0),
    "mpsea-images": (f"  with {VGG:,}-d pictures", {}, VGG),
    "meaformer-style": ("MPSEA, MEAformer-style", MEAFORMER_STYLE, None),
    "released": ("MEAformer, released code", MEAFORMER_STYLE, None),
}


def peak():
    "Largest resident memory of this process so far, MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == "darwin" else 2**10)


def prepared(side, args):
    "Configuration, pair, features and task of a side; random pictures where it wants some and the data have none."
    import inspect
    from dataclasses import replace

    import torch
    from mpsea.config import Config
    from mpsea.core import Modality, pick_device
    from mpsea.datasets import load
    from mpsea.features import build_features
    from mpsea.train import make_task
    _, changes, width = SIDES.get(side) or SIDES["mpsea"]
    chosen = {k: getattr(args, k) for k in ("dataset", "data_dir", "seed_ratio", "precision", "device")}
    config = Config(**chosen, **changes)
    device, pair = pick_device(config.device), load(config.dataset, config.data_dir)
    said = {k: getattr(config, k) for k in inspect.signature(build_features).parameters if k != "pair"}
    features, width = build_features(pair, **said), args.image_width if width is None else width
    if width and features.image is None:
        torch.manual_seed(0)
        image = torch.nn.functional.normalize(torch.randn(features.num_entities, width))
        features = replace(features, image=image, present={**features.present, Modality.IMAGE: torch.ones(len(image), dtype=torch.bool)})
    return config, pair, features.to(device), make_task(pair, config, device), device


def timed(call, times):
    "Seconds of each call."
    import torch
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available(): torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(side, args):
    "Epochs and evaluations of `mpsea.train`."
    from mpsea.train import start, test_rows, train_epoch, wants_bf16
    config, _, features, task, device = prepared(side, args)
    loaded, bf16 = peak(), wants_bf16(config, device)
    state = start(config, features, task)
    total = config.epochs*math.ceil(len(task.seeds)/config.batch_size)
    epoch = lambda: train_epoch(state, config, total, bf16)
    timed(epoch, args.warmup)
    seconds = timed(epoch, args.epochs)
    trained = peak()
    return {"epoch": seconds, "evaluation": timed(lambda: test_rows(state.model, task, config), args.evaluations), "loaded_mb": loaded,
            "trained_mb": trained, "precision": "bf16" if bf16 else "fp32", "modalities": [m.value for m in state.model.modalities]}


def data(side, args):
    "What is measured on; reads the files once, so that the other sides find the pair in the cache."
    from mpsea.runs import environment
    _, pair, features, task, device = prepared(side, args)
    return {"environment": environment(pair.title, pair.fingerprint(), device, args.threads),
            "entities": [features.num_source, features.num_target], "edges": features.graph.num_edges,
            "seeds": len(task.seeds), "test": len(task.test), "pictures": features.image is not None}


# What follows runs MEAformer's released code.

def stand_ins():
    "Modules by name: what the released code imports beyond torch, numpy and scipy. Of these it uses the schedule and the Namespace here."
    import torch

    def cosine(optimizer, num_warmup_steps, num_training_steps):
        def rate(step):
            if step < num_warmup_steps: return step/max(num_warmup_steps, 1)
            return .5*(1 + math.cos(math.pi*min((step - num_warmup_steps)/max(num_training_steps - num_warmup_steps, 1), 1)))
        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    def whole(forward, chunk_size, chunk_dim, *tensors):      # the released code never asks for chunks
        return forward(*tensors)

    names = {
        "transformers": dict(BertTokenizer=None, get_cosine_schedule_with_warmup=cosine, get_linear_schedule_with_warmup=None),
        "transformers.activations": dict(ACT2FN={"gelu": torch.nn.functional.gelu}),
        "transformers.pytorch_utils": dict(apply_chunking_to_forward=whole),
        "easydict": dict(EasyDict=types.SimpleNamespace),     # of paths
        "unidecode": dict(unidecode=None),                    # of names
        "torch.utils.tensorboard": dict(SummaryWriter=None),
    }
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items(): vars(module).update(names[name])
    return modules


@contextlib.contextmanager
def released_code(path, device):
    "The released `main` module, importable and runnable on the device; everything is put back at the end."
    import torch
    stay, kept = (lambda self, *_, **__: self), [(c, c.cuda) for c in (torch.Tensor, torch.nn.Module)]
    stood, argv = stand_ins(), sys.argv
    before = {name: sys.modules.get(name) for name in stood}
    if device.type == "cpu":
        for c, _ in kept: c.cuda = stay
    sys.modules.update(stood)
    sys.path.insert(0, os.path.abspath(path))
    sys.argv = ["main.py", *RUN_MEAFORMER.split()]
    try: yield importlib.import_module("main")
    finally:
        sys.argv = argv
        sys.path.pop(0)
        for name, module in before.items():
            if module is None: del sys.modules[name]
            else: sys.modules[name] = module
        for c, cuda in kept: c.cuda = cuda


def as_released(features):
    "Our features in the released code's form: its relation matrix has 1,000 columns, its adjacency is read for its indices alone."
    import torch
    features = features.to("cpu")                             # it moves everything itself
    n, graph, empty = features.num_entities, features.graph, torch.zeros(features.num_entities, 0)
    relation, attribute = (empty if x is None else x for x in (features.relation, features.attribute))
    wide = lambda x, width: torch.nn.functional.pad(x, (0, width - x.shape[1]))
    adjacency = torch.sparse_coo_tensor(torch.stack([graph.row, graph.col]), torch.ones(len(graph.col)), (n, n), is_coalesced=True)
    return {"ent_num": n, "input_idx": torch.arange(n), "adj": adjacency, "images_list": features.image.numpy(),
            "rel_features": wide(relation, 1000), "att_features": wide(attribute, max(attribute.shape[1], 1)),
            "name_features": None, "char_features": None}


def runner_of(main, features, seeds, device):
    "The released `Runner`, past its readers and its data loader: one epoch is every batch in `train_dataloader`."
    import torch
    options = main.cfg()
    options.get_args()
    options = options.update_train_configs()
    options.device = device
    main.set_seed(options.random_seed)
    runner, silent = main.Runner.__new__(main.Runner), types.SimpleNamespace(info=lambda *_: None, add_scalars=lambda *_: None)
    model = main.MEAformer(as_released(features), options).cuda()
    batches = [b.cpu().numpy() for b in seeds[torch.randperm(len(seeds))].split(options.batch_size)]
    vars(runner).update(args=options, rank=0, writer=silent, logger=silent, scaler=main.GradScaler(), model=model, model_list=[model],
                        train_dataloader=batches, loss_log=main.Loss_log(), curr_loss=0., curr_loss_dic=main.defaultdict(float), step=1,
                        epoch=0, loss_item=0., early_stop_count=1, early_stop_init=1)
    runner.optim_init(options, total_epoch=options.epoch)
    return runner


def first(rows, left_out):
    "A `range` that stops after `rows`, and notes how long the rest would have taken."
    def few(n):
        start = time.perf_counter()
        yield from builtins.range(min(n, rows))
        if n > rows: left_out.append((time.perf_counter() - start)*(n/rows - 1))
    return few


def released(side, args):
    "Steps and one evaluation of the released code."
    config, pair, features, task, device = prepared(side, args)
    with released_code(args.meaformer, device) as main:
        runner, loaded = runner_of(main, features, task.seeds, device), peak()
        del pair, features                                    # it has its own by now
        runner.train_dataloader, batches = runner.train_dataloader[:1], len(runner.train_dataloader)
        seconds = [s*batches for s in timed(lambda: runner.train(None), args.steps)]
        trained, left_out = peak(), []
        if args.rows: main.range = first(args.rows, left_out)
        runner.model.eval()
        evaluation = timed(lambda: runner._test(task.test[:, 0], task.test[:, 1]), 1)[0] + sum(left_out)
    from mpsea.runs import git_commit
    return {"epoch": seconds, "batches": batches, "evaluation": [evaluation], "rows": min(args.rows or len(task.test), len(task.test)),
            "loaded_mb": loaded, "trained_mb": trained, "precision": "fp32", "modalities": list(config.modality_list),
            "commit": git_commit(args.meaformer)}


# The report.

def measure(side, args):
    "Run one side in a fresh process and return its report, or None when it failed."
    command = [sys.executable, __file__, "--side", side, *(f"--{k.replace('_', '-')}={v}" for k, v in vars(args).items() if k != "side")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "MPSEA_PROGRESS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 0: return json.loads(done.stdout.splitlines()[-1])
    why = "killed; not enough memory?" if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
    print(f"{side} failed: {why}", file=sys.stderr)


def row(title, found):
    "One line of the table."
    spread = lambda s: f"{min(s):8.2f} {statistics.median(s):8.2f} {max(s):8.2f}"
    memory = f"{found['peak_mb']:8,.0f} {found['loaded_mb']:8,.0f}"
    return f"{title:26s}{spread(found['epoch'])}  {spread(found['evaluation'])}  {memory}   {found['precision']}"


def footnotes(args, about, found):
    "What has to be known to read the table."
    for side, f in found.items(): yield f"{SIDES[side][0].strip()}: {', '.join(f['modalities'])}"
    if not about["pictures"] and {"meaformer-style", "released"} & set(found):
        yield f"the data have no pictures: the MEAformers got {args.image_width} random numbers an entity instead"
    theirs = found.get("released")
    if not theirs: return
    yield f"released code: {len(theirs['epoch'])} training step(s), the first included; evaluation once, with CSLS only"
    if theirs["batches"] > 1: yield f"  its epoch is {theirs['batches']} steps, extrapolated from one"
    if theirs["rows"] < about["test"]:
        yield f"  its evaluation is extrapolated from {theirs['rows']:,} of {about['test']:,} rows in each direction"


def ratios(found):
    "How many times the time and the memory of each of ours the released code takes, by medians."
    theirs, middle = found.get("released"), statistics.median
    if not theirs: return {}
    times = lambda f: {k: middle(theirs[k])/middle(f[k]) for k in ("epoch", "evaluation")}
    return {side: {**times(f), "peak": theirs["peak_mb"]/f["peak_mb"]} for side, f in found.items() if side != "released"}


def report(args):
    about = measure("data", args)
    if about is None: return 1
    env, (left, right) = about["environment"], about["entities"]
    print(f"{env['data']['title']}\n{left:,} + {right:,} entities, {about['edges']:,} directed edges with loops, {about['seeds']:,} seeds, "
          f"{about['test']:,} test pairs\n{env['device_name']}, {args.threads} threads, torch {env['versions']['torch']}; "
          f"{args.warmup} epoch(s) of warm-up\n\n{'':26s}{'one epoch, s':>26s}  {'one evaluation, s':>26s}  {'memory, MB':>17s}")
    print(f"{'':26s}" + f"{'min':>8s} {'median':>8s} {'max':>8s}  "*2 + f"{'peak':>8s} {'loaded':>8s}", flush=True)
    same = {"released"} | ({"mpsea-images"} if about["pictures"] else set())      # with pictures in the data, plain MPSEA has them already
    mine = [args.method] if args.method != "all" else [s for s in SIDES if s not in same]
    wanted = mine + ["released"]*bool(args.meaformer)
    found = {}
    for side in wanted:
        result = measure(side, args)
        if result is None: continue
        found[side] = result
        print(row(SIDES[side][0], result), flush=True)
    compared = ratios(found)
    for side, r in compared.items():
        print(f"released / {side:15s}{'':9s}{r['epoch']:8.1f} {'':8s}  {'':8s} {r['evaluation']:8.1f} {'':8s}  {r['peak']:8.1f}")
    notes = list(footnotes(args, about, found))
    print("\n" + "\n".join(notes))
    if args.json:
        from mpsea.core import write_json
        options = {k: v for k, v in vars(args).items() if k not in ("side", "json", "data_dir", "meaformer")}      # no paths
        write_json(args.json, {"benchmark": "epoch", "options": options, **about, "sides": found, "ratios": compared, "notes": notes})
    return int(len(found) < len(wanted))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fbdb15k", help="data set by name (mpsea data list) or a folder in a known layout")
    parser.add_argument("--data-dir", default="", help="folder with the raw files; empty: $MPSEA_DATA, else the download cache")
    parser.add_argument("--seed-ratio", type=float, default=.2, help="share of the gold links used as seeds")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="auto", help="torch device; auto takes the GPU where there is one")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                        help="of our large products; auto: bf16 where the hardware has it")
    parser.add_argument("--method", choices=("all", *(s for s in SIDES if s != "released")), default="all", help="which of ours to measure")
    parser.add_argument("--epochs", type=int, default=5, help="measured epochs")
    parser.add_argument("--warmup", type=int, default=1, help="epochs before them")
    parser.add_argument("--evaluations", type=int, default=3, help="measured evaluations")
    parser.add_argument("--image-width", type=int, default=16, help="width of the MEAformers' random pictures, where the data have none")
    parser.add_argument("--meaformer", default="", help="folder with the released code of MEAformer, to be measured too")
    parser.add_argument("--steps", type=int, default=1, help="measured training steps of the released code")
    parser.add_argument("--rows", type=int, default=0, help="rows its evaluation is timed on, in each direction; 0: all of them")
    parser.add_argument("--json", default="", help="file for the numbers and the environment")
    parser.add_argument("--side", choices=("data", *SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rows and args.rows < 10: parser.error("--rows wants at least 10")
    if args.meaformer and not os.path.isfile(os.path.join(args.meaformer, "main.py")):
        parser.error(f"--meaformer: no main.py in {args.meaformer}")
    if not args.side: return report(args)
    import torch
    torch.set_num_threads(args.threads)
    found = {"data": data, "released": released}.get(args.side, ours)(args.side, args)
    gpu = {"peak_gpu_mb": torch.cuda.max_memory_allocated()/2**20} if torch.cuda.is_available() else {}
    print(json.dumps({**found, "peak_mb": peak(), **gpu}))


if __name__ == "__main__": sys.exit(main())
