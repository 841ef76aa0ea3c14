"""The cells of a sweep on a real Ray cluster of two nodes, one of which is killed on the way: the results are the same."""
import json
from pathlib import Path

import pytest
from test_sweeps import at_the_gate, few, one_thread, rows, stand_in, undisturbed, until  # noqa: F401

from mpsea import remote
from mpsea.core import ConfigError
from mpsea.local import Job
from mpsea.sweeps import carry_out, execute

try: import ray
except ImportError: ray = None
pytestmark = pytest.mark.slow
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install 'mpsea[cluster]'")


@pytest.fixture(scope="module")
def cluster(one_thread):                                               # noqa: F811
    "A head that the driver is connected to, and one more node, each with room for one cell."
    from ray.cluster_utils import Cluster
    small = dict(num_cpus=1, object_store_memory=10**8, include_dashboard=False)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # a busy machine takes its time: what Ray gives up on, or waits for and never hears of
        env.setenv("RAY_raylet_start_wait_time_s", "300")
        env.setenv("RAY_worker_register_timeout_seconds", "300")
        env.setenv("RAY_prestart_worker_first_driver", "0")
        made = Cluster(initialize_head=True, head_node_args=small)
        remote.connect(made.address)
        made.other = made.add_node(**small)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()


@needs_ray
def test_files_come_back_from_nodes_that_share_none(cluster, undisturbed, tmp_path):   # noqa: F811
    there = remote.Remote(cluster.address, tmp_path / "runs")
    there.mark.unlink()                                                # what a node without the file system of the driver sees
    cell = few(0)[0]
    job = Job(cell.hash, cell.params, str(tmp_path / "runs" / cell.name), stand_in(tmp_path))
    assert carry_out([job], there) == {cell.hash: ""}
    there.stop()
    assert rows(execute([cell], tmp_path / "runs", reuse=[])) == undisturbed[:1]
    assert {"run.ipynb", "model.safetensors", "history.jsonl"} <= {p.name for p in Path(job.folder).iterdir()}
    assert not list(Path(remote.tempfile.gettempdir()).glob(f"mpsea-*/{cell.hash}/*")), "the node keeps nothing of a run that was sent"


@needs_ray
def test_a_node_that_dies_changes_nothing(cluster, undisturbed, tmp_path, monkeypatch):   # noqa: F811
    "Two cells, one on each node; the other node is killed when both are half way."
    gate = tmp_path / "gate"
    gate.touch()
    def kill_half_way(self, original=remote.Remote.ended):
        if gate.exists() and at_the_gate(tmp_path / "runs", 2)():
            cluster.remove_node(cluster.other, allow_graceful=False)
            gate.unlink()
        return original(self)
    monkeypatch.setattr(remote.Remote, "ended", kill_half_way)
    table = execute(few(0, 1), tmp_path / "runs", reuse=[], address=cluster.address, notebook=stand_in(tmp_path))
    assert not gate.exists()
    assert table.state.tolist() == ["done", "done"] and rows(table) == undisturbed
    begun = [json.loads(x)["epoch"] for p in (tmp_path / "runs").glob("*/history.jsonl") for x in p.read_text().splitlines()]
    assert begun.count(1) == 2, "both went on from their checkpoints"


def test_without_ray_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray.*mpsea.cluster"): remote.connect("auto")
