"""Film the explorer and a notebook of the study `mini` in use: python -m benchmarks.tour writes figures/tour.webp, for README."""

import io
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from PIL import Image

from benchmarks.explorer import browser_page, chromium
from blindspots_lib.core.files import write_json
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.figures.explorer import write_explorer
from blindspots_lib.run.stages import open_results, open_truth

FILM, SIZE, QUALITY = PROJECT_ROOT / "figures" / "tour.webp", (960, 600), 60
HOLD, FRAME = 1500, 140  # milliseconds: of a picture to read, of one in a movement
CELLS = (
    "from blindspots_lib import ConceptExplorer, load_sae, load_study, open_results\n"
    "from blindspots_lib.figures.patches import PatchConcepts\nresults = open_results(load_study('mini'))",
    "PatchConcepts(results, load_sae(results.sae.folder))",
)


class Film:
    """Pictures of a page, each with the time that it is shown."""

    def __init__(self):
        self.pictures, self.times = [], []

    def take(self, page, milliseconds: int = HOLD) -> None:
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        self.pictures.append(picture.resize(SIZE, Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def save(self, path: Path) -> None:
        first, *others = self.pictures
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0, quality=QUALITY, method=6)


def film_explorer(page, film: Film, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("main canvas")
    page.wait_for_timeout(800)
    film.take(page)
    slider = page.get_by_label("λ min")
    for _ in range(8):
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        page.wait_for_timeout(60)
        film.take(page, FRAME)
    box = page.locator("[data-plot=ma] canvas").last.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.62 * box["height"])
    page.mouse.down()
    for step in range(1, 8):
        page.mouse.move(box["x"] + (0.3 + 0.09 * step) * box["width"], box["y"] + (0.62 + 0.04 * step) * box["height"])
        page.wait_for_timeout(60)
        film.take(page, FRAME)
    page.mouse.up()
    film.take(page)
    page.locator(".list button.concept").first.click()
    page.wait_for_selector(".pictures[data-ready]")
    page.wait_for_timeout(600)
    film.take(page, 2 * HOLD)
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(800)
    film.take(page)
    page.keyboard.press("Escape")
    for view in ("Two models", "Asked", "Pairs"):
        page.get_by_role("navigation").get_by_role("button", name=view).click()
        page.wait_for_timeout(900)
        film.take(page)


def film_notebook(page, film: Film, address: str) -> None:
    page.goto(address)
    page.get_by_text("| Idle").wait_for(timeout=60_000)
    page.get_by_text("Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(".patches li button").first.wait_for(timeout=90_000)
    page.locator(".patches").scroll_into_view_if_needed()
    canvas = page.locator(".patches canvas")
    for step in range(8):
        canvas.hover(position={"x": 60 + 34 * step, "y": 90 + 20 * step})
        page.wait_for_timeout(80)
        film.take(page, 3 * FRAME)
    page.locator(".patches li button").first.click()
    page.wait_for_timeout(200)
    film.take(page, 2 * HOLD)


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """Start a JupyterLab on this machine alone, with the notebook of `CELLS`, and yield its address."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    own = {name: folder / name for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR", "root")}
    overrides = own["JUPYTER_CONFIG_DIR"] / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    write_json(overrides, {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}})
    root = own.pop("root")
    root.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), root / "patches.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port, token = free.getsockname()[1], secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]  # fmt: skip
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(
            command, env=os.environ | {name: str(path) for name, path in own.items()}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        time.sleep(6)
        yield f"http://127.0.0.1:{port}/lab/tree/patches.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    if chromium() is None:
        sys.exit("tour: it is filmed in a browser; install Chromium, such as by: apt-get install chromium")
    film = Film()
    with tempfile.TemporaryDirectory() as folder:
        study = load_study("mini")
        address = write_explorer(open_results(study), Path(folder) / "explorer", open_truth(study).planted_concepts).as_uri()
        with lab(Path(folder)) as notebook, browser_page() as page:
            film_explorer(page, film, address)
            film_notebook(page, film, notebook)
    film.save(FILM)
    print(f"{FILM}: {len(film.pictures)} pictures, {FILM.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
