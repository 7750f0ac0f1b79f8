"""The study: one YAML file that says which pairs, models, backbone, SAE and analysis, validated before anything runs."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class StudyError(Exception):
    """Something the user can mend. Its message is one line: what, where, how to mend it."""


class Part(BaseModel):
    """A part of a study: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1)]


class ScenePairs(Part):
    """Pairs drawn from OpenMoji Scenes."""

    source: Literal["scenes"]
    n: Count  # number of pairs
    seed: Annotated[int, Field(ge=0)]  # of the corpus; must differ from the training corpus's
    shard_size: Count = 250  # pairs a file


class StoredPairs(Part):
    """Pairs from Parquet files with the columns pair_id, caption and image."""

    source: Literal["parquet"]
    path: str  # folder, relative to the project
    n: Count  # number of pairs, taken in the order of the files
    shard_size: Count = 250  # pairs a file of the copy that the study keeps


class TrainingCorpus(Part):
    """The scenes that the models were trained on, to look for copies in."""

    seed: Annotated[int, Field(ge=0)]
    n: Count


class TextToImageModel(Part):
    """One text-to-image model under study."""

    name: Name
    label: str  # as figures show it
    path: str  # folder of a diffusers pipeline, relative to the project
    image_size: Count  # pixels a side
    steps: Count  # solver steps
    guidance: Annotated[float, Field(ge=0)]  # classifier-free guidance scale
    batch_size: Count = 50
    arguments: dict[str, Any] = {}  # passed on to the pipeline's call


class Backbone(Part):
    """The vision transformer whose tokens the SAE reads."""

    path: str  # folder of a Dinov2WithRegistersModel, relative to the project
    resize: Count  # short side after resizing, pixels
    crop: Count  # side of the centre crop, pixels
    batch_size: Count = 100
    keep_tokens: bool = True  # store all tokens; false: make them again in every stage that reads them


class SAEConfig(Part):
    """The sparse autoencoder and its training."""

    n_concepts: Count  # K
    k: Count  # active concepts a token
    dictionary: Literal["dense", "local", "free"] = "dense"  # atoms mix all candidates, the nearest ones, or are free (no RA-SAE)
    n_candidates: Count  # C, k-means centroids that atoms are made of, or start at
    n_neighbours: Count = 32  # m, candidates that an atom of a local dictionary mixes
    relaxation_radius: Annotated[float, Field(ge=0)] = 1.0  # longest row of Lambda
    tokens: Literal["all", "patches", "cls"] = "all"  # which tokens of an image it learns from
    n_steps: Count  # optimizer steps
    batch_size: Count = 2048  # tokens a step
    buffer_size: Count = 262_144  # tokens held in memory and shuffled together
    points_per_candidate: Count = 128  # tokens a centroid that k-means sees
    search: Literal["float32", "bfloat16", "int8"] = "float32"  # of the products that look for the largest codes
    precision: Literal["float32", "bfloat16"] = "float32"  # of the products with the candidates; parameters are float32
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05  # share of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    auxiliary_weight: Annotated[float, Field(ge=0)] = 1e-3  # of the term that revives dead concepts
    dead_after: Count = 20  # steps without firing until a concept counts as dead
    seed: Annotated[int, Field(ge=0)] = 0  # of the order of the tokens
    kmeans_seed: Annotated[int, Field(ge=0)] = 0  # of the candidates: k-means and the tokens it sees
    checkpoint_every: Count = 200  # steps


class Analysis(Part):
    """How energies become blindspots."""

    tokens: Literal["patches", "all", "cls"] = "patches"  # whose codes are summed into an image's energy
    suppressed_below: Annotated[float, Field(gt=0, lt=0.5)] = 0.1  # lambda_min
    exaggerated_above: Annotated[float, Field(gt=0.5, lt=1)] = 0.9  # lambda_max
    n_bootstrap: Annotated[int, Field(ge=20)] = 200  # resamplings of the pairs
    min_images: Count = 5  # a concept is ranked if it fires on at least so many images, real and generated together
    seed: Annotated[int, Field(ge=0)] = 0


