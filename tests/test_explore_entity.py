"""The handlers of the entity explorer answer within 200 ms of processor time on a run of 30,000 entities."""
import time

import numpy as np
import pandas as pd
import pytest
import torch

from mpsea.config import Config
from mpsea.core import MODALITIES
from mpsea.explore import Explored, Pool
from mpsea.explore_entity import EntityExplorer
from mpsea.kg import KGPair, KnowledgeGraph, Numbers
from mpsea.matching import normalise

N, LIMIT = 15_000, .2
NAMES = tuple(map(str, MODALITIES))


class Large(Explored):
    """As large as the benchmarks, with embeddings that were drawn rather than learned."""
    name, modalities, folder = "large", NAMES, None
    settings, config = Config(dataset="synth"), {"method": "mpsea"}

    def __init__(self, pair):
        g = torch.Generator().manual_seed(0)
        half = torch.randn(N, 1500, generator=g)
        z = normalise(torch.cat([half, half + 2 * torch.randn(N, 1500, generator=g)]))
        weights = torch.rand(2 * N, 5, generator=g).softmax(1).numpy()
        everybody = np.ones(2 * N, bool)
        pools = {name: Pool(name, everybody, np.full(2 * N, .5, np.float32)) for name in ("test", "all")}        # made once for a run, not for a handler
        self.__dict__.update(pools=pools, pair=pair, embedded={"z": z, "weights": weights, "slices": True}, present={m: np.arange(2 * N) % 5 != i for i, m in enumerate(NAMES)})

    @property
    def ranks(self): return pd.DataFrame({"source": np.arange(N), "target": N + np.arange(N), "forward": 2., "backward": 2.})
    def attention(self, ids): return np.full((1, 5, 4, 6), 1 / 6), NAMES[1:], (*NAMES[1:], "prefix graph", "prefix image")


def large_graph(side):
    g = np.random.default_rng(side)
    triples = np.unique(np.stack([g.integers(N, size=200_000), g.integers(300, size=200_000), g.integers(N, size=200_000)], 1), axis=0)
    numbers = Numbers(g.integers(N, size=40_000), g.integers(100, size=40_000), g.normal(size=40_000))
    words = ("River", "Saint", "University of", "New", "Upper")
    return KnowledgeGraph(f"graph {side}", [f"http://example.org/{side}/{i}" for i in range(N)], [f"relation {i}" for i in range(300)], triples,
                          [f"attribute {i}" for i in range(50)], None, [f"key {i}" for i in range(100)], numbers, labels=[f"{words[i % 5]} {i}" for i in range(N)])


@pytest.fixture(scope="module")
def explorer():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pair = KGPair(large_graph(0), large_graph(1), np.stack([np.arange(N)] * 2, 1), "large")
    yield EntityExplorer(Large(pair))
    torch.set_num_threads(threads)


def seconds(handler, *inputs):
    """Processor time of the quickest of several calls, each with an input of its own."""
    def once(x):
        start = time.thread_time()
        handler(x)
        return time.thread_time() - start
    return min(map(once, inputs))


def test_typing_finds_within_the_limit(explorer):
    assert seconds(explorer.find, "u", "univ", "university of 14", "http://example.org/1/14", "no such name") < LIMIT / 4
    assert len(explorer.find("river")) == 20


def test_typing_shows_within_the_limit(explorer):
    took = seconds(explorer.search, "river 100", "river 200", "saint 11", "saint 21", "upper 4")
    assert explorer.run.names[explorer.entity].startswith("Upper 4") and took < LIMIT


def test_choosing_is_within_the_limit(explorer):
    test = np.flatnonzero(explorer.run.roles == "test")[:5].tolist()
    took = seconds(explorer.choose, *test)
    assert explorer.entity == test[-1] and took < LIMIT


@pytest.mark.parametrize("tab", range(4))
def test_each_tab_is_within_the_limit(explorer, tab):
    def opened(candidate):
        explorer.drawn.clear()
        explorer.tabs.selected_index = None
        explorer.compare(candidate)
        explorer.tabs.selected_index = tab
    assert seconds(opened, *explorer.table.entity[1:6].tolist()) < LIMIT and explorer.drawn[tab]
