"""The parts of a study: pairs, models, backbone, SAE, analysis. Each is validated, immutable, and refuses unknown keys."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

TAGS = {"scenes", "folder", "dataset", "webdataset", "links", "image-corpus", "pipeline", "external", "perfect",
        "training", "trained", "words-file", "words-list"}  # fmt: skip


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def model_copy(self, *, update: dict[str, Any] | None = None, deep: bool = False):
        """As in pydantic, but a key that the part does not have is an error, not ignored."""
        unknown = set(update or {}) - set(type(self).model_fields)
        if unknown:
            raise KeyError(f"{type(self).__name__} has no {sorted(unknown)[0]!r}")
        return super().model_copy(update=update, deep=deep)


def contents(part: Part | None, *left_out: str) -> dict[str, Any] | None:
    """Return the keys of a part that are not at their defaults, except those left out: what fingerprints are made of."""
    # without the defaults, a key that a later version adds changes no fingerprint
    return None if part is None else part.model_dump(mode="json", exclude=set(left_out), exclude_defaults=True)


def tag_by_key(default: str, **tags: str) -> Discriminator:
    """Choose the member of a union by its content: the tag of the first of these keys that is there, else the default."""

    def tag(content: Any) -> str:
        keys = content if isinstance(content, dict) else getattr(content, "__dict__", {})
        return next((tag for key, tag in tags.items() if key in keys), default)

    return Discriminator(tag)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Repo = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]


class Place(Part):
    """Where files are: a local folder or file, or a hub repository at one commit."""

    path: str | None = None  # relative to the project, or absolute
    repo: Repo | None = None  # hub id, owner/name
    revision: str | None = None  # full commit hash: a branch may move, a commit cannot
    may_be_latest: ClassVar[bool] = False  # whether revision may be "latest", which is looked up and recorded on first use

    @model_validator(mode="after")
    def check_one_place(self):
        if (self.path is None) == (self.repo is None):
            raise ValueError("give one of path (a local folder) and repo (a hub id, with its revision)")
        if self.path and self.revision:
            raise ValueError("revision: goes with repo, not with path; remove it")
        if self.repo and not self.revision:
            raise ValueError(f"revision: missing for {self.repo}; give the full commit hash, as in the repository's history")
        is_hash = not self.revision or (len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef"))
        if not is_hash and not (self.may_be_latest and self.revision == "latest"):
            raise ValueError(
                f"revision = {self.revision!r}: not a commit hash (40 hexadecimal digits); branches and tags move, so "
                "copy the hash from the repository's history"
            )
        return self

    @property
    def title(self) -> str:
        return self.path or f"{self.repo}@{self.revision[:8]}"


class Weights(Place):
    """A model's files: configuration, tokenizer, weights in safetensors."""

    variant: str | None = None  # "fp16": take the files named so, if the repository has them
    subfolder: str | None = None  # where in the folder or repository


class Scenes(Part):
    """The first scenes of a corpus."""

    seed: Seed  # of the corpus
    n: Count  # number of scenes
    store_side: ClassVar[int] = 64  # pixels: as they are drawn


class Images(Part):
    """Images that are not drawn here."""

    store_side: Count = 512  # pixels: an image with a longer short side is kept as a smaller JPEG, others as they are


class ScenePairs(Scenes):
    """Pairs drawn from OpenMoji Scenes. The seed must differ from the training corpus's."""

    source: Literal["scenes"]
    public: Scenes | None = None  # the first pairs, which models may have been trained on, as on LAION's
    caption_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0  # fraction of pairs with the caption of another pair
    shard_size: Count = 250  # pairs per file

    @model_validator(mode="after")
    def check_sizes(self):
        if self.public and self.public.n > self.n:
            raise ValueError(f"pairs.public.n = {self.public.n}: must not exceed pairs.n = {self.n}")
        if self.public and self.public.seed == self.seed:
            raise ValueError(f"pairs.public.seed = {self.seed}: must differ from pairs.seed")
        return self


class FolderPairs(Images):
    """A folder of images with a table beside them: metadata.csv, .jsonl or .parquet, with file_name and a caption."""

    source: Literal["folder"]
    path: str
    caption_column: str = "caption"
    id_column: str | None = None  # default: the file name without its ending
    n: Count | None = None  # the first n; default: all
    shard_size: Count = 100  # pairs held in memory and written at a time


class WebdatasetPairs(Images):
    """A folder of .tar files with one image, one .txt and at most one .json per sample, as img2dataset writes them."""

    source: Literal["webdataset"]
    path: str
    n: Count
    shard_size: Count = 100


class Dataset(Place, Images):
    """A set of the `datasets` library: a hub id at a commit, or a local folder that it can load."""

    may_be_latest: ClassVar[bool] = True
    config: str | None = None  # of a set that has several
    split: str = "train"
    seed: Seed = 0  # of the order in which rows are taken


