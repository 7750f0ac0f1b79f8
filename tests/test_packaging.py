import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import blindspots_lib
from blindspots_lib.core.paths import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "blindspots_lib"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def lock():
    lines = (PROJECT_ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pins}


def test_conda_installs_the_very_same_lock():
    environment = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert {re.split("[=<>]", entry)[0] for entry in conda} == {"python", "make", "pip"}


def test_every_direct_dependency_is_pinned(lock):
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    direct = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    assert {canonical(name) for name in direct} <= lock.keys()


def test_what_is_installed_is_what_is_pinned(lock):
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in lock}
    assert installed == lock


def test_import_is_light():
    script = (
        "import sys, blindspots_lib, blindspots_lib.run.notebooks; "
        "print([m for m in ('torch', 'diffusers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_rooms_import_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert done.returncode == 0, done.stdout


def test_the_docstring_lists_every_room_and_every_module_says_what_it_is_for():
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert sorted(re.findall(r"^(\w+)  +\S", blindspots_lib.__doc__.partition("before it:")[2], re.M)) == rooms
    assert not [path for path in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]


def test_what_the_package_exports_is_there():
    for name in blindspots_lib.__all__:
        assert getattr(blindspots_lib, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = blindspots_lib.nothing


def test_the_version_is_the_same_everywhere():
    newest = re.search(r"^## (\S+)", (PROJECT_ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert newest == project["version"] == blindspots_lib.__version__


def test_notebooks_are_committed_without_outputs():
    for path in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb")):
        cells = yaml.safe_load(path.read_text())["cells"]
        assert not [cell for cell in cells if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"])], path
