import base64
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import numpy as np
import pytest
from PIL import Image

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.figures.again import GenerateAgain
from blindspots_lib.figures.explorer import FRONTEND
from blindspots_lib.figures.live import STATE, ConceptExplorer
from blindspots_lib.figures.patches import PatchConcepts
from blindspots_lib.run import notebooks
from blindspots_lib.run.stages import open_results
from blindspots_lib.sae.model import load_sae

SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
LAB = {"config": "JUPYTER_CONFIG_DIR", "data": "JUPYTER_DATA_DIR", "runtime": "JUPYTER_RUNTIME_DIR", "ipython": "IPYTHONDIR",
       "workspaces": "JUPYTERLAB_WORKSPACES_DIR", "settings": "JUPYTERLAB_SETTINGS_DIR"}  # fmt: skip


@pytest.fixture(scope="module")
def results(smoke):
    return open_results(load_study(str(smoke)))


@pytest.fixture
def explorer(results):
    return ConceptExplorer(results)


def ask(explorer, *questions):
    """What a front end gets for questions of one message: answers with their arrays, or errors, in the order asked."""
    sent = {}
    explorer.send = lambda reply, buffers: sent.update({reply["id"]: (json.loads(json.dumps(reply, allow_nan=False)), buffers)})
    explorer._handle_custom_msg({"questions": [{"id": n, **question} for n, question in enumerate(questions)]}, [])
    return [unpacked(reply.get("answer", reply), buffers) for reply, buffers in (sent[n] for n in range(len(questions)))]


def unpacked(value, buffers):
    if isinstance(value, list):
        return [unpacked(part, buffers) for part in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return np.frombuffer(buffers[value["buffer"]], value["$array"].removesuffix("Array").lower())
    return {key: unpacked(part, buffers) for key, part in value.items()}


def test_the_start_holds_the_tables(explorer, results):
    (start,) = ask(explorer, {"ask": "start"})
    assert start["meta"]["n_concepts"] == len(results.concepts) == 48
    assert start["meta"]["sources"] == ["real", "sd15", "pixart", "perfect"]
    for model in ("sd15", "pixart", "perfect"):
        np.testing.assert_array_equal(start["columns"]["models"][model]["delta"], results.concepts[f"delta_{model}"].astype("f4"))
    assert start["pairs"]["caption"] == results.captions
    assert "BlindspotsExplorer" in start["code"]


def test_a_concept_has_the_images_with_most_of_it(explorer, results):
    concept = int(results.concepts["firings"].idxmax())
    (found,) = ask(explorer, {"ask": "concept", "k": concept})
    for source, matrix in results.matrices.items():
        shown = found["top"][source]
        energies = matrix[:, [concept]].toarray().ravel()
        assert [round(image["energy"], 3) for image in shown] == [
            round(float(e), 3) for e in np.sort(energies)[::-1][: len(shown)]
        ]
        for image in shown:
            row = results.rows[source][image["pair"]]
            heat = results.codes[source].heatmap(int(row), concept).ravel()
            np.testing.assert_array_equal(image["heat"] > 0, heat > 0)
    overlap = results.energies["real"].stats.overlap()[[concept]].toarray().ravel()
    assert [row["overlap"] for row in found["together"]] == pytest.approx(np.sort(overlap)[::-1][: len(found["together"])])


def test_a_pair_has_the_strongest_concept_of_every_patch_and_its_training_image(explorer, results):
    (found,) = ask(explorer, {"ask": "pair", "pair": 4})
    for source, codes in results.codes.items():
        dense = codes.patch_codes(results.rows[source][[4]]).toarray()
        np.testing.assert_array_equal(found[source], np.where(dense.any(axis=1), dense.argmax(axis=1), -1))
    (thumb, lost) = ask(
        explorer, {"ask": "thumb", "source": "training", "pair": 7}, {"ask": "thumb", "source": "training", "pair": 100}
    )
    assert np.asarray(Image.open(io.BytesIO(thumb["image"].tobytes()))).shape == (64, 64, 3)
    assert lost["error"] == "this study knows no training image 100"


def test_images_asked_for_at_once_come_with_their_own_numbers(explorer, results):
    places = [("sd15", 30), ("real", 3), ("sd15", 1)]
    for (source, pair), thumb in zip(
        places, ask(explorer, *({"ask": "thumb", "source": s, "pair": p} for s, p in places)), strict=True
    ):
        assert thumb["type"] == "image/webp"
        shown = Image.open(io.BytesIO(thumb["image"].tobytes())).convert("RGB")
        assert shown.size == (64, 64)
        stored = results.images[source][results.pair_ids[pair]]
        assert np.abs(np.asarray(shown, float) - np.asarray(stored, float)).mean() < 10  # WebP loses some


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"ask": "concept", "k": 48}, "no concept 48; they are numbered from 0 to 47"),
        ({"ask": "concept", "k": -1}, "no concept -1; they are numbered from 0 to 47"),
        ({"ask": "thumb", "source": "sd15", "pair": 36}, "no pair 36; they are numbered from 0 to 35"),
        ({"ask": "thumb", "source": "x", "pair": 0}, "no source 'x'; this study has real, sd15, pixart, perfect"),
        (
            {"ask": "concept", "k": "0"},
            "the front end asks what the kernel does not know: {'ask': 'concept', 'k': '0'}; reload the page",
        ),
    ],
)
def test_a_bad_question_is_one_line_and_those_beside_it_are_answered(explorer, question, message):
    bad, good = ask(explorer, question, {"ask": "concept", "k": 0})
    assert bad == {"id": 0, "error": message}
    assert explorer.error == message
    assert good["top"].keys() == {"real", "sd15", "pixart", "perfect"}


