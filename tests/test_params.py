"""Every file in params/ is valid, says what it claims to say, and quotes the paper as params/published.yaml does."""
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mpsea.config import Config, from_notebook, read_params
from mpsea.methods import METHODS, check_method

PARAMS = Path(__file__).resolve().parent.parent / "params"
FILES = sorted(p for p in PARAMS.glob("*.yaml") if p.name != "published.yaml")
SETTINGS = [p for p in FILES if p.stem.startswith(("fbdb15k", "fbyg15k"))]
OF_A_METHOD = {name: PARAMS / f"{'paper' if name == 'mpsea' else name}.yaml" for name in METHODS}
OF_A_SETTING = {"dataset", "data_dir", "seed_ratio"}
RATES = ("hits@1", "hits@5", "hits@10", "mrr")

each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
each_setting = pytest.mark.parametrize("path", SETTINGS, ids=lambda p: p.stem)


def content(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rows():
    return content(PARAMS / "published.yaml")["rows"]


@each_file
def test_it_begins_with_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@each_file
def test_names_and_types_are_right(path):
    "The method's own options too."
    check_method(Config.from_dict(read_params(path)))


@each_file
def test_it_can_be_layered_on_base(path):
    config = Config.from_dict(read_params(PARAMS / "base.yaml", path))
    assert all(getattr(config, name) == value for name, value in read_params(path).items())


@each_file
def test_no_name_is_said_twice(path):
    names = [line.split(":")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()]
    assert len(names) == len(set(names))


@each_file
def test_the_notebook_takes_it_from_papermill(path):
    "papermill hands over everything in a file, the section `published` too."
    assert from_notebook(content(path)) == Config.from_dict(read_params(path))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_file_that_names_it_first(name):
    assert OF_A_METHOD[name].is_file(), f"add its published setting as params/{name}.yaml"
    assert next(iter(content(OF_A_METHOD[name]).items())) == ("method", name)


def test_only_a_methods_own_file_names_a_method():
    assert {p for p in FILES if "method" in content(p)} == set(OF_A_METHOD.values())


def test_help_names_every_method():
    said = next(f.metadata["help"] for f in fields(Config) if f.name == "method")
    assert [name for name in re.findall(r"\w+", said) if name in METHODS] == list(METHODS)


def test_base_and_paper_say_every_parameter_once_at_its_default():
    base, paper = read_params(PARAMS / "base.yaml"), read_params(PARAMS / "paper.yaml")
    assert not base.keys() & paper.keys()
    every = {f.name: f.default for f in fields(Config) if f.name not in OF_A_SETTING}
    assert every.keys() - base.keys() - paper.keys() == set(), "say them in params/base.yaml or params/paper.yaml"
    assert base | paper == every


@pytest.mark.parametrize("dataset", ["fbdb15k", "fbyg15k"])
@pytest.mark.parametrize("percent", [20, 50, 80])
def test_there_is_a_file_for_each_setting_of_the_paper(dataset, percent):
    values = content(PARAMS / f"{dataset}_{percent}.yaml")
    assert set(values) == {"dataset", "seed_ratio", "published"}
    assert (values["dataset"], values["seed_ratio"]) == (dataset, percent / 100)


@each_setting
def test_published_numbers_are_those_of_published_yaml(path):
    values = content(path)
    own = [r for r in rows() if r.get("method", r["row"]) == "MPSEA" and r["table"] in (2, 3, 4)
           and (r["dataset"], r["seed_ratio"]) == (values["dataset"], values["seed_ratio"])]
    assert len(own) == 2, "one without iterative training and one with"
    assert values["published"] == [{k: r[k] for k in ("table", "iterative", *RATES)} for r in own]


def test_only_settings_quote_published_numbers():
    assert {p for p in FILES if "published" in content(p)} == set(SETTINGS)
