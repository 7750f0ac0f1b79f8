import errno
import json
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import TRIAL

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import write_json
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.data.scene_pairs import caption_owners
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS
from blindspots_lib.figures import widgets
from blindspots_lib.run import forecast, notebooks
from blindspots_lib.run.costs import trained_again
from blindspots_lib.run.stages import measure, open_results, sae_of
from blindspots_lib.run.times import seconds_by_notebook
from blindspots_lib.trial.plants import planted_in

STATED = {"against_oracle", "copies", "caption_noise", "detection", "histograms", "cross_model", "frequency", "stability"}
NAMES = [path.stem for path in sorted((PROJECT_ROOT / "notebooks").glob("[0-9]*.ipynb"))]


def test_every_figure_is_drawn_with_its_sidecar(smoke):
    study = load_study(str(smoke))
    folder, families = study.figures_folder, open_results(study).families
    names = {path.stem for path in folder.glob("*.png")}
    assert {"contact_sheet", "token_colours", "token_map", "sae_training", "concepts", "histograms", "scale_sd15", "concept_map",
            "cross_model", "frequency", "gallery_suppressed_sd15", "gallery_exaggerated_pixart", "cooccurrence", "datapoints",
            "pairs_least", "pairs_greatest", "training_similarity", "nearest_training", "detection", "against_oracle", "copies",
            "caption_noise", "ablations", "power"} <= names  # fmt: skip
    for name in names:
        sidecar = json.loads((folder / f"{name}.json").read_text())
        room, module, function = sidecar["function"].split(".")
        assert f"def {function}(" in (PROJECT_ROOT / "blindspots_lib" / room / f"{module}.py").read_text(), name
        assert sidecar["notebook"] in NAMES
        if name in STATED or name.startswith("scale_"):
            assert sidecar["numbers"], name
        if name.startswith("gallery_"):
            _, side, model = name.split("_")
            assert len(sidecar["numbers"]) == min(4, (families[f"call_{model}"] == side).sum()), name
        if sidecar["notebook"] == "06_validation":
            assert {key.split("/")[0] for key in sidecar["inputs"]} == {"images", "verdicts", "clip", "tables"}


def test_executed_notebooks_give_the_same_checked_outputs_again(smoke):
    executed = sorted((load_study(str(smoke)).folder / "notebooks").glob("[0-9]*.ipynb"))
    assert [path.stem for path in executed] == NAMES
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300",
               "-p", "no:cacheprovider", "--rootdir", str(executed[0].parent), *map(str, executed)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=executed[0].parent)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_plan_counts_every_sae_that_was_trained(smoke):
    study = load_study(str(smoke))
    beside = [path for path in study.folder.rglob("model.safetensors") if path.parent != sae_of(study).folder]
    assert len(trained_again(study)) == len(beside)


def precision_by_hand(deltas, planted):
    """Average precision, ties taken together: sum over levels of recall gained times precision there."""
    levels = [(planted[deltas <= level].mean(), planted[deltas == level].sum()) for level in np.unique(deltas)]
    return sum(precision * gained for precision, gained in levels) / planted.sum()


@pytest.fixture
def kept(smoke):
    """The study, its scorecard and the tables of its trial, by name."""
    study = load_study(str(smoke))
    card = json.loads((study.figures_folder / "scorecard.json").read_text())
    return study, card, {path.stem: pd.read_parquet(path) for path in study.folder.glob("tables/*/*.parquet")}


def test_the_scorecard_says_of_units_what_the_tables_say(kept):
    study, card, tables = kept
    units = tables["units"]
    for model in study.models:
        ours = units[(units["kind"] == "RA-SAE") & (units["model"] == model.name)]
        seeds = [group for _, group in ours.groupby("seed")]
        flagged = np.mean([((group["delta"] < 0.1) | (group["delta"] > 0.9)).mean() for group in seeds])
        assert card[model.name]["flagged_share"]["value"] == pytest.approx(flagged, rel=1e-3)
        for side, sign in (("suppressed", 1), ("exaggerated", -1)):
            known = [group[group["truth"] != ""] for group in seeds]
            if model.name == "perfect" or any((group["planted"] == side).sum() == 0 for group in known):
                assert card[model.name][f"{side}_ap_of_units"]["value"] is None
                continue
            values = [
                precision_by_hand(sign * group["delta"].to_numpy(), (group["planted"] == side).to_numpy()) for group in known
            ]
            assert card[model.name][f"{side}_ap_of_units"]["value"] == pytest.approx(np.mean(values), rel=1e-3)


