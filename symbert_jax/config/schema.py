"""The fields of the configuration: names, types with limits, defaults. `COMMAND --help` prints the comments."""

import dataclasses
from typing import Annotated

from symbert_jax.config.limits import Amount, Choice, Count, Fraction, Index, Not, PositiveAmount, Range, Size

ATTENTIONS = ("standard", "symmetric", "pairwise")
KERNELS = ("auto", "xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    attention: Annotated[str, Choice(ATTENTIONS)] = "standard"  # score of a query and a key (section 3 of the paper)
    # implementation of attention; splash needs a TPU, cudnn a GPU; auto: the fastest that model and device allow
    kernel: Annotated[str, Choice(KERNELS)] = "auto"
    # P of pairwise; full: an H x H matrix per head, the paper's; diagonal: a diagonal one
    pairwise_form: Annotated[str, Choice(("full", "diagonal"))] = "full"
    # initial P of pairwise; normal: P ~ N(0, 1), the paper's; identity: the scores of symmetric
    pairwise_init: Annotated[str, Choice(("normal", "identity"))] = "normal"
    layers: Size = 12  # L, transformer layers
    dim: Size = 768  # D, the width of the residual stream
    heads: Size = 12  # N, heads per layer; the head width is H = D / N
    mlp_dim: Size = 3072  # F, the width of the MLP
    length: Annotated[int, Range(8, 2**20)] = 512  # T, tokens per row, including [CLS] and [SEP]
    # V, rows of the embedding table; may exceed the vocabulary
    vocab_size: Annotated[int, Range(1, 2**16, "rows are stored as uint16")] = 30522
    dropout: Fraction = 0.1  # dropout rate of the embeddings and of both residual branches
    attention_dropout: Fraction = 0.1  # dropout rate of the attention probabilities
    # of activations; parameters and optimizer moments are always float32
    dtype: Annotated[str, Choice(("bfloat16", "float32"))] = "bfloat16"
    # what the backward pass recomputes; none: nothing; dots: all but matmul results; full: whole layers
    remat: Annotated[str, Choice(("none", "dots", "full"))] = "none"
    # layers per scan step, 0 for all: more make steps faster and compilation longer
    unroll: Annotated[int, Range(0, 2**20)] = 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    dir: str = "data/wiki_books"  # folder of the prepared corpus; one in a bucket (gs://…) is copied to the local disk
    sources: tuple[str, ...] = ()  # any of tfds:NAME, bookcorpus:DIR, jsonl:GLOB, text:GLOB, python-docs[:stdlib]
    # vocab.txt, tokenizer.json, a folder with one of them, hf:REPOSITORY, or train: trained on the corpus
    vocab: str = "hf:google-bert/bert-base-uncased"
    validation_fraction: Fraction = 0.005  # of the documents, chosen by a hash of their text
    mask_rate: Fraction = 0.15  # fraction of the non-special tokens of a row that are predicted
    # whether tokens attend to the other documents of their row; if not, position ids restart with each document
    cross_document: bool = True
    batch_size: Size = 256  # B, rows per optimizer step over all hosts
    reader_threads: Annotated[int, Range(1, 1024)] = 4  # per host


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    name: Annotated[str, Choice(("adamw", "lamb"))] = "adamw"  # optimizer
    learning_rate: Amount = 1e-4  # peak learning rate, at the end of warmup
    warmup_steps: Index = 10_000  # steps of linear warmup from 0
    # decay of the learning rate to 0 at train.steps
    schedule: Annotated[str, Choice(("linear", "cosine"))] = "linear"
    weight_decay: Amount = 0.01  # not of biases and LayerNorm
    b1: Fraction = 0.9  # decay rate of the first moment
    b2: Fraction = 0.999  # decay rate of the second moment
    eps: Amount = 1e-12  # added to the square root of the second moment
    clip: Amount = 1.0  # largest global norm of the gradient; 0 disables
    accumulate: Size = 1  # micro-batches per batch


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: Count = 200_000  # optimizer steps of the run
    log_every: Count = 100  # steps between two log points
    validate_every: Count = 1_000  # steps between two validations
    validate_batches: Index = 50  # of data.batch_size rows; 0 is the whole validation split
    checkpoint_every: Count = 1_000  # steps between two checkpoints
    keep_latest: Count = 3  # checkpoints to keep, besides the one with the best validation loss
    keep_every: Index = 0  # also keep every checkpoint at a multiple of this step; 0 disables
    profile_steps: str = ""  # FIRST:LAST, the steps whose trace is written to WORKDIR/profile; empty disables
    wandb: str = ""  # Weights & Biases project to log to as well; empty disables


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    # devices along the batch; -1 takes all that mesh.model leaves
    data: Annotated[int, Range(-1), Not(0, "a number of devices, or -1 for all that mesh.model leaves")] = -1
    model: Count = 1  # devices along heads, MLP width and vocabulary
    fsdp: bool = False  # also shards parameters and optimizer moments along `data`


@dataclasses.dataclass(frozen=True)
class Config:
    """Pretraining config. The defaults are the paper's recipe for BERT-base."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    # of parameters, order of rows, masks and dropout
    seed: Annotated[int, Range(0, 2**32 - 1, "two seeds 2^32 apart draw the same parameters")] = 0
    init_from: str = ""  # WORKDIR or WORKDIR@STEP of a run, from whose parameters a new one starts; empty draws them


@dataclasses.dataclass(frozen=True)
class GlueConfig:
    source: str = ""  # tsv:DIR, the standard folders of GLUE, or tfds:DIR, prepared as ArrayRecord


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning config. 0 or empty means: use the protocol's value."""

    checkpoint: tuple[str, ...] = ()  # workdirs of pretrain runs
    checkpoint_steps: tuple[Index, ...] = ()  # of each of them; empty is the latest
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # of GLUE
    protocol: str = "paper"  # paper, bert, roberta or cramming (eval/protocols.py)
    seeds: Annotated[int, Range(0, 10_000)] = 0  # number of seeds: 0 to seeds - 1
    epochs: Annotated[int, Range(0, 10_000)] = 0  # per trial
    learning_rates: tuple[PositiveAmount, ...] = ()  # if several, the best by the validation split is selected
    batch_sizes: tuple[Size, ...] = ()  # if several, the best by the validation split is selected
    select: Annotated[str, Choice(("", "last", "best"))] = ""  # epoch that is scored; best: by the validation split
    from_mnli: bool = False  # RTE, MRPC and STS-B start from the best MNLI model
    together: Annotated[int, Range(0, 10_000)] = 0  # trials that train in parallel; 0: what memory allows, on a CPU one
    save_models: bool = False  # writes the best model of each task to WORKDIR/models
    predictions: bool = False  # writes the files for the GLUE server to WORKDIR/submission
    glue: GlueConfig = GlueConfig()
    mesh: MeshConfig = MeshConfig()
