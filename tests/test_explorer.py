"""The static explorer: its arrays against brute force, its folder, strangers' text, and the page itself in a real browser."""

import base64
import csv
import itertools
import json
import math
import re
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import scipy.sparse as sp
from axe_playwright_python.sync_playwright import Axe
from browser import Screen
from fake_answers import FakeResults, asked_rows, fake_results, fake_table
from PIL import Image

from blindspots_lib.analysis.energies import TokenCodes
from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.statistics import ConceptStats, ShardCodes, image_energies
from blindspots_lib.core.errors import StudyError
from blindspots_lib.figures import explorer, explorer_data
from blindspots_lib.models.backbone import TokenLayout

LAYOUT = TokenLayout(n_registers=1, patches_per_side=3, width=8)
HOSTILE = [
    "</script><script>window.hit=1</script>", '"><img src=x onerror="window.hit=1">', "\u202ereversed \u2028 line", "=1+2",
    "$x^{ & <b>", "n" * 10_000,
]  # fmt: skip


class MadeCodes(TokenCodes):
    """Codes in memory: one shard."""

    def __init__(self, codes):
        self.layout, self.n_concepts = LAYOUT, codes.shape[2]
        self.starts, self.shard = np.array([0, codes.shape[0]]), lambda _: codes


def random_codes(rng, n_images, n_concepts, top_k=2):
    """Codes of random concepts; concept 3 never fires."""
    fires = np.zeros((n_images * LAYOUT.n_tokens, n_concepts), np.float16)
    alive = [k for k in range(n_concepts) if k != 3]
    for row in fires:
        row[rng.choice(alive, top_k, replace=False)] = rng.uniform(0.1, 2, top_k)
    token, concept = np.nonzero(fires)
    offsets = np.concatenate([[0], np.bincount(token, minlength=len(fires)).cumsum()])
    return ShardCodes((n_images, LAYOUT.n_tokens, n_concepts), offsets, concept.astype(np.uint32), fires[token, concept])


def made_results(study, names, captions, seed=0, n_lost=2):
    """Results whose codes, energies and statistics fit together; images of the sources stand in other orders."""
    rng, n, k = np.random.default_rng(seed), len(captions), len(names)
    sources = ["real", *(model.name for model in study.models)]
    models, deltas = sources[1:], np.linspace(0.02, 0.97, k)
    asked = [row for model in models for row in asked_rows(model, {"guitar": (9, 0.1, 0.5), "cat": (7, 0.5, 0.9)})]
    results = fake_results(study, fake_table(models, deltas, names), asked=asked, captions=captions, copies=(1,))
    codes = {source: MadeCodes(random_codes(rng, n + n_lost, k)) for source in sources}
    rows = {source: rng.permutation(n + n_lost)[:n] for source in sources}
    energies = {}
    for source in sources:
        chosen, stats = codes[source].at(rows[source], LAYOUT.patches), ConceptStats.empty(k)
        stats.add(chosen, np.arange(n))
        energies[source] = SimpleNamespace(matrix=image_energies(chosen), stats=stats)
    results.__dict__.update(codes=codes, rows=rows, energies=energies)
    if study.training_corpus:
        results.datapoints["training_index"] = rng.integers(0, study.training_corpus.n, len(results.datapoints))
        results.datapoints["training_similarity"] = 0.9
    return results


@pytest.fixture
def places(monkeypatch):
    made = property(lambda results: np.random.default_rng(1).random((len(results.concepts), 2), np.float32))
    monkeypatch.setattr(Results, "places", made)


def dense_heat(results, source, position, concept):
    codes = results.codes[source].at(results.rows[source][[position]], LAYOUT.patches)
    return codes.matrix(np.float64).toarray()[:, concept]


def test_heatmaps_are_those_of_brute_force(make_study):
    results = made_results(make_study(), ["a"] * 9, ["c"] * 12)
    for source, codes in results.codes.items():
        top = explorer_data.top_images(results.energies[source].stats)
        heat = explorer_data.top_heat(codes, results.rows[source], top.positions)
        energies = results.energies[source].matrix.toarray()
        for k, i in itertools.product(range(9), range(explorer_data.N_TOP)):
            slot, position = k * explorer_data.N_TOP + i, top.positions[k, i]
            entries = slice(*heat.offsets[slot : slot + 2])
            found = np.zeros(9)
            found[heat.patches[entries]] = heat.values[entries]
            assert position == (np.lexsort((np.arange(12), -energies[:, k]))[i] if (energies[:, k] > 0).sum() > i else -1)
            np.testing.assert_allclose(found, dense_heat(results, source, position, k) if position >= 0 else 0)


