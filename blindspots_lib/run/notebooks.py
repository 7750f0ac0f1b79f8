"""Run the numbered notebooks of a study in sequence with papermill. Those whose inputs have not changed are skipped."""

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blindspots_lib.core.config import ExternalImages
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import file_fingerprint, fingerprint_of, holding, naming_full_disk, read_json, write_json
from blindspots_lib.core.hub import weights_fingerprint
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import Study, load_study, study_path
from blindspots_lib.data.sources import corpus_inputs, source_inputs
from blindspots_lib.models.external import images_fingerprint
from blindspots_lib.run.costs import duration, in_units
from blindspots_lib.run.forecast import Forecast
from blindspots_lib.run.remote import parts_of

WIDGET_STATE, WIDGET_VIEW = "application/vnd.jupyter.widget-state+json", "application/vnd.jupyter.widget-view+json"


def notebook_inputs(study: Study, notebook: Path) -> dict[str, str]:
    """Return fingerprints of all that decides a notebook's figures: itself, the study, code, packages, weights, images."""
    external = [model for model in study.models if isinstance(model, ExternalImages)]
    corpus = getattr(study.sae, "corpus", None)
    sources = sorted((PROJECT_ROOT / "blindspots_lib").rglob("*.py"))
    return {
        "notebook": file_fingerprint(notebook), "study": fingerprint_of(study.model_dump(mode="json")),
        "code": fingerprint_of({str(path.relative_to(PROJECT_ROOT)): file_fingerprint(path) for path in sources}),
        "packages": file_fingerprint(PROJECT_ROOT / "requirements.lock"),
        **{name: weights_fingerprint(place) for name, place in parts_of(study)},
        **{f"images/{model.name}": images_fingerprint(model) for model in external},
        **source_inputs(study.pairs), "corpus": fingerprint_of(corpus_inputs(corpus) if corpus else {}),
    }  # fmt: skip


def figures_by(study: Study, notebook: str) -> dict[str, str]:
    """Return the files of a notebook's figures, by their sidecars, with fingerprints."""
    files = [file for sidecar in sidecars_of(study, notebook) for file in figure_files(sidecar)]
    return {file.name: file_fingerprint(file) if file.exists() else "missing" for file in sorted(files)}


def sidecars_of(study: Study, notebook: str) -> list[Path]:
    return [path for path in study.figures_folder.glob("*.json") if read_json(path).get("notebook") == notebook]


def figure_files(sidecar: Path) -> list[Path]:
    return [sidecar.with_suffix(suffix) for suffix in (".png", ".pdf", ".json")]


def remove_stale_figures(study: Study, notebook: str, since: float) -> None:
    """Remove the figures of a notebook that the run which began at `since` did not draw."""
    for sidecar in sidecars_of(study, notebook):
        if sidecar.stat().st_mtime < since:
            for file in figure_files(sidecar):
                file.unlink(missing_ok=True)


def is_current(study: Study, notebook: Path, record: Path) -> bool:
    """Return whether a notebook ran on exactly these inputs and its figures are still those that it drew."""
    if not record.exists():
        return False
    known = read_json(record, "inputs", "figures")
    return known["inputs"] == notebook_inputs(study, notebook) and known["figures"] == figures_by(study, notebook.stem)