def test_a_fault_of_ours_is_seen_by_the_reader_too(explorer, monkeypatch):
    monkeypatch.setattr(explorer.source, "concept", lambda concept: {}[concept])
    assert ask(explorer, {"ask": "concept", "k": 7}) == [{"id": 0, "error": "KeyError: 7"}]
    assert explorer.get_state()["error"] == "KeyError: 7"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model": "x"}, "no model 'x'; this study has sd15"),
        ({"concept": 48}, "no concept 48"),
        ({"modle": "sd15"}, "no 'modle'; it may have view, "),
    ],
)
def test_a_state_that_cannot_be_shown_is_refused(results, state, message):
    with pytest.raises(StudyError, match=message):
        ConceptExplorer(results, **state)


def test_the_state_is_what_the_front_end_starts_with(results):
    (start,) = ask(ConceptExplorer(results, model="sd15", concept=12), {"ask": "start"})
    assert start["state"] == {"model": "sd15", "concept": 12}


def test_a_state_has_the_words_of_the_front_end():
    begins = re.search(r"function firstState.*?return \{(.*?)\};", (FRONTEND / "selection.js").read_text(), re.S)[1]
    assert set(re.findall(r"(\w+):", begins)) == set(STATE)


def test_a_saved_notebook_holds_a_picture_and_no_data(explorer, results):
    data, _ = explorer._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == repr(ConceptExplorer(results)) == "ConceptExplorer(smoke)"
    assert len(json.dumps(data)) + len(json.dumps(explorer.get_state())) < 50_000


