"""Pictures per second of `mpsea images`, beside a plain loop over PIL and torchvision.

    python benchmarks/bench_images.py                                    # 64 photographs of 2 megapixels, efficientnet_lite0
    python benchmarks/bench_images.py --backbone vgg16 --pictures 24 --json results/benchmarks/images.json

Ours: `mpsea.pictures.add_images`: fingerprints, decoding, network, averages, the folder; then the same again with everything known.
Plain: for each picture of each entity: `PIL.Image.open`, RGB, squeezed to the network's square, `to_tensor`, `normalize`, the network
on one picture, numpy; as most scripts for such features do.
The same weights for both: those of the package for efficientnet_lite0, random ones for a network of torchvision (the time does not depend
on them). The pictures are made here: smooth noise, as JPEG; a share of them occurs twice, as pictures of entities do, and counts in both.
The sides take turns in one process. Wall time and the processor time of the process are both given: what else runs on the machine changes
the first much and the second little, so long as each side has one thread (`--threads 1`; threads that wait for each other spin).
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["MPSEA_PROGRESS"] = "0"


def make_files(folder, args):
    "Two graphs, their pictures, and the pair that an import makes of them."
    import numpy as np
    from mpsea.importing import import_pair
    from PIL import Image
    rng, data = np.random.default_rng(0), []
    for _ in range(args.pictures):
        coarse = Image.fromarray(rng.integers(0, 256, (args.height // 20, args.width // 20, 3), np.uint8))
        data.append(coarse.resize((args.width, args.height), Image.Resampling.BICUBIC))
    again = int(args.pictures * args.twice)
    for side, images in (("a", data), ("b", data[:again])):
        (folder/side).mkdir(parents=True)
        for i, image in enumerate(images): image.save(folder/side/f"{side}{i}.jpg", quality=90)
        (folder/side/"t.csv").write_text("head,relation,tail\n" + "".join(f"{side}{i},in,{side}0\n" for i in range(1, args.pictures)))
    (folder/"links.csv").write_text("".join(f"a{i},b{i}\n" for i in range(args.pictures)))
    import_pair(folder/"a", folder/"b", folder/"links.csv", progress=False).save(folder/"pair")
    return sorted(folder.rglob("*.jpg"))


def weights_for(args, folder):
    "A file of weights; nothing is downloaded."
    if args.backbone == "efficientnet_lite0": return ""
    import torch
    from torchvision.models import get_model
    torch.manual_seed(0)
    torch.save(get_model(args.backbone).state_dict(), folder/"weights.pth")
    return str(folder/"weights.pth")


def plain_loop(paths, known, device):
    "One picture at a time."
    import numpy as np
    import torch
    from mpsea.backbones import last_linear, read_weights
    from PIL import Image
    from torchvision.transforms import functional as F
    net = known.make()
    net.load_state_dict(read_weights(known.file))
    if known.name != "efficientnet_lite0": net.set_submodule(last_linear(net), torch.nn.Identity())
    net, out = net.eval().to(device), []
    with torch.no_grad():
        for path in paths:
            image = Image.open(path).convert("RGB").resize((known.side, known.side), Image.Resampling.BICUBIC)
            x = F.normalize(F.to_tensor(image), known.mean, known.std)
            out.append(net(x[None].to(device))[0].cpu().numpy())
    return np.stack(out)


def timed(run):
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure(args, folder):
    import numpy as np
    import torch
    from mpsea.backbones import find_backbone
    from mpsea.core import pick_device
    from mpsea.pictures import add_images
    if args.threads: torch.set_num_threads(args.threads)
    paths, weights, device = make_files(folder, args), weights_for(args, folder), pick_device(args.device)
    known, sides = find_backbone(args.backbone, weights), {"plain": [], "ours": [], "again": []}
    for turn in range(args.repeat):
        os.environ["MPSEA_CACHE"] = str(folder/f"cache{turn}")
        theirs, spent = timed(lambda: plain_loop(paths, known, device))
        sides["plain"].append(spent)
        for side in ("ours", "again"):
            found, spent = timed(lambda: add_images(folder/"pair", args.backbone, weights, device=args.device, workers=args.threads, progress=False))
            sides[side].append(spent)
    mine = found.pair.source.images.feature
    theirs = np.stack([f for p, f in zip(paths, theirs) if p.parent.name == "a"])
    order = np.argsort([p.stem for p in paths if p.parent.name == "a"])
    cosine = (mine * theirs[order]).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    return sides, len(paths), float(cosine.min()), found


def report(args):
    with tempfile.TemporaryDirectory() as d: sides, n, cosine, found = measure(args, Path(os.path.realpath(d)))
    best = {s: {k: min(t[k] for t in times) for k in times[0]} for s, times in sides.items()}
    print(f"{n} pictures of {args.width} x {args.height}, {args.twice:.0%} of the first {args.pictures} twice; {args.backbone}, best of {args.repeat}")
    for side, name in (("plain", "plain loop"), ("ours", "mpsea images"), ("again", "  the second time")):
        b = best[side]
        print(f"{name:20s}{b['seconds']:8.2f} s {n / b['seconds']:8.1f} pictures/s   processor {b['cpu_seconds']:8.2f} s")
    ratios = {k: best["plain"][k] / best["ours"][k] for k in ("seconds", "cpu_seconds")}
    print(f"ratio               {ratios['seconds']:8.2f} by the clock, {ratios['cpu_seconds']:.2f} by processor time; features agree to a cosine of {cosine:.4f}")
    if args.json:
        import torch
        from mpsea.core import pick_device, read_json, write_json
        from mpsea.runs import environment
        env = environment(f"{args.pictures} made pictures of {args.width} x {args.height}", "", pick_device(args.device), args.threads or torch.get_num_threads())
        options = {k: v for k, v in vars(args).items() if k not in ("json", "load")}
        before = read_json(args.json)["measured"] if Path(args.json).exists() else []
        row = {"options": options, "pictures": n, "sides": sides, "best": best, "ratios": ratios, "least_cosine": cosine, "load_before": args.load, "environment": env}
        write_json(args.json, {"benchmark": "images", "measured": [r for r in before if r["options"] != options] + [row]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_lite0", help="see mpsea images --help")
    parser.add_argument("--pictures", type=int, default=64, help="how many different ones")
    parser.add_argument("--width", type=int, default=1600, help="pixels")
    parser.add_argument("--height", type=int, default=1200, help="pixels")
    parser.add_argument("--twice", type=float, default=.1, help="share of the pictures that occur twice")
    parser.add_argument("--device", default="auto", help="torch device; auto takes the GPU where there is one")
    parser.add_argument("--threads", type=int, default=0, help="threads of both sides; 0: one a core")
    parser.add_argument("--repeat", type=int, default=3, help="turns, the best of which counts")
    parser.add_argument("--json", default="", help="file that the numbers are added to")
    args = parser.parse_args()
    args.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    report(args)


if __name__ == "__main__": sys.exit(main())
