"""The study: one YAML file that names pairs, models, backbone, SAE and analysis. It is validated before anything runs."""

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from blindspots_lib.core import config
from blindspots_lib.core.artifacts import Workspace
from blindspots_lib.core.config import ExternalImages, Model, Name, PerfectGenerator, SAEConfig, ScenePairs, TextToImageModel
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT, runs_folder

MAX_VALUES = 10_000  # in a study file, its aliases written out
SHOWN = 80  # letters of a wrong value


class StudyFile(config.Part):
    """What every file in `studies/` has."""

    name: Name
    title: str
    replica: bool = False  # a controlled replica: every figure says so
    attribution: str = ""  # owed wherever images of the study are shown

    @property
    def folder(self) -> Path:
        return runs_folder() / self.name

    @property
    def figures_folder(self) -> Path:
        return Path(os.environ.get("BLINDSPOTS_FIGURES", PROJECT_ROOT / "figures")) / self.name


class TablesStudy(StudyFile):
    """Result tables that somebody else computed, one file per model: only drawn, nothing is generated or measured."""

    tables: str  # the folder of the files
    models: Annotated[tuple[config.TableOfModel, ...], Field(min_length=1)]


class Study(StudyFile):
    """Everything that decides the numbers of a study."""

    replica: bool
    seed: config.Seed
    pairs: config.Pairs
    training_corpus: config.Scenes | None = None  # what the models were trained on, to look for copies in
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    backbone: config.Backbone
    sae: config.SAE
    stability: config.Stability | None = None
    analysis: config.Analysis = config.Analysis()
    naming: config.Naming | None = None
    validation: config.Validation | None = None

    @model_validator(mode="after")
    def check_parts(self) -> "Study":
        names = [model.name for model in self.models]
        if twice := sorted(name for name in names if names.count(name) > 1):
            raise ValueError(f"models: the name {twice[0]!r} is given twice; give each model its own name")
        if taken := sorted({"real", "corpus", "captions", "training"} & set(names)):
            raise ValueError(f"models: the name {taken[0]!r} is taken; choose another")
        if self.backbone.crop > self.backbone.resize:
            raise ValueError(f"backbone.crop = {self.backbone.crop}: must not exceed backbone.resize = {self.backbone.resize}")
        sources = {"pairs": self.pairs, "sae.corpus": getattr(self.sae, "corpus", None)}
        sources |= {f"models: {model.name}": model for model in self.of_kind(ExternalImages)}
        for key, part in sources.items():
            if isinstance(part, config.Images) and part.store_side < self.backbone.resize:
                reason = f"must be at least backbone.resize = {self.backbone.resize}, or photographs lose detail; raise it"
                raise ValueError(f"{key}.store_side = {part.store_side}: {reason}")
        if self.stability and not isinstance(self.sae, SAEConfig):
            raise ValueError("stability: trains SAEs again, but this study's SAE comes trained; remove the part")
        return self

    @model_validator(mode="after")
    def check_validation(self) -> "Study":
        if not self.validation:
            return self
        if not (isinstance(self.sae, SAEConfig) and isinstance(self.pairs, ScenePairs)):
            raise ValueError("validation: needs pairs of source scenes and an SAE trained here; remove the part")
        if external := self.of_kind(ExternalImages):
            raise ValueError(f"validation: nobody knows the faults of {external[0].name!r}, external images; remove one of them")
        if not self.training_corpus:
            raise ValueError("validation: needs training_corpus, in which copies are looked for; add it")
        if not self.of_kind(PerfectGenerator):
            raise ValueError("validation: needs the perfect generator among the models, as the null; add {draws: afresh}")
        return self

    @model_validator(mode="after")
    def check_scenes(self) -> "Study":
        perfect, corpus = self.of_kind(PerfectGenerator), getattr(self.sae, "corpus", None)
        is_scenes = isinstance(self.pairs, ScenePairs)
        if perfect and not is_scenes:
            raise ValueError(f"models: {perfect[0].name!r} draws afresh, which only pairs of source scenes allow; remove it")
        if is_scenes and self.training_corpus and self.pairs.seed == self.training_corpus.seed:
            raise ValueError(f"pairs.seed = {self.pairs.seed}: is the training corpus's; choose another, or nothing is new")
        if is_scenes and isinstance(corpus, config.SceneCorpus) and corpus.seed == self.pairs.seed:
            raise ValueError(f"sae.corpus.seed = {corpus.seed}: is that of the pairs; choose another, so that they differ")
        return self

    def of_kind(self, kind: type) -> tuple:
        return tuple(model for model in self.models if isinstance(model, kind))

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.name, self.folder, self.seed)

    @property
    def pipelines(self) -> tuple[TextToImageModel, ...]:
        """The models whose images are generated here."""
        return self.of_kind(TextToImageModel)

    def model(self, name: str) -> Model:
        return next(model for model in self.models if model.name == name)