def test_one_concept_is_the_same_as_all_at_once(make_study):
    results = made_results(make_study(), ["a"] * 9, ["c"] * 12)
    tops = {source: explorer_data.top_images(energies.stats) for source, energies in results.energies.items()}
    heats = {s: explorer_data.top_heat(results.codes[s], results.rows[s], tops[s].positions) for s in tops}
    strength = explorer_data.heat_strength(heats, 9)
    for k in range(9):
        for source, images in explorer_data.concept_images(results, k).items():
            assert [at for at, _, _ in images] == [at for at in tops[source].positions[k] if at >= 0]
            for at, energy, heat in images:
                dense = dense_heat(results, source, at, k)
                assert energy == pytest.approx(dense.sum(), rel=1e-6)
                assert np.abs(heat - 255 * dense / strength[k]).max() <= 0.51
                assert ((heat > 0) == (dense > 0)).all()
    assert not any(explorer_data.concept_images(results, 3).values())


def test_the_strongest_concept_of_each_patch_is_that_of_brute_force(make_study):
    results = made_results(make_study(), ["a"] * 9, ["c"] * 12)
    codes, rows = results.codes["real"], results.rows["real"]
    codes.shard(0).values[:40] = 0.5  # equals
    found = explorer_data.strongest_concepts(codes, rows)
    dense = codes.patch_codes(rows).toarray().reshape(12, 9, 9)
    np.testing.assert_array_equal(found, dense.argmax(axis=2))
    silent = MadeCodes(ShardCodes((1, LAYOUT.n_tokens, 9), np.zeros(12, int), np.zeros(0, np.uint32), np.zeros(0, np.float16)))
    assert (explorer_data.strongest_concepts(silent, np.array([0])) == -1).all()


def test_strongest_overlaps_are_those_of_brute_force():
    dense = np.random.default_rng(0).random((30, 30)) * (np.random.default_rng(1).random((30, 30)) < 0.4)
    dense[7] = 0
    concepts, values = explorer_data.strongest_overlaps(sp.csr_matrix(dense.astype(np.float32)))
    for k, row in enumerate(dense):
        best = [j for j in np.argsort(-row, kind="stable")[: explorer_data.N_TOGETHER] if row[j] > 0]
        assert concepts[k].tolist() == best + [-1] * (explorer_data.N_TOGETHER - len(best))
        np.testing.assert_allclose(values[k, : len(best)], row[best], rtol=1e-6)


def unpacked(packed):
    """What folder.js reads from a packed array."""
    steps = np.frombuffer(base64.b64decode(packed["data"]), f"<{packed['kind']}").astype(float)
    if "range" in packed:
        low, high = packed["range"]
        return np.where(steps > 65534, np.nan, low + steps / 65534 * (high - low))
    if "log" in packed:
        low, high = packed["log"]
        return np.where(steps > 0, np.exp(low + (steps - 1) / 65533 * (high - low)), 0)
    return np.where((steps == np.iinfo(packed["kind"]).max) & bool(packed["whole"]), -1, steps)


@pytest.mark.parametrize(("pack", "values", "error"), [
    (explorer.integers, [0, 254], 0), (explorer.integers, [-1, 255, 3], 0), (explorer.integers, [70_000, -1], 0),
    (explorer.integers, [], 0), (explorer.fractions, [0, 0.1, 0.9, 1, np.nan], 1e-5), (explorer.scaled, [-7.5, 3, np.nan], 1e-4),
    (explorer.scaled, [np.nan], 0), (explorer.scaled, [2, 2], 0), (explorer.logarithms, [0, 1e-6, 3e-3, 40], 2e-4),
    (explorer.logarithms, [0, 0], 0), (explorer.logarithms, [5], 1e-9),
])  # fmt: skip
def test_packed_numbers_come_back(pack, values, error):
    packed = json.loads(json.dumps(pack(np.array(values, float)), allow_nan=False))
    values, found = np.array(values, float), unpacked(packed)
    scale = np.maximum(np.abs(values), 1e-12) if pack is explorer.logarithms else 1
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    assert np.all(np.nan_to_num(np.abs(found - values) / scale) <= error)


def content(folder, name):
    text = (folder / f"{name}.js").read_text(encoding="ascii")
    assert "<" not in text
    match = re.fullmatch(rf'BlindspotsExplorer\.receive\("{name}",(.*)\);\n', text, re.S)
    return json.loads(match[1])