def run_notebook(study: Study, study_file: Path, notebook: Path, folder: Path) -> None:
    """Execute one notebook with papermill. Raises StudyError, in one line, if it fails; finished outputs are kept."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    check_parameters(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / f"failed-{notebook.name}"
    try:
        with naming_full_disk(failed):
            papermill.execute_notebook(
                notebook, failed, parameters={"study_file": str(study_file.resolve())}, cwd=PROJECT_ROOT, kernel_name="python3",
                progress_bar=False, stderr_file=sys.stderr, extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "StudyError":
            raise StudyError(error.evalue) from None
        reason = (error.evalue or "no message").splitlines()[0]
        where = f"{notebook.name}, cell {error.cell_index + 1}"
        raise StudyError(f"{where}: {error.ename}: {reason}; traceback in {failed}") from None
    except DeadKernelError:
        held = in_units(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        raise StudyError(
            f"{notebook.name}: its kernel was killed, probably for want of memory (it had held {held}); `make plan` says what "
            "the study needs; run again, finished work is kept"
        ) from None
    if errors := widget_errors(failed):
        raise StudyError(f"{notebook.name}: a widget failed: {errors[0]}; traceback in {failed}")
    tidy(failed)
    os.replace(failed, folder / notebook.name)


def read_notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def check_parameters(notebook: Path) -> None:
    """Raise StudyError if a notebook takes no parameters: papermill only warns, and would run the wrong study."""
    tagged = [cell for cell in read_notebook(notebook)["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if not any("study_file" in "".join(cell["source"]) for cell in tagged):
        raise StudyError(f"{notebook}: no cell tagged 'parameters' that sets study_file; add one")


def missing_part(study: Study, notebook: Path) -> str:
    """Return the part of a study that this notebook requires (metadata `blindspots.requires`) and the study lacks, or ""."""
    part = read_notebook(notebook)["metadata"].get("blindspots", {}).get("requires", "")
    return part if part and getattr(study, part) is None else ""


def widget_errors(executed: Path) -> list[str]:
    """Return the errors that widgets saved, which papermill does not see: captured outputs, and what a widget's `error` says."""
    states = [entry["state"] for entry in widget_states(read_notebook(executed)).values()]
    outputs = [output for state in states for output in state.get("outputs", [])]
    captured = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
    return captured + [state["error"] for state in states if state.get("error")]


def widget_states(notebook: Mapping[str, Any]) -> dict[str, Any]:
    return notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


def tidy(executed: Path) -> None:
    """Leave what a reader of an executed notebook wants: no progress bars, and of widgets with a picture only the picture.

    Without a kernel a widget shows nothing, and nbconvert would prefer it to its picture.
    """
    notebook = read_notebook(executed)
    for cell in notebook["cells"]:
        cell.get("outputs", [])[:] = [output for output in cell.get("outputs", []) if not is_progress(output)]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}) and (view := output["data"].pop(WIDGET_VIEW, None)):
                widget_states(notebook).pop(view["model_id"], None)
    write_json(executed, notebook)


def is_progress(output: Mapping[str, Any]) -> bool:
    """Return whether an output is a progress bar: lines that tqdm wrote over each other."""
    text = "".join(output.get("text", ""))
    return output.get("name") == "stderr" and (not text.strip("\n\x1b[A") or ("\r" in text and "%|" in text))


def run_study(study_name: str) -> list[str]:
    """Run every notebook of `notebooks/` that is not current; return the names of those that ran.

    Raises StudyError if another process is running this study.
    """
    study = load_study(study_name)
    with holding(study.folder):
        return run_notebooks(study, study_path(study_name))


def run_notebooks(study: Study, study_file: Path) -> list[str]:
    folder, ran = study.folder / "notebooks", []
    forecast: Forecast | None = None
    for notebook in (notebooks := sorted((PROJECT_ROOT / "notebooks").glob("[0-9]*.ipynb"))):
        name, record = notebook.stem, folder / f"{notebook.stem}.json"
        if missing := missing_part(study, notebook):
            print(f"{name}: skipped, the study has no part `{missing}`", flush=True)
        elif is_current(study, notebook, record):
            print(f"{name}: nothing has changed", flush=True)
        else:
            if forecast is None:
                forecast = Forecast(study, study_file, notebooks)
                print(forecast.before(name), flush=True)
            print(f"{name}: running", flush=True)
            started, inputs = time.time(), notebook_inputs(study, notebook)
            run_notebook(study, study_file, notebook, folder)
            remove_stale_figures(study, name, since=started)
            seconds = time.time() - started
            write_json(record, {"inputs": inputs, "figures": figures_by(study, name), "seconds": round(seconds, 1)})
            print(f"{name}: done in {duration(seconds)}{forecast.after(name)}", flush=True)
            ran.append(name)
    return ran
