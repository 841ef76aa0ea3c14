"""What people see: JupyterLab with the tutorials, and the built site, in Debian's Chromium. Screenshots of it all go to screenshots/ (ignored by git).

Not part of `make test`: `pytest -m browser` runs them, and skips them where there is no Chromium; with MPSEA_BROWSER=required, as in CI, that is a failure.
"""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"}}                      # every cell in the page, wherever it is scrolled to
TRAINED = 240_000                                                                         # ms: what a training may take on a busy machine
EPOCHS = 6                                                                                # of the training that runs to its end


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        if os.environ.get("MPSEA_BROWSER") == "required": pytest.fail("no chromium on this machine: apt-get install chromium")
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser.new_context()                                                       # one, so that what was loaded once is at hand
        browser.close()


@pytest.fixture
def page(browser, request):
    """A page that may speak to this machine only. `.elsewhere` and `.errors` are what it wanted beside that, and what its console complained of."""
    page = browser.new_page()
    page.set_viewport_size({"width": 1300, "height": 900})
    page.elsewhere, page.errors = [], []

    def local(route):
        if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")): return route.continue_()
        page.elsewhere.append(route.request.url)
        route.abort()

    page.route("**/*", local)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("console", lambda m: m.type == "error" and page.errors.append(f"{m.text} ({m.location.get('url')})"))
    yield page
    page.screenshot(path=SHOTS / f"{request.node.name}.png")
    page.close()
    assert not page.elsewhere


# JupyterLab, as `mpsea lab` opens it

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The address of a JupyterLab that works on copies of the notebooks, with runs and settings of its own."""
    from mpsea import lab_command
    home, token, port = tmp_path_factory.mktemp("lab"), secrets.token_hex(8), free_port()
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings",
              "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython", "MPSEA_RUNS": "runs"}
    env = os.environ | {k: str(home / v) for k, v in places.items()} | {"OMP_NUM_THREADS": "1"}
    options = [f"--IdentityProvider.token={token}", "--allow-root", "--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0"]
    with patch.object(lab_command, "checkout", lambda: None):                                     # as where mpsea is installed: on copies
        command = lab_command.jupyter_command(Namespace(no_browser=True, port=port, jupyter=options), home)
    start = home / "mpsea-notebooks" / "tutorials" / "start.ipynb"
    shutil.copy(start, start.with_name("stop.ipynb"))
    start.write_text(start.read_text(encoding="utf-8").replace("epochs=30", f"epochs={EPOCHS}"), encoding="utf-8")     # as a hurried user would
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try: urllib.request.urlopen(f"{address}/api?token={token}", timeout=2); break
        except OSError: time.sleep(.2)
        assert server.poll() is None, (home / "log").read_text()
    yield Namespace(url=f"{address}/?token={token}", tutorial=f"{address}/lab/tree/mpsea-notebooks/tutorials/{{}}.ipynb?reset&token={token}",
                    folder=start.parent, runs=home / "runs")
    server.send_signal(signal.SIGTERM)
    try: server.wait(20)
    except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)


CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')"""
DONE = f"""() => {{ const cells = ({CELLS})(); return cells.length && cells.every(c => c.model.executionCount || !c.model.sharedModel.source)
                    && window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle' }}"""
ERRORS = f"() => ({CELLS})().flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)"


def open_notebook(page, url, name):
    """Open a notebook of the lab without saved outputs and with its kernel ready."""
    page.goto(url)
    page.wait_for_function(f"() => window.jupyterapp && window.jupyterapp.shell.currentWidget?.context?.path.endsWith('{name}')", timeout=120_000)
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'", timeout=120_000)
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs') }")


def run_all(page):
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def finish(page, timeout=TRAINED):
    page.wait_for_function(DONE, timeout=timeout, polling=500)
    assert page.evaluate(ERRORS) == []


def notebook(path, *cells):
    """A notebook of a few cells, beside the tutorials."""
    import nbformat
    spec = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=spec), path)


def drawn(page):
    """What all charts of the page show, as a text that changes with it."""
    return page.evaluate("""() => JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(p => (p._fullData ?? []).map(t =>
        [t.name, ...['x', 'y', 'text'].map(k => t[k]?.length && typeof t[k] !== 'string' ? Array.from(t[k]).slice(0, 200) : t[k])])))""")


def wait_for_charts(page, other_than="[]"):
    """Wait until there are charts that show something else."""
    for _ in range(300):
        page.wait_for_timeout(200)
        now = drawn(page)
        if now.count("[") > 4 and now != other_than: return now
    raise AssertionError("the charts did not change")


def close(page):
    page.evaluate("async () => { const w = window.jupyterapp.shell.currentWidget; await w.context.save(); await w.sessionContext.shutdown() }")


def curve(page, name):
    """The y values of a curve of the live chart, as the browser has them."""
    return page.evaluate("""name => { const d = [...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p._fullData ?? []).find(t => t.name === name);
                                      return d ? Array.from(d.y) : [] }""", name)


