"""The whole pipeline on a world of other artwork (other_world.py): what is planted is found, and nothing in the model without.

Each test names the functions that it rests on. Worlds of other seeds: BLINDSPOTS_WORLD_SEED=2.
"""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from other_world import BACKGROUNDS, MODELS, N_COPIES, OBJECTS, Faults, Scene, draw, is_about, make_world, write_caption

from blindspots_lib import load_study, measure
from blindspots_lib.analysis.calls import make_calls
from blindspots_lib.analysis.captions import caption_vectors
from blindspots_lib.analysis.families import concept_families, family_energies, family_names
from blindspots_lib.analysis.memorization import find_copies, similar_captions_null
from blindspots_lib.analysis.names import name_concepts
from blindspots_lib.analysis.words import caption_words
from blindspots_lib.figures.findings import all_findings, headlines
from blindspots_lib.figures.report import N_HEADLINES

MOST_FALSE = 1  # words called among the first ten, besides those planted
SEED = int(os.environ.get("BLINDSPOTS_WORLD_SEED", 1))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A world measured once: its results, energies and captions, the planted faults, and what is in each real image."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLINDSPOTS_RUNS", str(folder / "runs"))
        patch.setenv("BLINDSPOTS_FIGURES", str(folder / "figures"))
        study = load_study(str(make_world(folder, SEED)))
        results = measure(study)
        truth = json.loads((folder / "truth.json").read_text())
        scenes = [Scene(**truth["real"][pair_id]) for pair_id in results.pair_ids]
        caption_of = dict(zip(results.pairs.pair_ids, results.pairs.captions, strict=True))
        yield SimpleNamespace(
            results=results, truth=truth, faults=Faults(**truth["faults"]), analysis=study.analysis,
            energies={source: energies.matrix for source, energies in results.energies.items()},
            captions=[caption_of[pair_id] for pair_id in results.pair_ids],
            present={thing: np.array([thing in scene.objects or thing == scene.background for scene in scenes])
                     for thing in (*OBJECTS, *BACKGROUNDS)},
        )  # fmt: skip


# -- the world itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_seen_on_every_background(name):
    for background in BACKGROUNDS:
        with_it, without = (
            np.asarray(draw(Scene(objects, background), 64, np.random.default_rng(5)), int) for objects in ({name: 1}, {})
        )
        assert 0.02 < (np.abs(with_it - without).max(axis=2) > 40).mean() < 0.3


def test_captions_say_what_is_drawn():
    rng, scene = np.random.default_rng(0), Scene({"anchor": 2, "fish": 1}, "stripes")
    assert {write_caption(scene, rng)[0] for _ in range(100)} == {
        "a drawing of two anchors and a fish", "two anchors and a fish on a striped background",
        "photo of two anchors and a fish, stripes", "two anchors and a fish in front of stripes",
        "Two anchors and a fish. Background: stripes.",
    }  # fmt: skip
    assert write_caption(Scene({"umbrella": 1}, "sky"), rng)[0].lower().split("an umbrella")[0] in (
        "",
        "photo of ",
        "a drawing of ",
    )
    assert is_about("striped background", "stripes")
    assert is_about("two anchor", "anchor")
    assert not is_about("dotted background", "stripes")


def test_what_is_planted_is_in_the_images(world):
    faults, truth = world.faults, world.truth
    drawn = [Scene(**truth["faulty"][pair_id]) for pair_id in truth["real"] if pair_id not in faults.copies]
    asked = [Scene(**truth["real"][pair_id]) for pair_id in truth["real"] if pair_id not in faults.copies]
    assert not any(faults.never in scene.objects or scene.background == faults.background for scene in drawn)
    kept = [faults.rarely in made.objects for made, wanted in zip(drawn, asked, strict=True) if faults.rarely in wanted.objects]
    added = [
        faults.added in made.objects for made, wanted in zip(drawn, asked, strict=True) if faults.added not in wanted.objects
    ]
    assert np.mean(kept) == pytest.approx(1 / 3, abs=0.25)
    assert np.mean(added) == pytest.approx(0.2, abs=0.06)
    assert all(truth["faultless"][pair_id]["objects"] == truth["real"][pair_id]["objects"] for pair_id in truth["real"])


# -- what the analysis finds ---------------------------------------------------------------------------------------------


