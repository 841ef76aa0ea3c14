"""Pictures of one's own: whatever a file is, it becomes a feature or a line in the report; a process that is killed loses nothing that was finished."""
import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from mpsea import pictures
from mpsea.backbones import Backbone, find_backbone, load_network
from mpsea.cli import main
from mpsea.core import DataError
from mpsea.decoding import FORMATS, MAX_BYTES, decode, squeeze
from mpsea.features import build_features
from mpsea.folder import load_pair, read_manifest, sha256, update_pair, write_table
from mpsea.images import MISSING_IMAGE
from mpsea.importing import import_pair
from mpsea.pictures import REPORT, add_images, picture_news

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:.torch.jit:FutureWarning")        # about odd metadata
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def photo(seed=0, size=(40, 30)):
    "Smooth noise."
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))


@pytest.fixture(autouse=True)
def small_network(tmp_path, monkeypatch):
    "A cache of one's own, and a network of one layer under the name `tiny`."
    monkeypatch.setenv("MPSEA_CACHE", str(tmp_path/"cache"))
    torch.manual_seed(0)
    torch.save(tiny().state_dict(), tmp_path/"tiny.pth")
    real = pictures.find_backbone
    known = Backbone("tiny", tiny, tmp_path/"tiny.pth", sha256(tmp_path/"tiny.pth"), 224, (.5,) * 3, (.25,) * 3)
    monkeypatch.setattr(pictures, "find_backbone", lambda name, *rest: known if name == "tiny" else real(name, *rest))
    return known


def make_pair(folder, files, entities=6, more=""):
    "Two graphs in which everything is in a0 and b0, pictures named by entity, imported."
    for side in "ab":
        (folder/side).mkdir(parents=True)
        (folder/side/"triples.nt").write_text("".join(f"<http://x/{side}{i}> <http://x/in> <http://x/{side}0> .\n" for i in range(1, entities)) + more.replace("SIDE", side))
    for name, data in files.items(): (folder/name[0]/name).write_bytes(data)
    (folder/"links.tsv").write_text("".join(f"http://x/a{i}\thttp://x/b{i}\n" for i in range(entities)))
    import_pair(folder/"a", folder/"b", folder/"links.tsv", progress=False).save(folder/"pair")
    return folder/"pair"


def report(folder): return {os.path.basename(r.path): (r.entity, r.used, r.reason) for r in pd.read_csv(folder/REPORT, sep="\t").itertuples()}


# ---------------------------------------------------------------- arbitrary files

@quick
@given(st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from([encoded(photo(), f)[:n] for f in FORMATS for n in (12, 40)]), st.binary(max_size=300)).map(b"".join)))
def test_arbitrary_bytes_are_a_picture_or_an_error_of_ours(data):
    try: assert decode(data).shape == (224, 224, 3)
    except DataError as e: assert e.message


@quick
@given(data=st.data(), format=st.sampled_from(list(FORMATS)))
def test_damaged_pictures_are_a_picture_or_an_error_of_ours(data, format):
    whole = bytearray(encoded(photo(), format))
    for _ in range(data.draw(st.integers(1, 4))): whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try: assert decode(bytes(whole[:data.draw(st.integers(0, len(whole)))])).dtype == np.uint8
    except DataError as e: assert e.message


# ---------------------------------------------------------------- hostile files

def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
def png(width, height, data=b""): return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_that_claims(width, height):
    data = bytearray(encoded(photo(), "JPEG", progressive=True))
    at = data.index(b"\xff\xc2") + 5
    data[at:at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


HOSTILE = {
    "a1.png": (png(100_000, 100_000), "too large"),
    "a2.png": (png(90_000, 90_000, zlib.compress(bytes(1 << 20))), "too large"),
    "a3.jpg": (jpeg_that_claims(65_000, 65_000), "too large"),
    "a4.gif": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + struct.pack("<HH", 65_535, 65_535) + b"\0\x02\0;", "too large"),
    "b1.jpg": (encoded(photo(size=(200, 200)), "JPEG")[:-3000], "broken"),
    "b2.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "SVG"),
    "b3.png": (b"<html>404 not found</html>", "not a picture"),
    "b4.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch was-here) (r) file\n", "not a picture"),
    "b5.jpg": (b"", "empty"),
}


