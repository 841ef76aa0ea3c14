"""The registry on paper is the registry in the code; the pairs that need no files load by name, twice the same."""
import json
from pathlib import Path

import pytest

from mpsea.datasets import DATASETS, load

REGISTRY = Path(__file__).parent.parent/"data"/"registry.json"


def test_registry_matches_the_code():
    listed = {k: v for k, v in json.loads(REGISTRY.read_text()).items() if k != "about"}
    coded = [d for d in DATASETS.values() if d.files]
    assert listed == {d.name: {"title": d.title, "url": d.url or None, "licence": d.licence, "files": d.files} for d in coded}


def test_downloads_are_pinned_to_a_commit():
    for d in DATASETS.values():
        assert not d.url or any(len(part) == 40 for part in d.url.split("/"))


@pytest.mark.parametrize("name", [d.name for d in DATASETS.values() if not d.marker])
def test_pairs_without_files(name):
    first, second = load(name), load(name)
    assert first.fingerprint() == second.fingerprint()
    assert len(first.links) > 50


@pytest.mark.online
def test_download(tmp_path):
    from mpsea.datasets import download
    assert load("fbdb15k", download("fbdb15k", tmp_path)).note == "no images"
