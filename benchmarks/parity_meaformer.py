"""Our MEAformer beside the released one: the same start, the same batches, the same losses at every step.

    git clone https://github.com/zjukg/MEAformer ../MEAformer
    python benchmarks/parity_meaformer.py --checkout ../MEAformer                              # a synthetic pair, about a minute
    python benchmarks/parity_meaformer.py --checkout ../MEAformer --data fbdb15k --batch-size 3500 --steps 3     # 15 GB of memory and some minutes a step

The released model, loss, optimiser, schedule and `Runner.train` run as they are, by the means of `bench_epoch.py` (stand-ins for its imports, `.cuda()` without a
GPU, our features in its form, random pictures where the data have none); nothing of it is copied here. Its first weights are given to `mpsea.meaformer`, both are
trained on the same batches, and every term of the loss is compared before each step, in the setting of FBDB15K and in that of DBP15K, which has the feed-forward
network. The exit code is 1 if a term ever differs by more than `--tolerance`.

What is done to the released code from outside, because it would otherwise not do what it says:
- Dropout is off on both sides: its places in the stream of random numbers differ. The weights that it takes after dropout are then those before it.
- It stacks the late states as picture, attributes, relations, graph and reads them back as graph, relations, attributes, picture, so that each late loss is
  weighed by the scalar of another modality. They are reversed before it reads them.
- Two of its six loss weights belong to no loss (names, characters), have a constant gradient, and take part in the clipping of all others. They get none.
One thing is done to ours: its step takes the released schedule's rate (a shorter one, of `--steps` steps), because ours begins one step further on.
"""
import argparse
import os
import sys

from bench_epoch import prepared, released_code, runner_of

MODALITIES = ("graph", "relation", "attribute", "image")                 # in the order of its losses
SETTINGS = {"FBDB15K": "feed_forward=false", "DBP15K": "feed_forward=true"}


def same_start(theirs, ours):
    "Give our model the first weights of the released one. Strict: none of ours is left as it was."
    import torch
    encoder, state = theirs.multimodal_encoder, {}
    state["encoders.graph.table"] = encoder.entity_emb.weight
    for i, gat in enumerate(encoder.cross_graph_model.layer_stack):
        state[f"encoders.graph.layers.{i}.w_neighbour"] = gat.w.squeeze(1)
        state[f"encoders.graph.layers.{i}.omega"] = gat.a_src_dst.unflatten(1, (2, -1)).squeeze(3)
    pairs = {f"encoders.{m}.project": fc for m, fc in zip(MODALITIES[1:], (encoder.rel_fc, encoder.att_fc, encoder.img_fc))}
    for i, layer in enumerate(encoder.fusion.fusion_layer):
        attention, at = layer.attention, f"layers.{i}"
        parts = [getattr(attention.self, n) for n in ("query", "key", "value")]
        for name in ("weight", "bias"): state[f"{at}.project.{name}"] = torch.cat([getattr(p, name) for p in parts])
        pairs.update({f"{at}.out": attention.output.dense, f"{at}.norms.0": attention.output.LayerNorm})
        if layer.config.use_intermediate:
            pairs.update({f"{at}.feed.inner": layer.intermediate.dense, f"{at}.feed.outer": layer.output.dense, f"{at}.norms.1": layer.output.LayerNorm})
    for name, linear in pairs.items(): state.update({f"{name}.weight": linear.weight, f"{name}.bias": linear.bias})
    narrow = ours.encoders["relation"].project.in_features               # its relation matrix always has 1,000 columns, the last of them empty
    state["encoders.relation.project.weight"] = state["encoders.relation.project.weight"][:, :narrow]
    state["weigh.log_variance"] = theirs.multi_loss_layer.log_vars[:4]
    ours.load_state_dict(state)


def put_right(model):
    "Take from the released model what the docstring says."
    import torch
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout): module.p = 0.
    read = model.generate_hidden_emb
    model.generate_hidden_emb = lambda hidden: read(hidden.flip(1))
    scalars = model.multi_loss_layer.log_vars
    scalars.register_hook(lambda g: g*(torch.arange(len(g), device=g.device) < len(MODALITIES)))


