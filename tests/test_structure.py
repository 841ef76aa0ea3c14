"""Laws about the repository itself: what is generated is in sync, notebooks are clean, imports point one way."""
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))
MODULES = sorted(p for p in (ROOT / "mpsea").glob("*.py") if not p.name.startswith("_"))
TOP = {"cli"}  # the command sits above everything, whatever its number: it may import any module, and no module imports it
MAX_BYTES = 2_000_000

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(NBS).as_posix())
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def exported_module(path):
    found = [m[1] for c in cells(path) if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.MULTILINE))]
    return found[0] if found else None


def order():
    "Modules in the order of their notebooks: by number, and by name where two share one."
    return [m for p in NOTEBOOKS if p.name[:2].isdigit() and (m := exported_module(p))]


def imported(path):
    "Modules of ours that a module imports, anywhere in it, and the line."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level == 1:
                yield from ([(name.split(".")[0], node.lineno)] if name else [(a.name, node.lineno) for a in node.names])
            elif name == "mpsea":
                yield from ((a.name, node.lineno) for a in node.names)
            elif name.startswith("mpsea."):
                yield name.split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            yield from ((a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("mpsea."))


# ---------------------------------------------------------------- modules


def test_every_module_has_one_notebook_with_a_number():
    exported = [exported_module(p) for p in NOTEBOOKS if exported_module(p)]
    assert len(exported) == len(set(exported)), "two notebooks export to one module"
    assert {p.stem for p in MODULES} == set(exported) == set(order())


@each_module
def test_imports_point_one_way(path):
    before = order()[:order().index(path.stem)] if path.stem not in TOP else [m for m in order() if m not in TOP]
    wrong = [f"{path.name}:{line}: {path.stem} imports {name}" for name, line in imported(path) if name in order() and name not in before]
    assert not wrong, "a module imports only from notebooks before its own:\n" + "\n".join(wrong)


@each_module
def test_modules_need_no_development_tools(path):
    "nbdev, fastcore and the like come with the dev extra: a module may import them inside a function that builds the site, nowhere else."
    tools = {"fastcore", "execnb", "nbdev", "pytest", "hypothesis", "smalldocs", "math_core"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if path.stem in ("pages", "docsite") else list(ast.walk(tree))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    assert not tools & {n.split(".")[0] for n in names}
    assert not any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(tree)), "no star imports of our own code"


# ---------------------------------------------------------------- notebooks and what is made of them


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    "The sources in another place, exported and cleaned there."
    folder = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
    shutil.copy(ROOT / "settings.ini", folder)
    for name in ("nbs", "mpsea"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / tool], cwd=folder, env=env, check=True, stdin=subprocess.DEVNULL)
    return folder


def test_modules_are_in_sync_with_notebooks(copy):
    made = {p.name: p.read_text(encoding="utf-8") for p in (copy / "mpsea").glob("*.py")}
    have = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "mpsea").glob("*.py")}
    stale = sorted(n for n in made.keys() | have.keys() if made.get(n) != have.get(n))
    assert not stale, f"run nbdev_export, and commit {stale}"


def test_notebooks_are_clean(copy):
    dirty = [p.relative_to(ROOT).as_posix() for p in NOTEBOOKS if p.read_bytes() != (copy / p.relative_to(ROOT)).read_bytes()]
    assert not dirty, f"run nbdev_clean, and commit {dirty}"


@each_notebook
def test_notebook_is_valid_and_bare(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert set(nb.metadata) <= {"kernelspec"}, f"metadata {set(nb.metadata)}: widget state and papermill's records stay in runs/"
    for cell in nb.cells:
        assert set(cell.metadata) <= {"tags"}
        assert cell.cell_type != "code" or cell.execution_count is None


@each_notebook
def test_notebook_is_small_and_from_nowhere(path):
    assert path.stat().st_size < MAX_BYTES
    text = path.read_text(encoding="utf-8")
    here = [p for p in (f"{ROOT}/", f"{Path.home()}/", f"{ROOT.parent}/") if len(p) > 5 and p in text]
    saved = json.dumps([c.get("outputs", []) for c in cells(path)])
    assert not here + re.findall(r"(?<![\w.])/(?:home|root|Users|work|mnt|tmp)/[\w.-]+", saved), "paths of one machine"
    assert "application/vnd.jupyter.widget-view+json" not in text, "a saved widget shows nothing without its kernel: display a go.Figure"


@each_notebook
def test_links_lead_to_notebooks(path):
    "Not to the pages made of them: those have no numbers, and JupyterLab does not have them. What a cell shows in code is no link."
    text = "\n".join(re.sub(r"`[^`]*`", "", source(c)) for c in cells(path) if c["cell_type"] == "markdown")
    links = [m.partition("#")[0] for m in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#", m)]
    assert not [n for n in links if not (path.parent / n).exists()]


@each_notebook
def test_notebook_has_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert re.match(r"# \S.*\n\n?> \S.*", first), "the first cell is '# title' and '> one-line subtitle'"
    if exported_module(path):
        assert "nbdev.nbdev_export()" in source(cells(path)[-1]), "the last cell exports"


def test_there_are_experiments():
    assert (NBS / "experiments" / "train.ipynb").exists()
    assert (NBS / "experiments" / ".notest").exists(), "nbdev_test would train with the default parameters; the smoke tests run these"


@pytest.mark.parametrize("path", sorted((NBS / "experiments").glob("*.ipynb")), ids=lambda p: p.stem)
def test_experiment_has_one_documented_parameter_cell(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for line in filter(str.strip, source(tagged[0]).splitlines()):
        assert re.match(r"#|\w+: \w+ = .+  # \S", line), f"not `name: type = value  # help`: {line}"


# ---------------------------------------------------------------- site and packaging


def test_readme_is_that_of_the_home_page():
    from mpsea.docsite import readme_text
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_text(ROOT), "run: make readme"


def test_readme_links_lead_somewhere():
    text = re.sub(r"(?ms)^```.*?^```|<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    links = [m.partition("#")[0] for m in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#", m)]
    assert links and not [n for n in links if not (ROOT / n).exists()]


def test_sidebar_lists_every_page():
    def pages(entries):
        for e in entries:
            if isinstance(e, str):
                yield e
            else:
                yield from filter(None, [e.get("href")])
                yield from pages(e.get("contents", []))
    listed = list(pages(yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]))
    have = [p.relative_to(NBS).as_posix() for p in NOTEBOOKS] + [p.name for p in NBS.glob("*.md")]
    assert sorted(listed) == sorted(have), "nbs/sidebar.yml and the pages in nbs/ differ"


def test_settings_agree():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    cfg, site = settings["DEFAULT"], yaml.safe_load((ROOT / "_quarto.yml").read_text())
    assert cfg["version"] in (ROOT / "mpsea" / "__init__.py").read_text()
    assert cfg["allowed_cell_metadata_keys"] == "tags"
    assert (site["website"]["title"], site["website"]["description"]) == (cfg["title"], cfg["description"])
    assert site["project"]["output-dir"] == cfg["doc_path"]
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


def test_constraints_are_exact_and_cover_what_is_declared():
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", x) for x in lines), "name==version, nothing else"
    pinned = {re.sub(r"[-_.]+", "-", x.split("==")[0]).lower() for x in lines}
    declared = re.findall(r'^    "([A-Za-z0-9._-]+)[<>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert "torch" in declared and not [d for d in declared if re.sub(r"[-_.]+", "-", d).lower() not in pinned]


def test_the_version_is_read_without_torch():
    code = "import sys, mpsea; assert 'torch' not in sys.modules; print(mpsea.__version__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "0.1.0"