def test_start_here_runs_from_the_first_cell_to_the_last(lab, page):
    open_notebook(page, lab.url, "tutorials/start.ipynb")                                 # `mpsea lab` opens it by itself
    run_all(page)
    page.get_by_role("button", name="Stop").wait_for(timeout=120_000)
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3", timeout=TRAINED)
    seen = len(curve(page, "total"))
    page.get_by_role("button", name="Stop").scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "start-training.png")
    finish(page)
    assert 0 < seen < EPOCHS and len(curve(page, "total")) == EPOCHS, "the chart moves while it trains"
    assert json.loads((lab.runs / "world-start" / "results.json").read_text())["epochs"] == EPOCHS
    close(page)


def test_the_stop_button_stops_a_training_and_keeps_the_model(lab, page):
    open_notebook(page, lab.tutorial.format("stop"), "tutorials/stop.ipynb")
    run_all(page)                                                                         # the next cells wait already
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3", timeout=TRAINED)
    page.get_by_role("button", name="Stop").click()
    finish(page)
    folder = lab.runs / "world-start"
    results = json.loads((folder / "results.json").read_text())
    assert results["stopped"] and results["epochs"] < 30
    assert all((folder / name).stat().st_size for name in ("model.safetensors", "alignment.tsv", "resume.pt"))
    assert "Stopped" in page.locator(".jp-OutputArea", has_text="Stop").first.inner_text()
    close(page)


def test_a_search_in_the_entity_explorer_changes_its_charts(lab, page):
    notebook(lab.folder / "entity-explorer.ipynb", "from mpsea.explore import open_run\nfrom mpsea.explore_entity import explore_entities\nfrom mpsea.live import sample_run\n"
             "explore_entities(open_run(sample_run()))")
    open_notebook(page, lab.tutorial.format("entity-explorer"), "tutorials/entity-explorer.ipynb")
    run_all(page)
    box = page.get_by_placeholder("the beginning of a name")
    box.wait_for(timeout=TRAINED)
    before = wait_for_charts(page)
    box.fill("Mexico")
    wait_for_charts(page, before)
    page.wait_for_function("() => document.body.innerText.includes('Mexico')", timeout=60_000)
    finish(page)
    close(page)


def test_a_slider_in_the_hyperparameter_explorer_changes_its_charts(lab, page):
    notebook(lab.folder / "reward-explorer.ipynb", "from mpsea.explore_hyper import explore_reward\nfrom mpsea.live import sample_run\nexplore_reward(sample_run())")
    open_notebook(page, lab.tutorial.format("reward-explorer"), "tutorials/reward-explorer.ipynb")
    run_all(page)
    slider = page.locator(".widget-slider .noUi-handle").first
    slider.wait_for(timeout=TRAINED)
    before = wait_for_charts(page)
    slider.press("End")
    wait_for_charts(page, before)
    finish(page)
    close(page)


# The site, as `make docs` built it

PAGES = ["index", "tutorials/start", "examples/world-run", "howto/reproduce", "explanations/paper", "explanations/results", "experiments/train", "core"]
CHARTS = ["index", "tutorials/start", "examples/world-run", "explanations/results"]      # pages that have some


@pytest.fixture(scope="module")
def site(browser):
    from mpsea.docsite import serve_site
    if not (ROOT / "_docs" / "index.html").exists(): pytest.fail("there is no site here: make docs")
    server = serve_site(ROOT / "_docs", 0, block=False)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def read_through(page):
    """Scroll to the end and back, as a reader does: charts are drawn when they come near."""
    page.evaluate("""async () => { for (let y = 0; y < document.body.scrollHeight; y += innerHeight) { scrollTo({ top: y, behavior: 'instant' }); await new Promise(r => setTimeout(r, 60)) } }""")
    page.wait_for_function("() => [...document.querySelectorAll('.plotly-figure')].every(b => b.querySelector('.main-svg'))", timeout=60_000)
    page.evaluate("() => scrollTo({ top: 0, behavior: 'instant' })")


@pytest.mark.parametrize("width", [1300, 400])
def test_the_pages_load_with_their_charts_on_wide_and_narrow_screens(site, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        read_through(page)
        charts, scrolled = page.evaluate("() => [document.querySelectorAll('.plotly-figure .main-svg').length, document.documentElement.scrollWidth]")
        page.screenshot(path=SHOTS / f"site-{name.replace('/', '-')}-{width}.png")
        assert (charts > 0) == (name in CHARTS), name
        assert scrolled <= width, f"{name} is wider than the screen"
    assert page.errors == []


def test_search_finds_a_name_of_the_api(site, page):
    page.goto(f"{site}/index.html")
    page.get_by_label("Search").first.fill("csls_radius")
    hit = page.locator("a[href*='matching.html#csls_radius']").first
    hit.wait_for(timeout=20_000)
    page.screenshot(path=SHOTS / "search.png")
    hit.click()
    page.wait_for_url("**/matching.html*")
    assert page.errors == []