def study_path(study: str) -> Path:
    """Return the file of a study: a name in `studies/`, or a path that ends in .yaml."""
    path = Path(study) if study.endswith((".yaml", ".yml")) else PROJECT_ROOT / "studies" / f"{study}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (PROJECT_ROOT / "studies").glob("*.yaml")))
        raise StudyError(f"{path}: no such study file; give a path that ends in .yaml, or one of: {known}")
    return path


def load_study(study: str) -> Study:
    """Read and validate a study. Raises StudyError, in one line that names the key, its value and what is allowed."""
    if reads_tables(study):
        raise StudyError(f"{study_path(study)}: only draws result tables; `make figures` is all that it can be asked for")
    return load_file(study, Study)


def reads_tables(study: str) -> bool:
    """Return whether a study file is a `TablesStudy`."""
    content = read_yaml(study_path(study))
    return isinstance(content, dict) and "tables" in content


def load_tables_study(study: str) -> TablesStudy:
    return load_file(study, TablesStudy)


def load_file(study: str, kind: type[StudyFile]) -> Any:
    path = study_path(study)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study is a mapping of keys such as name, pairs and models; see studies/mini.yaml")
    try:
        study = kind.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: " + "; ".join(describe(problem) for problem in error.errors())) from None
    if path.resolve().parent == PROJECT_ROOT / "studies" and study.name != path.stem:
        raise StudyError(f"{path}: name = {study.name!r}: must be {path.stem!r}, as the file's, so that no two studies mix")
    return study


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises StudyError if it is none, if a key stands twice, or if its aliases stand for very much."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        if (node := loader.get_single_node()) is None:
            return None
        if count_values(node, {}) > MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {MAX_VALUES:,} values; write out what is meant")
        return loader.construct_document(node)
    except UnicodeDecodeError as error:
        reason = f"not text in UTF-8 (byte {error.start}); save it as UTF-8"
    except IsADirectoryError:
        reason = "a folder, not a study file; give the file's path"
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); correct its permissions"
    except RecursionError:
        reason = "nested too deeply; a study has a few levels of keys"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = f"not valid YAML{where}: {getattr(error, 'problem', None) or getattr(error, 'reason', error)}"
    except ValueError as error:
        reason = str(error)
    raise StudyError(f"{path}: {reason}")


def count_values(node: yaml.Node, counted: dict[int, int | None]) -> int:
    """Count the values of a parsed YAML node, aliases written out. Raises ValueError for a key that stands twice."""
    if id(node) not in counted:
        counted[id(node)], children, lines = None, node.value, {}  # None: being counted
        if isinstance(node, yaml.MappingNode):
            for name, line in [(key.value, key.start_mark.line + 1) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
                if name in lines:
                    raise ValueError(f"line {line}: the key {name} stands already in line {lines[name]}; remove one of them")
                lines[name] = line
            children = [part for pair in node.value for part in pair]
        is_scalar = isinstance(node, yaml.ScalarNode)
        counted[id(node)] = 1 if is_scalar else 1 + sum(count_values(child, counted) for child in children)
    if counted[id(node)] is None:
        raise ValueError("an alias that holds itself; write out what is meant")
    return counted[id(node)]


def describe(problem: dict[str, Any]) -> str:
    """Return one clause for one problem that pydantic found."""
    key = ".".join(str(part) for part in problem["loc"] if part not in config.TAGS)  # pydantic's loc also names union members
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        return reason if not key or reason.startswith(problem["loc"][0]) else f"{key}: {reason}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    shown = repr(problem["input"])
    return f"{key} = {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}: {message}"