def listen(model):
    "The terms of the released loss, by our names; filled at each step."
    said = {}

    def joint(_, args, out):
        said.clear()
        said["joint"] = out.item()

    def weighed(_, args, out):
        which = "late" if "early" in said else "early"
        said.update({which: out.item(), **{f"{which} {m}": part.item() for m, part in zip(MODALITIES, args[0])}})
    model.criterion_cl_joint.register_forward_hook(joint)
    model.multi_loss_layer.register_forward_hook(weighed)
    return said


def step(model, optimizer, batch, rate, clip):
    "One step of ours; the terms of its loss."
    import torch
    for group in optimizer.param_groups: group["lr"] = rate
    total, report = model.loss(batch)
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return {k: v.item() for k, v in report["losses"].items()}


def cosines(theirs, ours, ids):
    "Largest difference of a cosine of two joint embeddings, when the steps are done."
    import torch
    from torch.nn.functional import normalize
    with torch.no_grad():
        a, b = (normalize(z, dim=1) for z in (theirs.eval().joint_emb_generat()[0][ids], ours.eval()(ids).joint("early")))
    return (a @ a.t() - b @ b.t()).abs().max().item()


def compare(choice, args):
    "Train both in one setting; the differences of all terms at all steps."
    import torch
    from mpsea.launch import parameters
    from mpsea.meaformer import MEAformer
    from mpsea.train import make_optimizer
    _, _, features, task, device = prepared("meaformer-style", args)
    _, config = parameters(["base", "meaformer"], options=SETTINGS[choice], heads=args.heads, dropout=0., batch_size=args.batch_size)
    with released_code(args.checkout, device) as main:
        sys.argv += ["--data_choice", choice, "--num_attention_heads", str(args.heads)]
        runner = runner_of(main, features, task.seeds, device)
        runner.optim_init(runner.args, total_step=args.steps)
        ours = MEAformer(config, features).to(device)
        same_start(runner.model, ours)
        put_right(runner.model)
        said, optimizer, apart, done = listen(runner.model), make_optimizer(ours, config), {}, 0
        print(f"\n{choice}: {len(task.seeds):,} seeds, {ours.steps(len(task.seeds))} batches an epoch, {args.heads} head(s), {SETTINGS[choice]}")
        while done < args.steps:
            for batch in list(ours.batches(task.seeds))[:args.steps - done]:
                rate, runner.train_dataloader = runner.scheduler.get_last_lr()[-1], [batch.cpu().numpy()]
                runner.train(None)
                mine, theirs = step(ours.train(), optimizer, batch, rate, config.clip), dict(said)
                for k in mine: apart.setdefault(k, []).append(abs(mine[k] - theirs[k]))
                done += 1
                print(f"step {done:3d}  rate {rate:.1e}  " + "  ".join(f"{k} {theirs[k]:.6f} {mine[k]:.6f}" for k in ("joint", "early", "late")))
        print(f"{'last step':18s}{'released':>12s}{'ours':>12s}{'largest difference of all steps':>34s}")
        for k in mine: print(f"{k:18s}{theirs[k]:12.6f}{mine[k]:12.6f}{max(apart[k]):34.1e}")
        print(f"cosines of joint embeddings after the last step{cosines(runner.model, ours, torch.unique(task.seeds)):29.1e}")
    return sum(apart.values(), [])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", required=True, help="folder with the released code of MEAformer")
    parser.add_argument("--data", default="synth", help="data set by name (mpsea data list) or a folder in a known layout")
    parser.add_argument("--data-dir", default="", help="folder with the raw files; empty: $MPSEA_DATA, else the download cache")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--batch-size", type=int, default=20, help="seed pairs in a step")
    parser.add_argument("--heads", type=int, default=1, help="attention heads of the layer")
    parser.add_argument("--seed-ratio", type=float, default=.2, help="share of the gold links used as seeds")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a term of the loss")
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.checkout, "main.py")): parser.error(f"--checkout: no main.py in {args.checkout}")
    vars(args).update(dataset=args.data, precision="fp32", image_width=16)
    apart = [d for choice in SETTINGS for d in compare(choice, args)]
    print(f"\nlargest difference {max(apart):.1e}, allowed {args.tolerance:.0e}")
    return int(not all(d <= args.tolerance for d in apart))              # a NaN is a difference


if __name__ == "__main__": sys.exit(main())