class DatasetPairs(Dataset):
    """Pairs that are rows of a set, each with an image and a caption."""

    source: Literal["dataset"]
    caption_column: str = "caption"
    image_column: str = "image"
    id_column: str | None = None  # default: the row's number in the shuffled order
    n: Count
    shuffle_buffer: Count = 1_000  # number of rows, with images, that are shuffled together; 1: rows keep their order
    shard_size: Count = 100


class LinkedPairs(Dataset):
    """A set of links and captions, such as LAION: rows in a seeded order, images downloaded until n pairs are complete."""

    source: Literal["links"]
    link_column: str = "url"
    caption_column: str = "caption"
    n: Count
    shuffle_buffer: Count = 100_000
    n_connections: Annotated[int, Field(ge=1, le=128)] = 32  # downloads at a time
    timeout: Annotated[float, Field(gt=0)] = 20.0  # seconds per image, in all
    max_megabytes: Annotated[float, Field(gt=0)] = 20.0  # of one image as it is sent
    shard_size: Count = 50  # pairs that an interruption may cost


Pairs = Annotated[ScenePairs | FolderPairs | DatasetPairs | WebdatasetPairs | LinkedPairs, Field(discriminator="source")]


class ImageCorpus(Dataset):
    """Images without captions that an SAE learns from: a folder of images at any depth, or a set on the hub."""

    image_column: str = "image"
    n: Count | None = None  # number of images, drawn with the seed; default: all of a folder
    shard_size: Count = 1000

    @model_validator(mode="after")
    def check_size(self):
        if self.repo and self.n is None:
            raise ValueError(f"corpus.n: missing; say how many images of {self.repo} the SAE learns from")
        return self


class SceneCorpus(Scenes):
    """The first scenes of a separate corpus that an SAE learns from."""

    source: Literal["scenes"]
    shard_size: Count = 1000


Corpus = Annotated[
    Annotated[SceneCorpus, Tag("scenes")] | Annotated[ImageCorpus, Tag("image-corpus")],
    tag_by_key("image-corpus", source="scenes"),
]


class LoRA(Weights):
    """Low-rank weights that are added to a pipeline's."""

    file: str | None = None  # of a folder with several
    scale: float = 1.0


class Scheduler(Part):
    """Another solver in place of the pipeline's."""

    name: str  # a class of diffusers, such as DPMSolverMultistepScheduler
    arguments: dict[str, Any] = {}


class TextToImageModel(Weights):
    """A text-to-image model under study: a diffusers pipeline, local or on the hub."""

    name: Name
    label: str  # as figures show it
    prior: Weights | None = None  # of two-stage models, such as Kandinsky
    unet: Weights | None = None  # in place of the pipeline's own, such as a DPO-tuned one
    lora: LoRA | None = None
    scheduler: Scheduler | None = None
    image_size: Count  # pixels per side
    steps: Count  # solver steps
    guidance: Annotated[float, Field(ge=0)]  # classifier-free guidance scale
    batch_size: Count = 25  # images at a time
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"  # auto: on a GPU the weights' own
    offload: Literal["auto", "never", "model", "sequential"] = "auto"  # parts or layers in main memory; auto: as far as needed
    arguments: dict[str, Any] = {}  # passed on to the pipeline's call

    @property
    def parts(self) -> dict[str, Weights]:
        """Everything that has files of its own."""
        parts = {"weights": self, "prior": self.prior, "unet": self.unet, "lora": self.lora}
        return {name: part for name, part in parts.items() if part}


class ExternalImages(Images):
    """External images: another program or a service made them for the same captions."""

    name: Name
    label: str
    images: str  # folder of <pair_id>.png or another format, or a .csv|.jsonl|.parquet with pair_id and file_name


class PerfectGenerator(Part):
    """The model without faults: it draws, for the same captions, from the process that draws the scenes."""

    name: Name
    label: str
    draws: Literal["afresh"]


Model = Annotated[
    Annotated[TextToImageModel, Tag("pipeline")]
    | Annotated[ExternalImages, Tag("external")]
    | Annotated[PerfectGenerator, Tag("perfect")],
    tag_by_key("pipeline", images="external", draws="perfect"),
]


class TableOfModel(Part):
    """The result table of one model, and what was published about it."""

    name: Name
    label: str
    file: str  # in the folder of the tables
    published_skewness: float | None = None  # of delta(k)
    published_correlation: float | None = None  # of the relative differences with those of the first model


class Backbone(Weights):
    """The vision transformer whose tokens the SAE reads: DINOv2, DINOv3, SigLIP, CLIP or another with patch tokens."""

    resize: Count  # short side after resizing, pixels
    crop: Count  # side of the centre crop, pixels
    batch_size: Count = 100
    keep_tokens: bool = True  # store all tokens; false: compute them again in every stage that reads them