class Stability(Part):
    """SAEs trained again to see whether the same concepts come again."""

    n_runs: Annotated[int, Field(ge=2)] = 3  # of each kind and start
    n_steps: Count  # of each training
    points_per_candidate: Count = 32  # tokens a centroid that k-means sees


class Study(Part):
    """Everything that decides the numbers of a study."""

    name: Name
    title: str
    replica: bool  # a controlled replica: every figure says so
    attribution: str = ""  # owed wherever images of the study are shown
    seed: Annotated[int, Field(ge=0)]
    pairs: Annotated[ScenePairs | StoredPairs, Field(discriminator="source")]
    training_corpus: TrainingCorpus | None = None
    models: Annotated[tuple[TextToImageModel, ...], Field(min_length=1)]
    backbone: Backbone
    sae: SAEConfig
    stability: Stability | None = None
    analysis: Analysis = Analysis()

    @model_validator(mode="after")
    def check_parts_fit(self) -> "Study":
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: the name {twice[0]!r} is given twice; give each model its own name")
        if "real" in names:
            raise ValueError("models: the name 'real' is taken by the real images; choose another")
        if self.sae.k > self.sae.n_concepts:
            raise ValueError(f"sae.k = {self.sae.k}: must not exceed sae.n_concepts = {self.sae.n_concepts}")
        if self.sae.dictionary == "local" and self.sae.n_neighbours > self.sae.n_candidates:
            raise ValueError(
                f"sae.n_neighbours = {self.sae.n_neighbours}: must not exceed sae.n_candidates = {self.sae.n_candidates}"
            )
        if self.backbone.crop > self.backbone.resize:
            raise ValueError(f"backbone.crop = {self.backbone.crop}: must not exceed backbone.resize = {self.backbone.resize}")
        scenes = self.pairs if isinstance(self.pairs, ScenePairs) else None
        if scenes and self.training_corpus and scenes.seed == self.training_corpus.seed:
            raise ValueError(f"pairs.seed = {scenes.seed}: is the training corpus's; choose another, or nothing is new")
        return self

    @property
    def folder(self) -> Path:
        """Where the study's outputs are kept."""
        return Path(os.environ.get("BLINDSPOTS_RUNS", PROJECT_ROOT / "runs")) / self.name

    @property
    def figures_folder(self) -> Path:
        return Path(os.environ.get("BLINDSPOTS_FIGURES", PROJECT_ROOT / "figures")) / self.name

    def model(self, name: str) -> TextToImageModel:
        return next(model for model in self.models if model.name == name)


def study_path(study: str) -> Path:
    """The file of a study: a name in `studies/`, or a path that ends in .yaml."""
    path = Path(study) if study.endswith((".yaml", ".yml")) else PROJECT_ROOT / "studies" / f"{study}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (PROJECT_ROOT / "studies").glob("*.yaml")))
        raise StudyError(f"{path}: no such study file; give a path that ends in .yaml, or one of: {known}")
    return path


def load_study(study: str) -> Study:
    """Read and validate a study.

    Raises StudyError, in one line that names the key, its value and what is allowed.
    """
    path = study_path(study)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise StudyError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study is a mapping of keys such as name, pairs and models; see studies/mini.yaml")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(f"{path}: " + "; ".join(describe(problem) for problem in error.errors())) from None


def describe(problem: dict[str, Any]) -> str:
    """One clause for one problem that pydantic found."""
    tags = {"scenes", "parquet"}  # pydantic names the chosen kind of pairs as if it were a key
    key = ".".join(str(part) for part in problem["loc"] if part not in tags)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} = {problem['input']!r}: {message}"


def resolve(path: str) -> Path:
    """A path of a study file: absolute, or relative to the project."""
    return PROJECT_ROOT / path