def test_the_folder_holds_what_was_found(make_study, tmp_path, places):
    study = make_study()
    results = made_results(study, [*HOSTILE, "guitar", "", "cat"], [*HOSTILE, "a guitar"])
    page = explorer.write_explorer(results, tmp_path / "made" / "explorer")
    folder = page.parent
    found, model = content(folder, "data"), study.models[0].name
    assert [found["names"][int(i)] for i in unpacked(found["name"])] == [*HOSTILE, "guitar", "", "cat"]
    np.testing.assert_allclose(unpacked(found["models"][model]["shrunken"]), results.concepts[f"shrunken_{model}"], atol=1e-5)
    calls = [explorer_data.CALLS[int(i) % 4] for i in unpacked(found["models"][model]["verdict"])]
    assert calls == results.concepts[f"call_{model}"].tolist()
    np.testing.assert_allclose(
        unpacked(content(folder, "models/0")["shrunken_high"]), results.concepts[f"shrunken_high_{model}"].clip(0, 1), atol=1e-5
    )
    by_presence = content(folder, "definitions")[model]["presence"]
    images = {source: (energies.matrix > 0).sum(axis=0) for source, energies in results.energies.items()}
    with np.errstate(invalid="ignore"):
        expected = np.asarray(images[model] / (images[model] + images["real"])).ravel()  # by hand: images that have it
    np.testing.assert_allclose(unpacked(by_presence), expected, atol=1e-5)
    assert "planted" not in found["models"][model]
    assert content(folder, "captions")["caption"] == [*HOSTILE, "a guitar"]
    assert unpacked(content(folder, "captions")["models"][model]["copy"]).tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert content(folder, "families")["concepts"] == [[k] for k in range(9)]
    assert {row["word"] for row in content(folder, "asked")} == {"guitar", "cat"}
    shard = content(folder, "concepts/00000")
    real = shard["sources"]["real"]
    top = results.energies["real"].stats.top_ids[:, :8]
    np.testing.assert_array_equal(unpacked(real["pair"]).reshape(9, 8), top)
    sources = ["real", "training", *(m.name for m in study.models)]
    training = unpacked(content(folder, "captions")["training"]).astype(int)
    assert set(training) == set(results.datapoints["training_index"])
    side = explorer.thumb_side(results)
    with Image.open(folder / "thumbs" / "training-0000.webp") as sheet:
        shown = np.asarray(sheet.convert("RGB").crop((0, 0, side, side)), float)
    drawn = explorer_data.training_image(results, int(training[0])).resize((side, side), Image.Resampling.LANCZOS)
    assert np.abs(shown - np.asarray(drawn, float)).mean() < 12
    facts = content(folder, "facts")
    np.testing.assert_allclose(unpacked(facts["lift"]), results.concepts["name_lift"], atol=1e-4)
    assert sorted(path.name for path in (folder / "thumbs").iterdir()) == sorted(f"{s}-0000.webp" for s in sources)
    assert all(re.fullmatch(r"[a-z0-9._-]+", path.name) for path in folder.rglob("*"))


def test_an_explorer_is_replaced_when_the_new_one_is_whole(make_study, tmp_path, places, monkeypatch):
    results, folder = made_results(make_study(), ["a", "b"], ["c"]), tmp_path / "explorer"
    explorer.write_explorer(results, folder)
    (folder / "data.js").write_text("old")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(explorer, "write_thumbs", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        explorer.write_explorer(results, folder)
    assert (folder / "data.js").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if "explorer" in path.name] == ["explorer"]
    explorer.write_explorer(results, folder)
    assert content(folder, "data")["meta"]["n_concepts"] == 2
    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.txt").write_text("mine")
    with pytest.raises(StudyError, match="something else than an explorer"):
        explorer.write_explorer(results, other)
    assert (other / "holiday.txt").read_text() == "mine"


def test_thumbnails_become_smaller_where_there_are_many():
    def side(n_pairs, own):
        results = object.__new__(FakeResults)
        images = {source: {"p": SimpleNamespace(size=(own, own + 9))} for source in ("real", *range(5))}
        results.__dict__.update(completeness=(["p"] * n_pairs, {}), images=images)
        return explorer.thumb_side(results)

    assert [side(100, 64), side(100, 512), side(10_000, 512)] == [64, 128, 80]
    assert side(10_000, 512) ** 2 * 60_000 * explorer.BYTES_PER_PIXEL <= explorer.SHEETS_BYTES