class SAEConfig(Part):
    """The sparse autoencoder and its training."""

    n_concepts: Count
    top_k: Count  # active concepts per token
    dictionary: Literal["dense", "local", "free"] = "dense"  # atoms mix all candidates, the nearest ones, or are free (no RA-SAE)
    n_candidates: Count  # number of k-means centroids that atoms are mixed from, or start at
    n_neighbours: Count = 32  # number of candidates that an atom of a local dictionary mixes
    relaxation_radius: Annotated[float, Field(ge=0)] = 1.0  # greatest norm of a row of Lambda
    corpus: Corpus | None = None  # images it learns from; default: the real images of the pairs
    tokens: Literal["all", "patches", "cls"] = "all"  # the tokens of an image that it learns from
    n_steps: Count  # optimizer steps
    batch_size: Count = 2048  # tokens per step
    buffer_size: Count = 262_144  # tokens held in memory and shuffled together
    points_per_candidate: Count = 128  # tokens per centroid that k-means sees
    precision: Literal["float32", "bfloat16"] = "float32"  # of the products with the candidates; parameters are float32
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05  # fraction of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    aux_coeff: Annotated[float, Field(ge=0)] = 1e-3  # of the term that revives dead concepts
    dead_after: Count = 20  # steps without firing until a concept counts as dead
    seed: Seed = 0  # of the order of the tokens
    kmeans_seed: Seed = 0  # of the candidates: k-means and the tokens it sees
    checkpoint_every: Count = 200  # steps

    @model_validator(mode="after")
    def check_sizes(self):
        if self.top_k > self.n_concepts:
            raise ValueError(f"sae.top_k = {self.top_k}: must not exceed sae.n_concepts = {self.n_concepts}")
        if self.dictionary == "local" and self.n_neighbours > self.n_candidates:
            raise ValueError(f"sae.n_neighbours = {self.n_neighbours}: must not exceed sae.n_candidates = {self.n_candidates}")
        return self


class TrainedSAE(Place):
    """An SAE that is trained already, by this project or by another library (studies/models.md lists them)."""

    file: str  # its weights, in the folder or repository: .safetensors, or a .pt that holds tensors only
    settings: str | None = None  # a JSON file in the same folder, where the library keeps its settings: cfg.json, config.json
    n_concepts: Count  # checked against the file
    top_k: Count | Literal["file"] | None = "file"  # active concepts per token; null: codes above a threshold; file: as it says
    threshold: float | None = None  # of a BatchTopK SAE of Overcomplete whose file lacks it; 0 for an SAE that keeps all codes
    normalization: Literal["l2", "max_l2", "l1", "max_l1", "identity"] | None = None  # of Overcomplete's atoms, if not unit
    radius: Annotated[float, Field(gt=0)] | None = None  # bound of Overcomplete's relaxation, where it is greater than 1
    seed: Seed = 0  # recorded with the figures, as a training's is


SAE = Annotated[
    Annotated[SAEConfig, Tag("training")] | Annotated[TrainedSAE, Tag("trained")], tag_by_key("training", file="trained")
]


class Analysis(Part):
    """How energies become blindspots."""

    tokens: Literal["patches", "all", "cls"] = "patches"  # whose codes are summed into an image's energy
    arithmetic: Literal["ratio", "published"] = "ratio"  # delta = E'/(E + E'); or the published scripts', with temperatures
    suppressed_below: Annotated[float, Field(gt=0, lt=0.5)] = 0.1  # lambda_min
    exaggerated_above: Annotated[float, Field(gt=0.5, lt=1)] = 0.9  # lambda_max
    false_discovery_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the calls "suppressed" and "exaggerated"
    n_swaps: Annotated[int, Field(ge=100)] = 2000  # random swaps of real and generated images, for the family-wise p-values
    aligned_band: Annotated[float, Field(gt=0, lt=0.4)] = 0.1  # a concept whose delta is surely within 0.5 +- this is aligned
    n_bootstrap: Annotated[int, Field(ge=20)] = 200  # resamplings of the pairs
    seed: Seed = 0

    @model_validator(mode="after")
    def check_published(self):
        if self.arithmetic == "published" and self.tokens != "all":
            raise ValueError(f"analysis.tokens = {self.tokens!r}: the published arithmetic sums all tokens; write tokens: all")
        return self


Words = Annotated[
    Annotated[str, Tag("words-file")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("words-list")],
    Discriminator(lambda words: "words-list" if isinstance(words, list | tuple) else "words-file"),
]


class Naming(Part):
    """Names by CLIP for the concepts that captions leave unnamed."""

    clip: Weights  # measures how well words and images agree
    words: Words  # that may become names: a text file with one word or phrase per line, or a list


class Stability(Part):
    """SAEs that are trained again, to see whether the same concepts come back."""

    n_orders: Annotated[int, Field(ge=2)] = 2  # orders of the tokens, from the same k-means candidates
    n_starts: Annotated[int, Field(ge=2)] = 3  # starts from independent candidates


class Validation(Part):
    """The trial of the instrument itself, where the models' faults are known (plants.json beside their weights)."""

    oracle: Weights  # a classifier of what is in an image
    clip: Weights  # measures how well captions and images agree
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2)]  # of the SAEs that are judged; none of them was used for tuning

    @property
    def judges(self) -> dict[str, Weights]:
        return {"oracle": self.oracle, "clip": self.clip}
