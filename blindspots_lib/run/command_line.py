"""The command line behind `make`: python -m blindspots_lib figures|report|explorer|plan|check|fetch STUDY."""

import argparse
import os
import sys

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.study import load_study, load_tables_study, reads_tables


def run_figures(study_name: str) -> int:
    """Run the notebooks of a study in sequence, write its report, and print where both are."""
    from blindspots_lib.figures.report import report_paths, write_report
    from blindspots_lib.run.notebooks import run_study
    from blindspots_lib.run.stages import open_results

    if reads_tables(study_name):
        return run_tables(study_name)
    ran, study = run_study(study_name), load_study(study_name)
    if ran or not all(path.exists() for path in report_paths(study)):
        write_report(open_results(study))
    n_figures = len(list(study.figures_folder.glob("*.png")))
    print(f"\n{n_figures} figures in {study.figures_folder}\nexecuted notebooks and tables in {study.folder}")
    print(f"what was found, on one page: {report_paths(study)[0]}")
    print("next: open it in a browser; `make lab` to step through the notebooks and move their sliders")
    return 0


def run_tables(study_name: str) -> int:
    """Draw the result tables of a study that has nothing else."""
    from blindspots_lib.run.published import draw_tables

    study = load_tables_study(study_name)
    page = draw_tables(study)
    print(page.read_text(encoding="utf-8"))
    print(f"figures in {study.figures_folder}, these numbers in {page}")
    return 0


def run_report(study_name: str) -> int:
    """Write the report of a study that was run: what was found, how sure that is, and what could not be seen."""
    from blindspots_lib.figures.report import write_report
    from blindspots_lib.run.stages import open_results

    print(write_report(open_results(load_study(study_name))))
    return 0


def run_plan(study_name: str) -> int:
    """Print what a study will take: images, tokens, disk, memory, time, downloads, agreements."""
    from blindspots_lib.run.plan import plan_rows

    for row in plan_rows(load_study(study_name)):
        print(f"{row.what:<32} {row.value:>16}  {row.note}".rstrip(), flush=True)
    print(f"next: make figures STUDY={study_name}")
    return 0


def run_check(study_name: str, deep: bool = False) -> int:
    """Print what would stop a study, one line each, without running it; `deep` holds all finished files to their checksums."""
    from blindspots_lib.run.check import check, damage

    study = load_study(study_name)
    faults = check(study, print) + (damage(study) if deep else [])
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{study.name}: " + (f"{len(faults)} things to mend" if faults else "nothing stands in its way"))
    return 1 if faults else 0


def run_fetch(study_name: str) -> int:
    """Download and check all weights of a study, before days of work begin; the pairs come with the run itself."""
    from blindspots_lib.run.costs import in_units
    from blindspots_lib.run.remote import fetch_everything

    study = load_study(study_name)
    size = fetch_everything(study)
    came = f"{in_units(size)} fetched and checked" if size else "everything is here"
    print(f"{study.name}: {came}; next: make figures STUDY={study_name}")
    return 0


def run_explorer(study_name: str) -> int:
    """Write the explorer of a study that was run: a folder that any browser opens from disk."""
    from blindspots_lib.figures.explorer import explorer_folder, write_explorer
    from blindspots_lib.run.costs import in_units
    from blindspots_lib.run.stages import open_results, open_truth

    study = load_study(study_name)
    planted = open_truth(study).planted_concepts if study.validation else None
    page = write_explorer(open_results(study), explorer_folder(study), planted)
    size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    print(f"{page}\nnext: open it in a browser, or copy the folder ({in_units(size)}) to any static host")
    return 0


COMMANDS = {
    "figures": run_figures,
    "report": run_report,
    "explorer": run_explorer,
    "plan": run_plan,
    "check": run_check,
    "fetch": run_fetch,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m blindspots_lib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.__doc__)
        subparser.add_argument("study", help="a name in studies/, or the path of a study file")
        if name == "check":
            subparser.add_argument("--deep", action="store_true", help="also read all finished files, and find damaged ones")
    given = vars(parser.parse_args())
    run, study = COMMANDS[given.pop("command")], given.pop("study")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    try:
        return run(study, **given)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; finished shards are kept, the same command goes on from there", file=sys.stderr)
        return 130