@pytest.mark.parametrize(
    ("measure", "among"), [("ap", list(OBJECTS)), ("ap_of_truths", [*OBJECTS, *BACKGROUNDS, "four objects"])]
)
def test_the_scorecard_says_of_true_concepts_what_the_tables_say(kept, measure, among):
    study, card, tables = kept
    ours = tables["truths"][(tables["truths"]["kind"] == "RA-SAE") & tables["truths"]["truth"].isin(among)]
    for model in study.pipelines:
        for side, sign in (("suppressed", 1), ("exaggerated", -1)):
            by_seed = [
                precision_by_hand(sign * group["delta"].fillna(0.5).to_numpy(), (group["planted"] == side).to_numpy())
                for _, group in ours[ours["model"] == model.name].groupby("seed")
            ]
            assert card[model.name][f"{side}_{measure}"]["value"] == pytest.approx(np.mean(by_seed), rel=1e-3)


def test_the_scorecard_says_of_pairs_what_the_tables_say(kept):
    study, card, tables = kept
    pair_ids, owners = open_results(study).pairs.pair_ids, caption_owners(study.pairs)
    noise = [pair_id for position, pair_id in enumerate(pair_ids) if owners[position] != position]
    repeated = {model.name: set(planted_in(model).copies) for model in study.models}
    for model in study.models:
        table = tables["datapoints"][tables["datapoints"]["model"] == model.name]
        high = table[table["energy_distance"] >= table["energy_distance"].quantile(0.95)]
        assert card[model.name]["noise_share"]["value"] == pytest.approx(high["pair_id"].isin(noise).mean(), rel=1e-3)
        copied = table["pair_id"].isin(repeated[model.name] or set().union(*repeated.values()))
        others = table[table["pair_id"].str.startswith("scene-1-") & ~copied]
        apart = table.loc[copied, "distance_in_place"].to_numpy()[:, None] - others["distance_in_place"].to_numpy()
        wins = (apart < 0).mean() + (apart == 0).mean() / 2
        assert card[model.name]["memorization_auroc"]["value"] == pytest.approx(wins, rel=1e-3)


def test_the_forecast_counts_what_is_not_finished_and_says_what_is_left(make_study, monkeypatch, tmp_path):
    study, files = make_study(), [PROJECT_ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]
    write_json(study.folder / "notebooks" / "04_energy_analysis.json", {"seconds": 50.0})  # its last run
    with monkeypatch.context() as patch:
        patch.setattr(forecast, "measured", lambda study_file: {"01_generation": 100.0, "03_rasae_training": 30.0})
        said = forecast.Forecast(study, tmp_path, files)
    assert said.before("01_generation").startswith("time in all: about 3 min for what is not finished")
    assert said.before("02_dinov2_features").startswith("time in all: about 80 s for")  # what is current counts nothing
    assert [said.after(name) for name in NAMES[:4]] == [f", about {left} s left" for left in (80, 80, 50, 0)]
    assert said.after(NAMES[-1]) == ""
    lost = make_study({"models.0.path": "miniatures/none"})
    said = forecast.Forecast(lost, tmp_path / "study.yaml", files)  # measured by another process
    assert said.before(NAMES[0]) == "time in all: not known (Mini SD 1.5: its weights are not here; `make fetch` gets them)"
    assert said.after(NAMES[0]) == ""


def test_what_is_finished_takes_no_time(smoke):
    assert set(seconds_by_notebook(str(smoke)).values()) == {0.0}


def test_second_run_does_nothing(smoke):
    assert notebooks.run_study(str(smoke)) == []


