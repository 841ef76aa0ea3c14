"""The blockwise matching and metrics equal the dense textbook: same bits, same ranks."""
import numpy as np
import pytest
import torch

from mpsea import matching
from mpsea.core import MpseaError
from mpsea.matching import Cosines, align, csls_radius, mutual_nearest, similarity_blocks, top_k
from mpsea.metrics import BACKWARD, FORWARD, TIES, evaluate, link_ranks, ranks

SHAPES = [(1, 1), (1, 9), (9, 1), (5, 3), (512, 64), (513, 65), (1100, 700)]


def signs(n, seed):
    "Rows of length exactly 1 whose cosines are multiples of 1/8: every order of summation gives the same bits, and ties abound."
    return torch.randint(0, 2, (n, 16), generator=torch.Generator().manual_seed(seed)).float()*.5 - .25


def noise(n, seed, width=40):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def dense_scores(s, k):
    "CSLS by the formula, from a whole matrix, by sorting."
    if not k: return s
    r_a = np.sort(s, axis=1)[:, ::-1][:, :k].mean(1, dtype=np.float32)
    r_b = np.sort(s, axis=0)[::-1][:k].mean(0, dtype=np.float32)
    return 2*s - r_a[:, None] - r_b[None]


def dense_ranks(s, links, tau):
    "One link at a time, the other right answers of its query deleted."
    found = []
    for q, g in links:
        row = np.delete(s[q], [j for p, j in links if p == q and j != g])
        found.append(1 + (row > s[q, g]).sum() + tau*((row == s[q, g]).sum() - 1))
    return np.array(found)


def blockwise(a, b, **settings):
    return torch.cat([s for _, s in similarity_blocks(a, b, **settings)]).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [0, 1, 4])
def test_scores_equal_the_textbook(shape, k):
    a, b = signs(shape[0], 1), signs(shape[1], 2)
    expected = dense_scores((a @ b.T).numpy(), k)
    for block in (1, 13, 512, 5000): np.testing.assert_array_equal(blockwise(a, b, csls=k, block=block), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [0, 3])
def test_blocks_are_the_same_bits(shape, k):
    a, b = noise(shape[0], 1), noise(shape[1], 2)
    whole = blockwise(a, b, csls=k, block=10**6)
    np.testing.assert_allclose(blockwise(a, b), torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T, atol=1e-6)
    for block in (1, 100, 512, 513):
        for keep in (0, 2**30): np.testing.assert_array_equal(blockwise(a, b, csls=k, block=block, keep=keep), whole)


@pytest.mark.parametrize("panel", [16, 100, 1024])
def test_panels_are_the_same_ranks(panel, monkeypatch):
    a, b, links = signs(700, 3), signs(600, 4), np.stack([np.arange(600)]*2, 1)
    expected = evaluate(a, b, links)
    monkeypatch.setattr(matching, "PANEL", panel)
    monkeypatch.setattr("mpsea.metrics.PANEL", panel)
    assert evaluate(a, b, links) == expected == evaluate(a, b, links, keep=0)


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("k", [0, 4])
def test_ranks_equal_the_textbook(tie, k):
    a, b = signs(530, 5), signs(90, 6)
    links = np.unique(np.random.default_rng(0).integers(0, [530, 90], (400, 2)), axis=0)      # many-to-many, in no order
    links = np.random.default_rng(1).permutation(links)
    s = dense_scores((a @ b.T).numpy(), k)
    for keep in (0, 2**30):
        found = link_ranks(Cosines(a, b, keep), links, csls=(k,), tie=tie)
        np.testing.assert_array_equal(found[FORWARD, k], dense_ranks(s, links, TIES[tie]))
        np.testing.assert_array_equal(found[BACKWARD, k], dense_ranks(s.T, links[:, ::-1], TIES[tie]))


@pytest.mark.parametrize("k", [0, 3])
def test_ranks_equal_a_sort_of_every_row(k):
    truth = noise(700, 7)
    a, b = truth + noise(700, 8), truth + noise(700, 9)
    s = dense_scores(blockwise(a, b), k)
    expected = [np.argsort(-row, kind="stable").tolist().index(i) + 1 for i, row in enumerate(s)]
    np.testing.assert_array_equal(ranks(a, b, np.arange(700), csls=k), expected)


