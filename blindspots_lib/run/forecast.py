"""What `make figures` says of the time it will take: predicted once, before the first notebook that runs."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from blindspots_lib.core.errors import first_line
from blindspots_lib.core.files import read_json
from blindspots_lib.core.study import Study
from blindspots_lib.run.costs import duration


class Forecast:
    """The seconds of each notebook: those of the parts that are measured, and where none is, those of its last run."""

    def __init__(self, study: Study, study_file: Path, notebooks: Sequence[Path]):
        self.names, self.unknown = [notebook.stem for notebook in notebooks], ""
        records = {name: study.folder / "notebooks" / f"{name}.json" for name in self.names}
        self.seconds = {name: read_json(record, "seconds")["seconds"] for name, record in records.items() if record.exists()}
        try:
            self.seconds |= measured(study_file)
        except Exception as error:  # a forecast stops no run
            self.unknown = first_line(error)

    def before(self, name: str) -> str:
        """Return the line that comes before the first notebook that runs."""
        if self.unknown:
            return f"time in all: not known ({self.unknown})"
        return f"time in all: about {duration(self.left(name))} for what is not finished; figures besides"

    def after(self, name: str) -> str:
        """Return what is said of the time that is left when a notebook has ended, or "" after the last."""
        later = self.names[self.names.index(name) + 1 :]
        return f", about {duration(self.left(later[0]))} left" if later and not self.unknown else ""

    def left(self, first: str) -> float:
        """Return the seconds of this notebook and of those that follow."""
        return sum((self.seconds.get(name, 0.0) for name in self.names[self.names.index(first) :]), start=0.0)


def measured(study_file: Path) -> dict[str, float]:
    """Return `seconds_by_notebook`, found by another process, so that no model stays in this one's memory."""
    from blindspots_lib.run.times import seconds_by_notebook

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(seconds_by_notebook, str(study_file)).result()