def test_notebooks_run_again_when_the_judges_change(make_study):
    study = make_study(TRIAL)
    notebook = PROJECT_ROOT / "notebooks" / "06_validation.ipynb"
    exchanged = study.validation.model_copy(update={"oracle": study.validation.clip})
    inputs = [notebooks.notebook_inputs(s, notebook) for s in (study, study.model_copy(update={"validation": exchanged}))]
    assert {name for name in inputs[0] if inputs[0][name] != inputs[1][name]} == {"oracle", "study"}


def test_missing_or_foreign_figure_is_drawn_again_and_no_stage_with_it(smoke):
    study = load_study(str(smoke))
    headers = {path: path.stat().st_mtime_ns for path in study.folder.rglob("header.json")}
    (study.figures_folder / "datapoints.png").write_bytes(b"not what the notebook drew")
    assert notebooks.run_study(str(smoke)) == ["05_memorization"]
    assert {path: path.stat().st_mtime_ns for path in study.folder.rglob("header.json")} == headers


def headers_of(study):
    """When the header of each output was written; those set aside do not count."""
    folders = {path.parent.relative_to(study.folder): path.stat().st_mtime_ns for path in study.folder.rglob("header.json")}
    return {folder.as_posix(): time for folder, time in folders.items() if folder.parts[0] != "superseded"}


def test_changed_input_reruns_exactly_what_depends_on_it(smoke):
    study = load_study(str(smoke))
    headers = headers_of(study)
    original = smoke.read_text()
    smoke.write_text(original.replace("suppressed_below: 0.1", "suppressed_below: 0.2"))
    try:
        changed = measure(load_study(str(smoke)))
        assert len(changed.concepts) == study.sae.n_concepts
        assert len(changed.datapoints)
        after = headers_of(study)
        tables = {"concepts", "families", "asked", "composition", "claims", "coherence", "image_errors", "word_errors",
                  "energy_definitions"}  # fmt: skip
        assert {name for name in after if after[name] != headers[name]} == {f"tables/{name}" for name in tables}
    finally:
        smoke.write_text(original)
        measure(study)


def test_stages_know_what_they_depend_on(make_study, monkeypatch, tmp_path):
    """Which fingerprints a change of the study moves, without running anything."""

    def fingerprints(changes):
        results = open_results(make_study(changes))
        chain = {"pairs": results.sources["real"], "sd15": results.sources["sd15"], "pixart": results.sources["pixart"]}
        chain |= {"sae": results.sae, "energies": results.energies_of["real"], "its energies": results.energies_of["sd15"]}
        return {name: artifact.fingerprint for name, artifact in chain.items()}

    before = fingerprints({})
    for changes, moved in [
        ({"title": "Another"}, set()),
        ({"models.0.batch_size": 7}, set()),  # it decides nothing
        ({"models.0.steps": 3}, {"sd15", "its energies"}),
        ({"models.0.label": "Other"}, set()),
        ({"sae.seed": 5}, {"sae", "energies", "its energies"}),
        ({"analysis.tokens": "all"}, {"energies", "its energies"}),
        ({"analysis.suppressed_below": 0.2}, set()),
        ({"models.2": TRIAL["models.2"]}, set()),  # another model touches no other,
        ({"pairs.seed": 12}, set(before)),
    ]:
        after = fingerprints(changes)
        assert {name for name in before if before[name] != after[name]} == moved, changes