def test_top_k_equals_a_stable_sort():
    a, b = signs(600, 10), signs(90, 11)
    s = torch.from_numpy(dense_scores((a @ b.T).numpy(), 4))
    expected = s.sort(dim=1, descending=True, stable=True)
    scores, columns = top_k(a, b, k=10, csls=4)
    assert torch.equal(columns, expected.indices[:, :10]) and torch.equal(scores, expected.values[:, :10])
    assert torch.equal(top_k(a, b, k=500, csls=4)[1], expected.indices)                      # k larger than n: all, in order


def test_alignment_equals_the_dense_one():
    a, b = signs(600, 12), signs(530, 13)
    s = dense_scores((a @ b.T).numpy(), 4)
    found, best = align(a, b, csls=4), s.argmax(1)
    two = np.sort(s, axis=1)[:, -2:]
    mutual = s.argmax(0)[best] == np.arange(600)
    np.testing.assert_array_equal(found.target, best)
    np.testing.assert_array_equal(found.margin, two[:, 1] - two[:, 0])
    np.testing.assert_array_equal(found.mutual, mutual)
    np.testing.assert_array_equal(mutual_nearest(a, b, csls=4), np.stack([np.flatnonzero(mutual), best[mutual]], 1))


@pytest.mark.parametrize("width", [1, 7, 300])
@pytest.mark.parametrize("n", [1, 2, 17, 511, 1025])
def test_constant_embeddings_score_chance(n, width):
    same = noise(1, 14, width).expand(n, width)
    for row in evaluate(same, same, np.stack([np.arange(n)]*2, 1)): assert row["mr"] == (n + 1)/2
    assert align(same, same).mutual.sum() == 1


def test_a_repeated_embedding_ties_wherever_it_stands():
    a, b = noise(1000, 15), noise(1000, 16)
    b[[3, 500, 999]] = b[0].clone()
    found = ranks(a, b, np.arange(1000), csls=3)
    copies = found[[0, 3, 500, 999]]
    assert ((copies*2) % 2 == 1).all()                                                       # 3 ties each: a rank and a half


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_a_bit(threads):
    a, b, before = noise(600, 17, 333), noise(500, 18, 333), torch.get_num_threads()
    expected = blockwise(a, b, csls=3)
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(blockwise(a, b, csls=3), expected)
    finally: torch.set_num_threads(before)


def test_fewer_candidates_than_neighbours_averages_all():
    a, b = signs(5, 19), signs(3, 20)
    r_a, r_b = csls_radius(a, b, k=10)
    assert torch.equal(r_a, (a @ b.T).mean(1)) and torch.equal(r_b, (a @ b.T).mean(0))


@pytest.mark.parametrize("spoil", [lambda z: z.fill_(torch.nan), lambda z: z[5].fill_(torch.nan), lambda z: z[0, 0].fill_(torch.inf)])
def test_nan_is_an_error(spoil):
    a, b, links = noise(50, 21), noise(50, 22), np.stack([np.arange(50)]*2, 1)
    spoil(a)
    for call in (lambda: evaluate(a, b, links), lambda: evaluate(b, a, links), lambda: align(a, b), lambda: top_k(b, a),
                 lambda: csls_radius(a, b)):
        with pytest.raises(MpseaError, match="NaN or infinity"): call()


@pytest.mark.parametrize("links, message", [
    ([], "no links"), (np.zeros((0, 2), int), "no links"), ([[0, 50]], "of 50"), ([[-1, 0]], "row -1"),
    ([[0, 1], [0, 1]], "twice"), ([[0., 1.]], "whole numbers"), ([0, 1], "whole numbers")])
def test_bad_links_are_errors(links, message):
    with pytest.raises(MpseaError, match=message): evaluate(noise(50, 1), noise(50, 2), links)


def test_candidates_are_the_linked_entities():
    a, b = noise(80, 23), noise(60, 24)
    links = np.array([[7, 3], [9, 3], [2, 50], [79, 0]])
    assert evaluate(a, b, links) == evaluate(a[[2, 7, 9, 79]], b[[0, 3, 50]], [[1, 1], [2, 1], [0, 2], [3, 0]], candidates="all")
    assert evaluate(a, b, links, candidates="all")[0]["mr"] > evaluate(a, b, links)[0]["mr"]
