import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import blindspots_lib
from blindspots_lib.core.paths import PROJECT_ROOT


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
    script = "import sys, blindspots_lib.notebooks; print([m for m in ('torch', 'diffusers', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_docstring_lists_every_module():
    listed = re.findall(r"^(\w+) +\S", blindspots_lib.__doc__.partition("through them:")[2], re.M)
    assert sorted(listed) == sorted(path.stem for path in (PROJECT_ROOT / "blindspots_lib").glob("[a-z]*.py"))


def test_notebooks_are_committed_without_outputs():
    for path in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb")):
        cells = yaml.safe_load(path.read_text())["cells"]
        assert not [cell for cell in cells if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"])], path