def explorer_notebook(path, study_file, *more):
    opened = ("from blindspots_lib import load_study, open_results\nfrom blindspots_lib.figures.live import ConceptExplorer\n"
              "results = open_results(load_study(study_file))")  # fmt: skip
    cells = [nbformat.v4.new_code_cell(source) for source in (f"study_file = {str(study_file)!r}", opened, *more)]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_papermill_and_strict_nbval_pass(smoke, tmp_path):
    notebook = explorer_notebook(tmp_path / "live.ipynb", smoke, "ConceptExplorer(results, concept=0)")
    notebooks.run_notebook(load_study(str(smoke)), smoke, notebook, tmp_path / "executed")
    executed = tmp_path / "executed" / notebook.name
    assert executed.stat().st_size < 55_000
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "--rootdir", tmp_path, executed], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab of its own on a free port of this machine, stopped at the end: its root folder, and its address with token."""
    folders = {name: tmp_path / name for name in (*LAB, "root")}
    for folder in folders.values():
        folder.mkdir()
    overrides = folders["config"] / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir()
    overrides.write_text(json.dumps(SETTINGS))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port, token = free.getsockname()[1], secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser",
               "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folders['root']}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    environment = os.environ | {variable: str(folders[name]) for name, variable in LAB.items()}
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, tmp_path / "lab.log")
        yield folders["root"], f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for(url, server, log):
    for _ in range(200):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url):
                return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.timeout(180)
def test_in_jupyterlab_a_click_opens_a_concept_and_an_error_is_seen(smoke, lab, browser_page):
    root, address = lab
    fails_on_one = ("explorer = ConceptExplorer(results)\nanswer = explorer.source.concept\n"
                    "explorer.source.concept = lambda k: {}[k] if k == 1 else answer(k)\nexplorer")  # fmt: skip
    explorer_notebook(root / "live.ipynb", smoke, fails_on_one)
    page, shown = browser_page, browser_page.locator(".blindspots.cell")
    page.set_default_timeout(60_000)
    page.goto(address.format("live.ipynb"))
    page.get_by_text("| Idle").wait_for()
    page.get_by_text("Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    shown.locator("main canvas").first.wait_for()
    page.wait_for_function(DRAWN)
    shown.locator("aside .concept").first.click()
    shown.locator(".card .pictures img").first.wait_for()
    concept = int(shown.locator(".card").get_attribute("aria-label").removeprefix("Concept "))
    shown.get_by_role("button", name="Link").click()
    assert page.evaluate("navigator.clipboard.readText()") == f"ConceptExplorer(results, concept={concept})"
    shown.get_by_role("button", name="next concept").press("b")  # for JupyterLab: insert a cell
    shown.get_by_role("searchbox").press_sequentially("1")
    shown.get_by_role("searchbox").press("Enter")
    page.get_by_text("KeyError: 1", exact=True).wait_for()
    assert page.locator(".jp-CodeCell").count() == 3


@pytest.mark.timeout(300)
def test_notebook_4_runs_in_jupyterlab_and_its_sliders_and_pictures_follow(smoke, lab, browser_page):
    root, address = lab
    notebook = nbformat.read(PROJECT_ROOT / "notebooks" / "04_energy_analysis.ipynb", 4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"study_file = {str(smoke)!r}"
    nbformat.write(notebook, root / "04.ipynb")
    page, shown = browser_page, browser_page.locator(".blindspots.cell")
    page.set_default_timeout(120_000)
    page.goto(address.format("04.ipynb"))
    page.get_by_text("| Idle").wait_for()
    page.get_by_text("Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    shown.locator("main canvas").first.wait_for()
    shown.scroll_into_view_if_needed()
    before = shown.locator(".counts").inner_text()
    slider = shown.get_by_label("λ min")
    for _ in range(30):
        slider.press("ArrowRight")
    shown.get_by_text("below 0.40").wait_for()
    assert shown.locator(".counts").inner_text() != before
    shown.locator("aside .concept").first.click()
    first = shown.locator(".card .pictures[data-ready]")
    first.locator("img").first.wait_for()
    number = first.get_attribute("data-ready")
    shown.get_by_role("button", name="next concept").click()
    other = shown.locator(f".card .pictures[data-ready]:not([data-ready='{number}'])")  # of another concept
    other.locator("img").first.wait_for()
    assert page.locator(".jp-OutputArea-output[data-mime-type*=error], .jp-RenderedText[data-mime-type*=stderr]").count() == 0


# on some canvas of the overview there are more colours than one
DRAWN = """() => [...document.querySelectorAll(".blindspots.cell main canvas")].some((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size > 3;
})"""


# -- patches -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def patches(results):
    return PatchConcepts(results, load_sae(results.sae.folder))


def test_patches_have_their_concepts_and_say_how_far_each_moves_the_reconstruction(patches, results):
    (found,) = ask(patches, {"ask": "patches", "source": "sd15", "pair": 5})
    codes = results.codes["sd15"].patch_codes(results.rows["sd15"][[5]]).toarray()
    atoms = load_sae(results.sae.folder).dictionary.atoms().detach().numpy()
    patch, at = int((codes > 0).sum(axis=1).argmax()), 0
    for number, count in enumerate(found["counts"]):
        own = slice(at, at + count)
        order = np.lexsort((np.arange(48), -codes[number]))[:count]
        np.testing.assert_array_equal(found["concepts"][own], order)
        np.testing.assert_allclose(found["codes"][own], codes[number, order], rtol=1e-6)
        if number == patch:  # by hand: double the strongest concept, and see how far the reconstruction goes
            more = codes[number] * (1 + (np.arange(48) == order[0]))
            whole = codes[number] @ atoms
            assert found["moves"][own][0] == pytest.approx(np.linalg.norm(more @ atoms - whole) / np.linalg.norm(whole), rel=1e-4)
        at += count
    assert found["caption"] == results.captions[5]
    assert {int(k) for k in found["names"]} == set(np.flatnonzero(codes.any(axis=0)).tolist())
    bad = ask(patches, {"ask": "patches", "source": "sd15", "pair": 36})
    assert bad == [{"id": 0, "error": "no pair 36; they are numbered from 0 to 35"}]


def test_patches_leave_a_picture_in_a_saved_notebook(patches):
    data, _ = patches._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert (data["text/plain"], len(json.dumps(data)) < 100_000) == ("PatchConcepts(smoke)", True)


@pytest.mark.timeout(180)
def test_in_jupyterlab_a_patch_shows_its_concepts_and_scaling_one_moves_patches(smoke, lab, browser_page):
    root, address = lab
    explorer_notebook(
        root / "patches.ipynb", smoke, "from blindspots_lib import load_sae",
        "from blindspots_lib.figures.patches import PatchConcepts\nPatchConcepts(results, load_sae(results.sae.folder))",
    )  # fmt: skip
    page, shown = browser_page, browser_page.locator(".blindspots.patches")
    page.set_default_timeout(60_000)
    page.goto(address.format("patches.ipynb"))
    page.get_by_text("| Idle").wait_for()
    page.get_by_text("Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    shown.locator("li button").first.wait_for()
    said = shown.locator("[role=status]")
    shown.locator("canvas").hover(position={"x": 180, "y": 180})
    said.get_by_text("row 5, column 5").wait_for()
    shown.locator("canvas").press("ArrowRight")
    said.get_by_text("row 5, column 6").wait_for()
    shown.locator("canvas").click(position={"x": 180, "y": 180})  # holds the patch on the way to the list
    box = shown.locator("li button").first.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 8, steps=12)
    assert "row 5, column 5" in shown.inner_text()
    shown.locator("li button").first.click()
    assert page.evaluate("document.activeElement.closest('.patches li') !== null"), "the focus stays in the list"
    assert re.search(r" times 0\.00: [1-9]\d* of 64 patches move, at most by \d+ % of their length\.", shown.inner_text())
    shown.locator("input[type=range]").nth(1).press("Home")
    for _ in range(20):
        shown.locator("input[type=range]").nth(1).press("ArrowRight")
    assert "times 1.00: 0 of 64 patches move." in shown.inner_text()


# -- generate again ------------------------------------------------------------------------------------------------------------


def test_the_stored_settings_generate_the_stored_image_again(results):
    again = GenerateAgain(results)
    again.pair.value = 3
    again.button.click()
    assert again.said.value.startswith("seed ")
    table = again.energies
    assert list(table.columns) == ["real x", "x′ stored", "x′ new"]
    np.testing.assert_allclose(table["x′ stored"], table["x′ new"])  # pixel for pixel the same image
    energies = results.matrices["real"][[3]].toarray().ravel()
    concepts = [int(re.search(r"\d+", name.split("(")[-1])[0]) for name in table.index]
    np.testing.assert_allclose(table["real x"], energies[concepts], atol=0.02)
    assert bytes(again.picture.value).startswith(b"\x89PNG")
    again.seed.value = "1"
    again.button.click()
    other = again.energies
    assert not np.allclose(other["x′ stored"], other["x′ new"])
    again.seed.value = "one"
    again.button.click()
    assert again.said.value == "seed 'one': give a whole number from 0 to 2^63 - 1"
    assert not again.button.disabled


def test_a_study_of_external_images_says_that_none_of_its_models_draws_here(results, monkeypatch):
    monkeypatch.setattr(type(results.study), "pipelines", property(lambda study: []))
    again = GenerateAgain(results)
    assert again.button.disabled
    assert again.said.value == "no model of this study draws here: its images were made elsewhere"
