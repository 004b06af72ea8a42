"""The fields of the config: names, types with limits, defaults. `COMMAND --help` prints the comment of each field."""

import dataclasses
from typing import Annotated

from symbert_jax.config.limits import Amount, Choice, Count, Fraction, Index, Not, PositiveAmount, Range, Size

ATTENTIONS = ("standard", "symmetric", "pairwise")
KERNELS = ("auto", "xla", "short", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    attention: Annotated[str, Choice(ATTENTIONS)] = "standard"  # variant of attention (the paper's section 3)
    # implementation of attention; short and splash need a TPU, cudnn a GPU; auto: the fastest that can run
    kernel: Annotated[str, Choice(KERNELS)] = "auto"
    # form of P in pairwise attention; full: an H x H matrix per head, as in the paper; diagonal: a diagonal matrix
    pairwise_form: Annotated[str, Choice(("full", "diagonal"))] = "full"
    # initial P in pairwise attention; normal: P ~ N(0, 1), as in the paper; identity: the same scores as symmetric
    pairwise_init: Annotated[str, Choice(("normal", "identity"))] = "normal"
    initializer_range: PositiveAmount = 0.02  # standard deviation of the initial weights, except for P
    layers: Size = 12  # L, transformer layers
    dim: Size = 768  # D, the width of the residual stream
    heads: Size = 12  # N, heads per layer; the head width is H = D / N
    mlp_dim: Size = 3072  # F, the width of the MLP
    length: Annotated[int, Range(8, 2**20)] = 512  # T, tokens per row, including [CLS] and [SEP]
    # V, rows of the embedding table; may exceed the vocabulary
    vocab_size: Annotated[int, Range(1, 2**16, "token ids are stored as uint16")] = 30522
    dropout: Fraction = 0.1  # dropout rate of the embeddings and of both residual branches
    attention_dropout: Fraction = 0.1  # dropout rate of the attention probabilities
    # type of activations; parameters and optimizer moments are always float32
    dtype: Annotated[str, Choice(("bfloat16", "float32"))] = "bfloat16"
    # what the backward pass recomputes; none: nothing; dots: all but the results of matmuls; full: whole layers
    remat: Annotated[str, Choice(("none", "dots", "full"))] = "none"
    # layers per iteration of the scan, 0: all; more layers make steps faster and compilation slower
    unroll: Annotated[int, Range(0, 2**20)] = 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    dir: str = "data/wiki_books"  # the prepared corpus; if it is in a bucket (gs://…), it is copied to the local disk
    # any of tfds:NAME, bookcorpus:DIR, jsonl:GLOB, text:GLOB, python-docs[:stdlib[+PACKAGE…]]
    sources: tuple[str, ...] = ()
    # vocab.txt, tokenizer.json, a folder with one of them, hf:REPOSITORY, or train: trained on the corpus
    vocab: str = "hf:google-bert/bert-base-uncased"
    validation_fraction: Fraction = 0.005  # fraction of documents for validation, chosen by a hash of the text
    mask_rate: Fraction = 0.15  # fraction of the non-special tokens of a row that are predicted
    # whether tokens attend to other documents in the same row; if not, position ids restart with each document
    cross_document: bool = True
    batch_size: Size = 256  # B, rows per optimizer step over all hosts
    reader_threads: Annotated[int, Range(1, 1024)] = 4  # threads that read rows, per host


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    name: Annotated[str, Choice(("adamw", "lamb"))] = "adamw"  # optimizer
    learning_rate: Amount = 1e-4  # peak learning rate, at the end of warmup
    warmup_steps: Index = 10_000  # steps of linear warmup from 0
    # decay of the learning rate to 0 at train.steps
    schedule: Annotated[str, Choice(("linear", "cosine"))] = "linear"
    weight_decay: Amount = 0.01  # decoupled weight decay, not applied to biases and LayerNorm
    b1: Fraction = 0.9  # decay rate of the first moment
    b2: Fraction = 0.999  # decay rate of the second moment
    eps: Amount = 1e-12  # added to the square root of the second moment
    clip: Amount = 1.0  # largest global norm of the gradient; 0 disables clipping
    accumulate: Size = 1  # micro-batches per optimizer step


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: Count = 200_000  # optimizer steps of the run
    log_every: Count = 100  # steps between two log points
    validate_every: Count = 1_000  # steps between two validations
    validate_batches: Index = 50  # batches per validation; 0: the whole validation split
    checkpoint_every: Count = 1_000  # steps between two checkpoints
    keep_latest: Count = 3  # latest checkpoints to keep, besides the one with the best validation loss
    keep_every: Index = 0  # also keep every checkpoint at a multiple of this step; 0 disables
    profile_steps: str = ""  # FIRST:LAST, the steps whose trace is written to WORKDIR/profile; empty disables
    wandb: str = ""  # Weights & Biases project to log to as well; empty disables


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    # devices along the batch; -1: all that mesh.model leaves
    data: Annotated[int, Range(-1), Not(0, "a number of devices, or -1 for all that mesh.model leaves")] = -1
    model: Count = 1  # devices along heads, MLP width and vocabulary
    fsdp: bool = False  # whether to shard parameters and optimizer moments, too, along `data`


@dataclasses.dataclass(frozen=True)
class Config:
    """Pretraining config. The defaults are the paper's recipe for BERT-base."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    # seed of the initial parameters, of masks, of dropout and of the order of rows
    seed: Annotated[int, Range(0, 2**32 - 1, "two seeds 2^32 apart draw the same parameters")] = 0
    init_from: str = ""  # WORKDIR or WORKDIR@STEP whose parameters start a new run; empty: random parameters


@dataclasses.dataclass(frozen=True)
class GlueConfig:
    source: str = ""  # tsv:DIR with the standard folders of GLUE, or tfds:DIR prepared as ArrayRecord


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning config. A field of 0 or empty takes the protocol's value, unless its description says otherwise."""

    checkpoint: tuple[str, ...] = ()  # workdirs of pretrain runs
    checkpoint_steps: tuple[Index, ...] = ()  # step of each checkpoint; empty: the latest
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # GLUE tasks
    protocol: str = "paper"  # paper, bert, roberta or cramming (eval/protocols.py)
    seeds: Annotated[int, Range(0, 10_000)] = 0  # number of seeds; the seeds are 0 to seeds - 1
    epochs: Annotated[int, Range(0, 10_000)] = 0  # epochs per trial
    learning_rates: tuple[PositiveAmount, ...] = ()  # if several, the best by the validation split is selected
    batch_sizes: tuple[Size, ...] = ()  # if several, the best by the validation split is selected
    # epoch that is scored; best: the best by the validation split
    select: Annotated[str, Choice(("", "last", "best"))] = ""
    from_mnli: bool = False  # whether RTE, MRPC and STS-B start from the best MNLI model
    together: Annotated[int, Range(0, 10_000)] = 0  # trials that train at once; 0: as memory allows, 1 on a CPU
    save_models: bool = False  # whether to write the best model of each task to WORKDIR/models
    predictions: bool = False  # whether to write the files for the GLUE server to WORKDIR/submission
    glue: GlueConfig = GlueConfig()
    mesh: MeshConfig = MeshConfig()