def test_hostile_files_are_listed_and_cost_no_memory(tmp_path):
    good = {"a5.png": encoded(photo(1)), "b0.jpg": encoded(photo(2), "PNG")}
    folder = make_pair(tmp_path/"x", {**{n: d for n, (d, _) in HOSTILE.items()}, **good})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = add_images(folder, "tiny", progress=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000       # KB
    said = report(folder)
    assert set(said) == {*HOSTILE, "b0.jpg"} and said["b0.jpg"] == ("http://x/b0", "yes", "named .jpg, and is PNG")
    for name, (_, why) in HOSTILE.items(): assert said[name][1] == "no" and why in said[name][2], (name, said[name])
    assert found.pair.source.images.entity.tolist() == [5] and found.pair.target.images.entity.tolist() == [0]
    assert not (tmp_path/"was-here").exists()


def test_paths_that_lead_elsewhere_are_listed(tmp_path):
    "A folder that somebody else made, or files that were exchanged after the import."
    folder = make_pair(tmp_path/"x", {f"a{i}.png": encoded(photo(i)) for i in range(5)})
    at = {i: tmp_path/"x"/"a"/f"a{i}.png" for i in range(5)}
    (tmp_path/"secret.png").write_bytes(encoded(photo(9)))
    at[0].unlink(); at[0].symlink_to(tmp_path/"secret.png")
    at[1].unlink(); os.mkfifo(at[1])
    at[2].unlink(); at[2].mkdir()
    os.truncate(at[3], MAX_BYTES * 1000)                                              # sparse
    found = add_images(folder, "tiny", progress=False)
    said = [why for _, _, why in report(folder).values()]
    assert [w in s for w, s in zip(("symbolic link", "not a regular file", "directory", "a picture may have"), said)] == [True] * 4
    rows = {"entity": np.arange(5, dtype=np.int32), "path": ["/dev/zero", "/etc/passwd", "../../secret.png", "a\nb\x1b[31m.png", str(at[4])], "local": [True] * 5}
    update_pair(folder, {"source/pictures.parquet": lambda p: write_table(rows, p)})
    found = add_images(folder, "tiny", progress=False)
    assert found.pair.source.images.entity.tolist() == [4]
    text = (folder/REPORT).read_text()
    assert "\x1b" not in text and text.count("\n") == 5


def test_pictures_of_entities_that_do_not_exist_are_an_error(tmp_path):
    folder = make_pair(tmp_path/"x", {"a1.png": encoded(photo())})
    rows = {"entity": np.array([99], np.int32), "path": [str(tmp_path/"x"/"a"/"a1.png")], "local": [True]}
    update_pair(folder, {"source/pictures.parquet": lambda p: write_table(rows, p)})
    with pytest.raises(DataError): add_images(folder, "tiny", progress=False)
    assert load_pair(folder).source.images is None


# ---------------------------------------------------------------- what it computes

def test_features_are_those_of_a_plain_loop_averaged(tmp_path):
    files = {"a1.png": encoded(photo(1)), "a1_2.jpg": encoded(photo(2), "JPEG"), "a1_3.png": encoded(photo(1)), "b2.webp": encoded(photo(3), "WEBP"), "b3.png": encoded(photo(1))}
    folder = make_pair(tmp_path/"x", files)
    add_images(folder, "efficientnet_lite0", progress=False)
    known = find_backbone("efficientnet_lite0")
    net, mean, std = load_network(known), torch.tensor(known.mean), torch.tensor(known.std)
    def plain(data):
        x = torch.from_numpy(np.array(squeeze(Image.open(io.BytesIO(data))))).float() / 255
        with torch.inference_mode(): return net(((x - mean) / std).permute(2, 0, 1)[None])[0].numpy()
    one, two, three = (plain(files[n]) for n in ("a1.png", "a1_2.jpg", "b2.webp"))
    pair = load_pair(folder)
    np.testing.assert_allclose(pair.source.images.feature, [(one + two) / 2], atol=2e-3)
    np.testing.assert_allclose(pair.target.images.feature, [three, one], atol=2e-3)


def test_a_gpu_gets_batches_from_threads_that_only_decode(tmp_path, monkeypatch):
    "The way that a GPU takes, with the processor in its place."
    from types import SimpleNamespace
    folder = make_pair(tmp_path/"x", {f"{s}{i}.png": encoded(photo(9 * i + ord(s))) for s in "ab" for i in range(5)})
    cpu = add_images(folder, "tiny", device="cpu", progress=False).pair.source.images.feature
    make = pictures.Describer.__init__
    monkeypatch.setattr(pictures.Describer, "__init__", lambda self, known, device: make(self, known, torch.device("cpu")))
    monkeypatch.setattr(pictures, "pick_device", lambda name: SimpleNamespace(type="cuda"))
    monkeypatch.setenv("MPSEA_CACHE", str(tmp_path/"other"))
    import_pair(tmp_path/"x"/"a", tmp_path/"x"/"b", tmp_path/"x"/"links.tsv", progress=False).save(folder, replace=True)
    found = add_images(folder, "tiny", progress=False)
    assert found.fresh == 10
    np.testing.assert_allclose(found.pair.source.images.feature, cpu, atol=1e-5)


def test_vgg16_with_weights_of_a_file(tmp_path):
    "Its published weights need a connection; the way of a file is the same with any."
    from torchvision.models import vgg16
    with torch.device("meta"): shapes = {n: p.shape for n, p in vgg16().state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    torch.save({n: torch.randn(s, generator=rng) / max(s[1:].numel(), 1)**.5 for n, s in shapes.items()}, tmp_path/"vgg.pth")
    folder = make_pair(tmp_path/"x", {"a1.png": encoded(photo(1)), "b1.png": encoded(photo(2))})
    assert main(["images", str(folder), "--weights", str(tmp_path/"vgg.pth"), "--device", "cpu"]) == 0
    feature = load_pair(folder).source.images.feature
    assert feature.shape == (1, 4096) and (feature >= 0).all() and feature.any()
    assert read_manifest(folder)["images"]["weights"] == sha256(tmp_path/"vgg.pth")


def test_from_files_to_a_trained_model(tmp_path, capsys):
    "Pictures by name, by a link to a file, and by address: import, images, check, train."
    from mpsea.config import Config
    from mpsea.pipeline import run
    more = "".join(f'<http://x/SIDE{i}> <http://x/near> <http://x/SIDE{i - 1}> .\n' for i in range(2, 30))
    more += '<http://x/SIDE20> <http://xmlns.com/foaf/0.1/depiction> "photos/twenty.png" .\n<http://x/SIDE21> <http://xmlns.com/foaf/0.1/depiction> <http://elsewhere/21.png> .\n'
    files = {f"{s}{i}.png": encoded(photo(i)) for s in "ab" for i in range(1, 18)}
    for side in "ab": (tmp_path/"x"/side/"photos").mkdir(parents=True); (tmp_path/"x"/side/"photos"/"twenty.png").write_bytes(encoded(photo(99)))
    for side in "ab": (tmp_path/"x"/side/"triples.nt").write_text("".join(f"<http://x/{side}{i}> <http://x/in> <http://x/{side}0> .\n" for i in range(1, 30)) + more.replace("SIDE", side))
    for name, data in files.items(): (tmp_path/"x"/name[0]/name).write_bytes(data)
    (tmp_path/"links.tsv").write_text("".join(f"http://x/a{i}\thttp://x/b{i}\n" for i in range(30)))
    folder = tmp_path/"pair"
    assert main(["import", "--source", str(tmp_path/"x"/"a"), "--target", str(tmp_path/"x"/"b"), "--links", str(tmp_path/"links.tsv"), "--out", str(folder)]) == 0
    assert f"next: mpsea images {folder}" in capsys.readouterr().out
    assert "36 of 38 pictures" not in " ".join(picture_news(folder)) and "no features of them yet" in picture_news(folder)[0]
    assert main(["images", str(folder), "--backbone", "tiny", "--device", "cpu"]) == 0
    assert "2 left out" in capsys.readouterr().out
    assert main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "36 of 38 pictures have features of tiny" in said and "no images" not in said
    pair = load_pair(folder)
    for rule in MISSING_IMAGE:                                                        # entities without a picture follow the rule of the run
        features = build_features(pair, missing_image=rule)
        assert features.image.shape == (60, 32) and features.missing_image == rule
        assert (features.image[~features.present["image"]].abs().sum() == 0) == (rule in ("zero", "mask"))
    run(Config(dataset=str(folder), epochs=2, dim=10, device="cpu", seed_ratio=.5), tmp_path/"run")
    assert "image" in json.loads((tmp_path/"run"/"history.jsonl").read_text().splitlines()[-1])["weights"]


# ---------------------------------------------------------------- interruptions

def test_a_failure_at_any_write_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    folder = make_pair(tmp_path/"x", {f"{s}{i}.png": encoded(photo(i)) for s in "ab" for i in range(3)})
    old = add_images(folder, "tiny", progress=False).pair.fingerprint()
    (tmp_path/"x"/"a"/"a1.png").write_bytes(encoded(photo(50)))
    real, seen = os.replace, set()
    for fails_at in range(20):
        calls = iter(range(99))
        def replace(*paths, fails_at=fails_at, calls=calls):
            if next(calls) == fails_at: raise OSError(28, "No space left on device")
            return real(*paths)
        monkeypatch.setattr(os, "replace", replace)
        try: add_images(folder, "tiny", progress=False)
        except (DataError, OSError) as e: assert "No space left" in str(e)
        monkeypatch.setattr(os, "replace", real)
        seen.add(load_pair(folder).fingerprint())
        if len(seen) == 2 and next(calls) <= fails_at: break
    add_images(folder, "tiny", progress=False)
    assert seen == {old, load_pair(folder).fingerprint()}
    assert not list(folder.rglob("*.part")) and len(list(folder.rglob("images*"))) == 2


RUN = """
import sys, time
from pathlib import Path
import mpsea.feature_cache, mpsea.pictures as p
from mpsea.backbones import Backbone
sys.path.insert(0, sys.argv[1])
from test_images import tiny
mpsea.feature_cache.EVERY, read = .05, p.read_regular
p.read_regular = lambda path: time.sleep(.002) or read(path)
weights = Path(sys.argv[3])
p.find_backbone = lambda *_: Backbone("tiny", tiny, weights, p.hashlib.sha256(weights.read_bytes()).hexdigest(), 224, (.5,) * 3, (.25,) * 3)
p.add_images(sys.argv[2], "tiny", device="cpu", progress=False)
"""


@pytest.mark.parametrize("kills, seed", [(3, 3), *(pytest.param(50, seed, marks=pytest.mark.slow) for seed in (3, 4, 5))])     # a folder is done after about 25 kills
def test_kill_minus_nine_changes_nothing(tmp_path, kills, seed, small_network):
    files = {f"{s}{i}_{k}.png": encoded(photo(100 * i + k + 50 * (s == "b"))) for s in "ab" for i in range(20) for k in range(3 if kills < 10 else 12)}
    folder = make_pair(tmp_path/"x", files | {"a3_0.png": b"broken"}, entities=20)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(folder), str(small_network.file)]
    def shards(): return len(list((tmp_path/"cache").rglob("*.safetensors")))
    luck, before, done = random.Random(seed), load_pair(folder).fingerprint(), 0
    while done < kills:
        process, there = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE), shards()
        while process.poll() is None and shards() <= there: time.sleep(.005)            # it got somewhere
        time.sleep(luck.random() * .1)
        if process.poll() is not None: break                                           # it was done before
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        assert load_pair(folder).fingerprint() == before or read_manifest(folder).get("images")
    assert done >= min(kills, 3)
    finished = shards()
    subprocess.run(command, env=environment, check=True)
    resumed = load_pair(folder)
    assert shards() >= finished
    os.environ["MPSEA_CACHE"] = str(tmp_path/"other")                                   # put back by the fixture
    import_pair(tmp_path/"x"/"a", tmp_path/"x"/"b", tmp_path/"x"/"links.tsv", progress=False).save(folder, replace=True)
    whole = add_images(folder, "tiny", device="cpu", progress=False)
    assert whole.fresh == len(files) - 1
    assert load_pair(folder).fingerprint() == resumed.fingerprint()
    for side in ("source", "target"): assert getattr(resumed, side).images.feature.tobytes() == getattr(whole.pair, side).images.feature.tobytes()


def test_the_cache_may_be_full_or_the_folder_read_only(tmp_path, monkeypatch):
    folder = make_pair(tmp_path/"x", {"a1.png": encoded(photo())})
    def full(*_, **__): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr("safetensors.numpy.save_file", full)
        with pytest.raises(DataError, match="No space left on device") as e: add_images(folder, "tiny", progress=False)
        assert "MPSEA_CACHE" in e.value.remedy
    with monkeypatch.context() as m:
        m.setattr(os, "access", lambda *_: False)
        with pytest.raises(DataError, match="may not be written to"): add_images(folder, "tiny", progress=False)
    assert load_pair(folder).source.images is None