def test_concepts_are_named_after_what_they_fire_on(world):
    """Rests on `name_concepts`."""
    energies, things = world.energies["real"].toarray(), list(world.present)
    fires = energies.any(axis=0)
    r = np.corrcoef(np.vstack([energies.T[fires], list(world.present.values())]))[: fires.sum(), fires.sum() :]
    clear = r.max(axis=1) >= 0.5
    names = name_concepts(world.energies["real"], world.captions, 0)["name"].to_numpy()[fires]
    right = [is_about(name, things[best]) for name, best in zip(names[clear], r[clear].argmax(axis=1), strict=True)]
    assert clear.sum() >= 100
    assert np.mean(right) >= 0.9
    permuted = np.random.default_rng(1).permutation(world.captions).tolist()
    assert (name_concepts(world.energies["real"], permuted, 0)["name"] != "").mean() <= 0.075


def test_the_lost_background_is_one_family_and_nothing_changes_where_nothing_did(world):
    """Rests on `make_calls`, of concepts and of families, `concept_families` and `name_concepts`."""
    names = name_concepts(world.energies["real"], world.captions, 0)["name"].tolist()
    statistics = world.results.energies["real"].stats
    families = concept_families(names, statistics.together, statistics.firings, None)
    energies = {source: family_energies(matrix, families) for source, matrix in world.energies.items()}
    for of_units in (energies, world.energies):
        nothing = make_calls(of_units["faultless"], of_units["real"], world.analysis)
        assert np.isin(nothing.call, ["suppressed", "exaggerated"]).sum() <= 1
    calls, named = make_calls(energies["faulty"], energies["real"], world.analysis), family_names(names, families)
    ranked = [(named[i], calls.call[i]) for i in np.argsort(calls.shrunken) if named[i]]
    assert ranked[0][1] == "suppressed"
    assert is_about(ranked[0][0], world.faults.background)
    assert any(is_about(name, world.faults.instead) for name, call in ranked if call == "exaggerated")


def test_all_faults_are_called_by_their_words(world):
    """Rests on `learn_detectors` and `asked_table`."""
    table, faults = world.results.asked, world.faults
    called = {model: called_words(table[table["model"] == model]) for model in MODELS}
    for side, things in planted_words(faults).items():
        for thing in things:
            assert any(at == side and is_about(word, thing) for at, word in called["faulty"][:10]), (thing, side, called)
    right = planted_words(faults)
    false = [word for side, word in called["faulty"][:10] if not any(is_about(word, thing) for thing in right[side])]
    assert len(false) <= MOST_FALSE, called
    assert len(called["faultless"]) <= 1, called


def planted_words(faults):
    return {"omission": (faults.never, faults.rarely, faults.background), "intrusion": (faults.added, faults.instead)}


def called_words(table):
    """Omissions and intrusions that are called, by the end of their interval that is nearer to 0.5, the surest first."""
    omitted, intruding = table[table["omission_call"] == "omitted"], table[table["intrusion_call"] == "intruding"]
    called = [
        *(("omission", row.word, 0.5 - row.omission_high) for row in omitted.itertuples()),
        *(("intrusion", row.word, row.intrusion_low - 0.5) for row in intruding.itertuples()),
    ]
    return [(side, word) for side, word, _ in sorted(called, key=lambda finding: -finding[2])]


def test_the_first_lines_of_the_report_name_all_faults(world):
    """Rests on `all_findings` and `headlines`; the page itself is held to them in test_report.py."""
    shown = headlines(all_findings(world.results, "faulty"), N_HEADLINES)
    for side, things in planted_words(world.faults).items():
        said = [finding.word for finding in shown[side]]
        assert all(any(is_about(word, thing) for word in said) for thing in things), (side, things, said)
    (copies,) = shown["copies"]
    n_copied = int("".join(copies.sentence).split()[1])
    assert N_COPIES <= n_copied <= N_COPIES + 0.02 * len(world.results.pair_ids)
    nothing = headlines(all_findings(world.results, "faultless"), N_HEADLINES)
    assert sum(len(nothing[kind]) for kind in ("omission", "intrusion", "suppressed", "exaggerated", "composition")) <= 1


def test_copies_come_first(world):
    """Rests on `find_copies`, `similar_captions_null` and `caption_vectors`."""
    results, rows = world.results, world.results.rows
    vectors = caption_vectors(caption_words(world.captions).presence)
    null = similar_captions_null(results.codes["real"], rows["real"], vectors)
    found = {m: find_copies(results.codes[m], results.codes["real"], rows[m], rows["real"], null) for m in MODELS}
    is_copy = np.isin(results.pair_ids, world.faults.copies)
    assert is_copy[np.argsort(-found["faulty"].similarity)[:N_COPIES]].all()
    called = {model: copies.call == "copy" for model, copies in found.items()}
    assert called["faulty"][is_copy].all()
    assert max(called["faulty"][~is_copy].mean(), called["faultless"].mean()) <= 0.02  # called at a rate of 0.01