def test_the_front_end_writes_no_markup_and_loads_nothing_from_elsewhere():
    names = {path.name for path in explorer.FRONTEND.iterdir()}
    assert names == {*explorer.SCRIPTS, "folder.js", "kernel.js", "notebook.js", "patches.js", "explorer.css"}
    for path in explorer.FRONTEND.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?:|@import|\bfetch\(", text
        ), path
        assert len(text.splitlines()) < 350


# -- in a real browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(make_study, tmp_path, places):
    """The address of an explorer of 70 concepts and 66 pairs."""
    names = [*HOSTILE, *(f"{word} {i}" if word else "" for i in range(16) for word in ("guitar", "cat", "palm tree", ""))]
    captions = [*HOSTILE, *(f"a {word} on wood" for _ in range(20) for word in ("guitar", "cat", "zebra"))]
    results = made_results(make_study({"title": HOSTILE[0]}), names, captions)
    planted = {"sd15": ["suppressed"] * 4 + ["exaggerated"] + [""] * 65}
    return explorer.write_explorer(results, tmp_path / "explorer", planted).as_uri()


def open_page(page, address):
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("main > *")


def until(page, condition, seconds=10):
    """Wait for a condition in JavaScript. (Playwright's own waiting evaluates text in the page, which its policy forbids.)"""
    for _ in range(seconds * 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"not within {seconds} s: {condition}")


def state(page):
    return page.evaluate("BlindspotsExplorer.explorer.state()")


def wait_for_card(page, concept):
    page.wait_for_selector(f".pictures[data-ready='{concept}']")


