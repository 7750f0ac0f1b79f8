"""Run the numbered notebooks of a study in sequence by papermill; skip those whose inputs have not changed."""

import json
import os
import sys
import time
from pathlib import Path

from blindspots_lib.core.artifacts import file_fingerprint, fingerprint_of, read_json, write_json
from blindspots_lib.core.config import ExternalImages, SAEConfig, TrainedSAE
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import weights_fingerprint
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import Study, load_study, study_path
from blindspots_lib.data.sources import corpus_inputs, source_inputs
from blindspots_lib.models.external import images_fingerprint

FAILED = "failed-"  # what the copy of a notebook that failed is called, for reading


def notebook_inputs(study: Study, notebook: Path) -> dict[str, str]:
    """Fingerprints of all that decides a notebook's figures: itself, the study, the code, the packages, the weights."""
    sources = sorted((PROJECT_ROOT / "blindspots_lib").rglob("*.py"))
    given = {f"images/{model.name}": images_fingerprint(model)
             for model in study.models if isinstance(model, ExternalImages)}  # fmt: skip
    weights = {f"{part}/{model.name}": weights_fingerprint(place) for model in study.pipelines
               for part, place in model.parts.items()}  # fmt: skip
    sae = {"sae": weights_fingerprint(study.sae)} if isinstance(study.sae, TrainedSAE) else {}
    if isinstance(study.sae, SAEConfig) and study.sae.corpus:
        sae = {f"corpus/{name}": value for name, value in corpus_inputs(study.sae.corpus).items()}
    judges = {name: weights_fingerprint(judge) for name, judge in study.validation.judges.items()} if study.validation else {}
    return {
        "notebook": file_fingerprint(notebook), "study": fingerprint_of(study.model_dump(mode="json")),
        "code": fingerprint_of({str(path.relative_to(PROJECT_ROOT)): file_fingerprint(path) for path in sources}),
        "packages": file_fingerprint(PROJECT_ROOT / "requirements.lock"),
        "backbone": weights_fingerprint(study.backbone), **weights, **judges, **given, **sae,
        **source_inputs(study.pairs),
    }  # fmt: skip


def figures_by(study: Study, notebook: str) -> dict[str, str]:
    """The figures that a notebook has drawn, as the sidecars say, with the fingerprints of their files."""
    sidecars = [path for path in study.figures_folder.glob("*.json") if read_json(path).get("notebook") == notebook]
    files = [path for sidecar in sidecars for path in (sidecar.with_suffix(".png"), sidecar.with_suffix(".pdf"), sidecar)]
    return {path.name: file_fingerprint(path) if path.exists() else "missing" for path in sorted(files)}


def remove_stale_figures(study: Study, notebook: str, since: float) -> None:
    """Remove what an earlier version of a notebook drew and the run that began at `since` did not."""
    for name in figures_by(study, notebook):
        sidecar = study.figures_folder / f"{Path(name).stem}.json"
        if sidecar.exists() and sidecar.stat().st_mtime < since:
            for suffix in (".png", ".pdf", ".json"):
                sidecar.with_suffix(suffix).unlink(missing_ok=True)


def is_current(study: Study, notebook: Path, record: Path) -> bool:
    """Whether a notebook ran on exactly these inputs and its figures are still the ones that it drew."""
    if not record.exists():
        return False
    known = read_json(record)
    return known["inputs"] == notebook_inputs(study, notebook) and known["figures"] == figures_by(study, notebook.stem)


def run_notebook(study: Study, study_file: Path, notebook: Path, folder: Path) -> None:
    """Execute one notebook by papermill. Raises StudyError with one line if it fails; what it finished is kept."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    check_parameters(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    failed, done = folder / f"{FAILED}{notebook.name}", folder / notebook.name
    try:
        papermill.execute_notebook(
            notebook, failed, parameters={"study_file": str(study_file.resolve())}, cwd=PROJECT_ROOT, kernel_name="python3",
            progress_bar=False, stderr_file=sys.stderr, extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "StudyError":
            raise StudyError(error.evalue) from None
        reason = (error.evalue or "no message").splitlines()[0]
        raise StudyError(
            f"{notebook.name}, cell {error.cell_index + 1}: {error.ename}: {reason}; traceback in {failed}"
        ) from None
    swallowed = widget_errors(failed)
    if swallowed:
        raise StudyError(f"{notebook.name}: a widget failed: {swallowed[0]}; traceback in {failed}")
    os.replace(failed, done)


def check_parameters(notebook: Path) -> None:
    """Papermill only warns if a notebook takes no parameters; that would run the wrong study."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []) and "study_file" in "".join(cell["source"]):
            return
    raise StudyError(f"{notebook}: no cell tagged 'parameters' that sets study_file; add one")


def missing_part(study: Study, notebook: Path) -> str:
    """The part that a study must have for this notebook (its metadata `blindspots.requires`) and has not, or ""."""
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    part = metadata.get("blindspots", {}).get("requires", "")
    return part if part and getattr(study, part) is None else ""


def widget_errors(executed: Path) -> list[str]:
    """Errors that a widget swallowed: papermill does not see them, the saved widget state does."""
    metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
    states = metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    outputs = [output for state in states.values() for output in state["state"].get("outputs", [])]
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def run_study(study_name: str) -> list[str]:
    """Run every notebook of `notebooks/` that is not current; return the names of those that ran."""
    study, study_file = load_study(study_name), study_path(study_name)
    folder = study.folder / "notebooks"
    ran = []
    for notebook in sorted((PROJECT_ROOT / "notebooks").glob("[0-9]*.ipynb")):
        missing = missing_part(study, notebook)
        if missing:
            print(f"{notebook.stem}: skipped, the study has no part `{missing}`", flush=True)
            continue
        record = folder / f"{notebook.stem}.json"
        if is_current(study, notebook, record):
            print(f"{notebook.stem}: nothing has changed", flush=True)
            continue
        print(f"{notebook.stem}: running", flush=True)
        started = time.time()
        inputs = notebook_inputs(study, notebook)
        run_notebook(study, study_file, notebook, folder)
        remove_stale_figures(study, notebook.stem, since=started)
        seconds = time.time() - started
        write_json(record, {"inputs": inputs, "figures": figures_by(study, notebook.stem), "seconds": round(seconds, 1)})
        print(f"{notebook.stem}: done in {seconds:.0f} s", flush=True)
        ran.append(notebook.stem)
    return ran