def notebook_file(path, source, tagged=True):
    cells = [nbformat.v4.new_code_cell("study_file = 'mini'", metadata={"tags": ["parameters"] if tagged else []}),
             nbformat.v4.new_code_cell(source)]  # fmt: skip
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from blindspots_lib.core.errors import StudyError\nraise StudyError('mend this')", r"^mend this$"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            r"^bad.ipynb: its kernel was killed, probably for want of memory \(it had held [\d.]+ .?B\); .* work is kept$",
        ),
        ("1 / 0", r"^bad.ipynb, cell 3: ZeroDivisionError: division by zero; traceback in .*failed-bad.ipynb$"),
        (
            "import ipywidgets\nout = ipywidgets.Output()\n"
            "out.outputs = ({'output_type': 'error', 'ename': 'KeyError', 'evalue': 'k', 'traceback': []},)\ndisplay(out)",
            r"^bad.ipynb: a widget failed: KeyError: k; traceback in .*failed-bad.ipynb$",
        ),
        (
            "import anywidget, traitlets\nshown = anywidget.AnyWidget()\n"
            "shown.add_traits(error=traitlets.Unicode('KeyError: k').tag(sync=True))\nshown.send_state('error')",
            r"^bad.ipynb: a widget failed: KeyError: k; traceback in .*failed-bad.ipynb$",
        ),
    ],
)
def test_failing_notebook_is_one_line_and_its_copy_is_kept(write_study, tmp_path, source, message):
    study_file = write_study()
    notebook = notebook_file(tmp_path / "bad.ipynb", source)
    with pytest.raises(StudyError, match=message):
        notebooks.run_notebook(load_study(str(study_file)), study_file, notebook, tmp_path / "executed")
    assert [path.name for path in (tmp_path / "executed").iterdir()] == ["failed-bad.ipynb"]


def test_a_full_disk_under_papermill_is_one_line(write_study, tmp_path, monkeypatch):
    def execute(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    study_file, notebook = write_study(), notebook_file(tmp_path / "any.ipynb", "pass")
    with pytest.raises(StudyError, match=r"failed-any.ipynb: the disk is full .*finished work is kept"):
        notebooks.run_notebook(load_study(str(study_file)), study_file, notebook, tmp_path / "executed")


def test_notebook_without_parameters_is_refused(write_study, tmp_path):
    study_file = write_study()
    notebook = notebook_file(tmp_path / "bad.ipynb", "pass", tagged=False)
    with pytest.raises(StudyError, match="no cell tagged 'parameters'"):
        notebooks.run_notebook(load_study(str(study_file)), study_file, notebook, tmp_path / "executed")


def test_command_line_ends_with_one_line_and_not_zero():
    done = subprocess.run([sys.executable, "-m", "blindspots_lib", "figures", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_moving_the_slider_draws_other_pairs_and_an_error_is_shown(smoke, monkeypatch):
    first, failure, picture = widgets.explore_pairs(open_results(load_study(str(smoke)))).children
    before = bytes(picture.value)
    assert before.startswith(b"RIFF")
    first.value = 9
    after = bytes(picture.value)
    assert after.startswith(b"RIFF")
    assert after != before
    monkeypatch.setattr(widgets, "drawn", lambda results, first: 1 / 0)
    first.value = 3
    assert failure.value == "ZeroDivisionError: division by zero"
    assert bytes(picture.value) == after


STREAMS = [("stderr", "\rpairs:  18%|█▊  | 175/1000 [00:10<00:47]"), ("stderr", "\n"), ("stderr", "\x1b[A"),
           ("stderr", "generations/sd15: made again, steps 6 -> 8\n"), ("stdout", "pairs: 3\n")]  # fmt: skip


def test_an_executed_notebook_keeps_the_picture_of_a_widget_and_not_the_widget_and_no_progress(tmp_path):
    view, state = notebooks.WIDGET_VIEW, notebooks.WIDGET_STATE
    data = [{view: {"model_id": "a"}, "image/png": "AAAA"}, {view: {"model_id": "b"}, "text/plain": "IntSlider()"}]
    streams = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in STREAMS]
    cell = nbformat.v4.new_code_cell("", outputs=streams + [nbformat.v4.new_output("display_data", entry) for entry in data])
    saved = {state: {"version_major": 2, "version_minor": 0, "state": {"a": {"state": {}}, "b": {"state": {}}}}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": saved}), tmp_path / "ran.ipynb")
    notebooks.tidy(tmp_path / "ran.ipynb")
    kept = nbformat.read(tmp_path / "ran.ipynb", 4)
    told = [output for output in kept.cells[0].outputs if output.output_type == "stream"]
    assert [(output.name, output.text) for output in told] == STREAMS[3:]
    assert [set(output["data"]) for output in kept.cells[0].outputs[len(told) :]] == [{"image/png"}, {view, "text/plain"}]
    assert set(kept.metadata.widgets[state]["state"]) == {"b"}