def test_search_card_and_keyboard(browser_page, made):
    page = browser_page
    open_page(page, made)
    page.keyboard.press("/")
    page.keyboard.type("0")
    page.keyboard.press("Enter")
    wait_for_card(page, 0)
    assert state(page)["concept"] == 0
    assert HOSTILE[0] in page.inner_text(".card h2")
    until(page, "[...document.querySelectorAll('.picture img')].every((image) => image.naturalWidth > 0)")
    assert page.locator(".heat").count() > 0
    page.keyboard.press("Escape")
    assert state(page)["concept"] is None
    page.keyboard.press("Escape")
    page.fill("input[type=search]", "zebra")  # no name, but a word of captions
    until(page, "document.querySelector('.list .note')?.textContent.includes('captions of top images')")
    assert state(page)["find"] == "zebra"
    page.fill("input[type=search]", "palm tree")
    until(page, "document.querySelector('.counts').textContent.startsWith('16 of 70')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    first = state(page)["concept"]
    until(page, "document.activeElement.tagName === 'H2'")
    page.keyboard.press("ArrowRight")
    until(page, f"BlindspotsExplorer.explorer.state().concept !== {first}")
    page.keyboard.press("ArrowLeft")
    assert state(page)["concept"] == first
    reached = set()
    for _ in range(60):  # no trap: the focus goes round
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('header, main, aside')?.tagName ?? 'outside'"))
    assert {"HEADER", "MAIN", "ASIDE"} <= reached
    assert page.evaluate("window.hit") is None


def test_brush_model_link_and_csv(browser_page, made):
    page = browser_page
    open_page(page, made)
    box = page.locator("[data-plot=ma] canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + box["height"] * 0.55)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] - 36, steps=4)
    counted = page.inner_text(".counts")  # while dragging
    page.mouse.up()
    chosen = int(re.match(r"(\d+) of 70", page.inner_text(".counts"))[1])
    assert counted == page.inner_text(".counts")
    assert 0 < chosen < 70
    page.select_option("label:text-is('Second model') + select, label:text-is('Second model') ~ select", index=0)
    until(page, "location.hash.includes('second=') && location.hash.includes('region=')")
    shared, counts = page.url, page.inner_text(".counts")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(waiting.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == chosen
    assert all(float(row["shrunken_sd15"]) < 0.5 for row in rows)
    assert not [row["name"] for row in rows if row["name"].startswith("=")]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="PNG").click()
    assert waiting.value.path().read_bytes()[:4] == b"\x89PNG"
    open_page(page, shared)
    assert page.inner_text(".counts") == counts
    assert "ma_box" in unquote(shared)
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelector('.counts').textContent.startsWith('70 of 70')")


def test_filters_and_sliders_are_those_of_brute_force(browser_page, made):
    page = browser_page
    open_page(page, made)
    delta = np.linspace(0.02, 0.97, 70)
    shrunken = delta + 0.1 * (0.5 - delta)
    assert (
        page.inner_text(".counts")
        == f"70 of 70 concepts chosen: {(shrunken < 0.1).sum()} below 0.10, {(shrunken > 0.9).sum()} above 0.90"
    )
    slider = page.get_by_label("λ min")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.counts').textContent.includes('{(shrunken < 0.3).sum()} below 0.30')")
    page.get_by_label("δ shown").select_option("raw")
    until(page, f"document.querySelector('.counts').textContent.includes('{(delta < 0.3).sum()} below 0.30')")
    page.get_by_label("Call", exact=True).select_option("suppressed")
    until(page, f"document.querySelector('.counts').textContent.startsWith('{(delta < 0.35).sum()} of')")
    page.get_by_label("Shared").select_option("only")
    until(page, "document.querySelector('.counts').textContent.startsWith('0 of')")
    page.get_by_role("button", name="Reset all").click()
    until(page, "document.querySelector('.counts').textContent.startsWith('70 of 70')")
    for wanted, n in (("any", 5), ("suppressed", 4), ("exaggerated", 1), ("none", 65)):
        page.get_by_label("Planted").select_option(wanted)
        until(page, f"document.querySelector('.counts').textContent.startsWith('{n} of')")
    page.get_by_label("Planted").select_option("exaggerated")
    page.locator(".list button.concept").first.click()
    until(page, "document.querySelector('.card .facts')?.textContent.endsWith('Planted in Mini SD 1.5 as exaggerated.')")
    page.get_by_role("button", name="Reset all").click()


def test_delta_by_another_definition_of_energy(browser_page, made):
    page = browser_page
    open_page(page, made)
    page.get_by_label("δ shown").select_option("presence")
    until(page, "/^69 of 69 concepts/.test(document.querySelector('.counts').textContent)")  # one never fires
    value = page.inner_text(".list ol li:first-child .value")
    assert re.fullmatch(r"0\.\d\d", value), value  # without an interval


@pytest.mark.parametrize("browser_page", [Screen(390, 844, "dark"), Screen(1440, 900, "light")], indirect=True)
def test_every_view_fits_the_screen_and_is_labelled(browser_page, made):
    page = browser_page
    open_page(page, made)
    for view in ("Two models", "Asked", "Pairs", "Help", "Overview"):
        page.get_by_role("navigation").get_by_role("button", name=view).click()
        page.wait_for_selector(f"nav button[aria-current]:text-is('{view}')")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        unlabelled = """[...document.querySelectorAll('button, input, select')].filter((node) => !(node.labels?.length
            || node.getAttribute('aria-label') || node.textContent.trim() || node.querySelector('[aria-label]'))).length"""
        assert page.evaluate(unlabelled) == 0, view
        assert violations(page) == [], view
    page.locator(".list button.concept").first.click()
    page.wait_for_selector(".pictures[data-ready]")
    assert violations(page) == []
    assert page.evaluate("document.querySelector('.card').getBoundingClientRect().right <= innerWidth + 1")
    ink, paper = page.evaluate(
        "['color', 'background-color'].map((key) => getComputedStyle(document.querySelector('.blindspots'))[key])"
    )
    assert contrast(ink, paper) > 7


def violations(page):
    """What axe finds against the rules of accessibility."""
    options = {"resultTypes": ["violations"], "preload": False}  # the page may not fetch its own style sheet
    found = Axe().run(page, options=options).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


def contrast(first, second):
    """The ratio of luminances of two colours, by WCAG."""

    def luminance(colour):
        channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return math.fsum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_pairs_show_captions_as_text(browser_page, made):
    page = browser_page
    open_page(page, f"{made}#view=pairs&pair=1")
    page.wait_for_selector(".chosen .picture")
    assert HOSTILE[1] in page.inner_text(".chosen h3")
    page.get_by_label("Sorted by").select_option("copies")
    until(page, "document.querySelectorAll('article.pair').length === 12")
    assert page.locator(".chosen .chip:text-is('copy')").count() == 1
    page.locator(".chosen .leading button.concept").first.wait_for()
    until(page, "[...document.querySelectorAll('.chosen .nearest img')].filter((image) => image.naturalWidth > 0).length === 2")
    picture, opened = page.locator(".chosen .picture").first, page.locator(".chosen .here").first
    picture.hover(position={"x": 5, "y": 5})
    hovered = opened.inner_text()
    picture.click(position={"x": 5, "y": 5})
    page.wait_for_selector(".card h2")
    assert hovered != ""
    assert re.search(r"\d+", hovered)[0] in page.inner_text(".card h2 .number, .card h2") or state(page)["concept"] < len(HOSTILE)
    assert page.evaluate("[window.hit, document.querySelectorAll('script[src]').length > 0]") == [None, True]
