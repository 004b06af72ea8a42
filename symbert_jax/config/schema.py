"""The fields of the config: names, types with limits, defaults. `COMMAND --help` prints the comment of each field."""

import dataclasses
from typing import Annotated

from symbert_jax.config.limits import Amount, Choice, Count, Fraction, Index, Not, PositiveAmount, Range, Share, Size

ATTENTIONS = ("standard", "symmetric", "pairwise")  # the variants of the paper
WEIGHTS = ("ema", "raw")  # the parameters of a checkpoint: their moving average, or those of the last step
KERNELS = ("auto", "xla", "short", "splash", "cudnn", "triton")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    # variant of attention (the paper's section 3); uniform: every token averages all others, a control
    attention: Annotated[str, Choice((*ATTENTIONS, "uniform"))] = "standard"
    # implementation of attention; short and splash need a TPU, cudnn and triton a GPU; auto: the fastest possible one
    kernel: Annotated[str, Choice(KERNELS)] = "auto"
    # form of P in pairwise attention; full: an H x H matrix per head, as in the paper; diagonal: a diagonal matrix;
    # low_rank: I + A B^T, where A and B have model.pairwise_rank columns
    pairwise_form: Annotated[str, Choice(("full", "diagonal", "low_rank"))] = "full"
    pairwise_rank: Size = 8  # columns of A and B in the form low_rank
    # initial P in pairwise attention; normal: P ~ N(0, 1), as in the paper; unit: the same, scaled so that the first
    # logits are as large as those of standard attention, N(0, 1/H) in the form full; identity: the same scores as
    # symmetric, as always in the form low_rank
    pairwise_init: Annotated[str, Choice(("normal", "unit", "identity"))] = "normal"
    initializer_range: PositiveAmount = 0.02  # standard deviation of the initial weights, except for P
    # standard deviation of the first logits, as a multiple of that of standard attention with this initializer_range,
    # reached by scaling Wk or P, or else Wq; 0: the variant's own initial values
    score_gain: Amount = 0.0
    # initial Wk in standard attention; normal: drawn; query: equal to Wq, so that the first scores are symmetric
    key_init: Annotated[str, Choice(("normal", "query"))] = "normal"
    # Wq in standard attention; identity: not a parameter, the query of a head is its part of the layer's input
    query: Annotated[str, Choice(("learned", "identity"))] = "learned"
    key_dim: Annotated[int, Range(0, 2**20)] = 0  # width of the queries and keys of a head; 0: the head width H
    layers: Size = 12  # L, transformer layers
    dim: Size = 768  # D, the width of the residual stream
    heads: Size = 12  # N, heads per layer; the head width is H = D / N
    mlp_dim: Size = 3072  # F, the width of the MLP
    length: Annotated[int, Range(8, 2**20)] = 512  # T, tokens per row, including [CLS] and [SEP]
    # V, rows of the embedding table; may exceed the vocabulary
    vocab_size: Annotated[int, Range(1, 2**22)] = 30522
    # place of LayerNorm; post: after each residual sum, as in BERT; pre: before attention and before the MLP, and once
    # after the last layer, as in ModernBERT
    norm: Annotated[str, Choice(("post", "pre"))] = "post"
    norm_eps: PositiveAmount = 1e-12  # added to the variance in LayerNorm
    # how tokens know their positions; learned: by embeddings of positions and of token types, as in BERT; rope: by
    # rotations of queries and keys, without these embeddings, as in ModernBERT
    positions: Annotated[str, Choice(("learned", "rope"))] = "learned"
    rope_theta: PositiveAmount = 10_000.0  # base of the wavelengths of rope in global layers
    rope_theta_local: PositiveAmount = 10_000.0  # base of the wavelengths of rope in local layers
    # MLP of a layer; gelu: GELU(x W), as in BERT; geglu: GELU(x W) * (x V), as in ModernBERT; each then times a matrix
    mlp: Annotated[str, Choice(("gelu", "geglu"))] = "gelu"
    # whether dense layers and LayerNorm have biases; the logits of the tokens and of the classes always have them
    bias: bool = True
    # tokens that a token attends to besides itself in local layers, half of them on each side; 0: all layers are global
    window: Annotated[int, Range(0, 2**20)] = 0
    global_every: Size = 3  # with a window, every so many layers, beginning with the first, one is global
    dropout: Fraction = 0.1  # dropout rate of the embeddings and of both residual branches
    attention_dropout: Fraction = 0.1  # dropout rate of the attention probabilities
    # type of activations; parameters and optimizer moments are always float32
    dtype: Annotated[str, Choice(("bfloat16", "float32"))] = "bfloat16"
    # what the backward pass recomputes; none: nothing; dots: all but the results of dense layers; full: whole layers
    remat: Annotated[str, Choice(("none", "dots", "full"))] = "none"
    # layers per iteration of the scan, 0: all; more layers make steps faster and compilation slower
    unroll: Annotated[int, Range(0, 2**20)] = 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    dir: str = "data/wiki_books"  # the prepared corpus; if it is in a bucket (gs://…), it is copied to the local disk
    # any of tfds:NAME, bookcorpus:DIR, jsonl:GLOB, text:GLOB, parquet:GLOB, python-docs[:stdlib[+PACKAGE…]]
    sources: tuple[str, ...] = ()
    # vocab.txt, tokenizer.json, a folder with one of them, hf:REPOSITORY, or trained on the corpus: train (WordPiece as
    # in BERT) or train:bpe (byte-level BPE)
    vocab: str = "hf:google-bert/bert-base-uncased"
    lowercase: bool = True  # whether a trained tokenizer lower-cases texts
    validation_fraction: Fraction = 0.005  # fraction of documents for validation, chosen by a hash of the text
    # how documents become rows; concat: joined and cut, as in the paper; best_fit: whole documents, padded to full rows
    packing: Annotated[str, Choice(("concat", "best_fit"))] = "concat"
    workers: Annotated[int, Range(0, 1024)] = 0  # processes of `prepare`; 0: one per core, fewer for little text
    mask_rate: Fraction = 0.15  # fraction of the non-special tokens of a row that are predicted
    final_mask_rate: Fraction = 0.0  # mask rate that data.mask_rate changes to linearly until train.steps; 0: constant
    # mask rate of validation, which in every run predicts single tokens with BERT's split, so that losses compare
    validation_mask_rate: Fraction = 0.15
    # what becomes of the tokens to predict: the fractions that [MASK] replaces, that a random token replaces, that stay
    mask_split: tuple[Share, ...] = (0.8, 0.1, 0.1)
    # what is predicted; token: single tokens; word: whole words; span: spans of 1 to 10 whole words, as in SpanBERT
    mask_unit: Annotated[str, Choice(("token", "word", "span"))] = "token"
    # whether tokens attend to other documents in the same row; if not, position ids restart with each document
    cross_document: bool = True
    batch_size: Size = 256  # B, rows per optimizer step over all hosts
    # batch sizes before data.batch_size, each for the same number of steps, such as 64,128,192; empty: no warmup
    batch_warmup: tuple[Size, ...] = ()
    batch_warmup_steps: Index = 0  # steps until the batch has data.batch_size rows; 0: no warmup
    reader_threads: Annotated[int, Range(1, 1024)] = 4  # threads that read rows, per host


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    # optimizer; muon: Muon for the matrices of the layers, AdamW for all other parameters; stable_adamw: AdamW that
    # clips the update of a tensor whose gradient is larger than its second moment tells
    name: Annotated[str, Choice(("adamw", "lamb", "muon", "stable_adamw"))] = "adamw"
    learning_rate: Amount = 1e-4  # peak learning rate, at the end of warmup
    warmup_steps: Index = 10_000  # steps of linear warmup from 0
    # how the learning rate falls from its peak to 0 at train.steps; linear and cosine: from the end of warmup on; wsd
    # (warmup, stable, decay): it stays at its peak and falls in the last optim.decay_steps
    schedule: Annotated[str, Choice(("linear", "cosine", "wsd"))] = "linear"
    decay_steps: Index = 0  # steps of decay at the end of the schedule wsd; 0: the learning rate stays at its peak
    # shape of the decay of wsd after a fraction x of it; linear: 1 - x; sqrt: 1 - sqrt(x)
    decay_shape: Annotated[str, Choice(("linear", "sqrt"))] = "linear"
    weight_decay: Amount = 0.01  # decoupled weight decay, not applied to biases and LayerNorm
    b1: Fraction = 0.9  # decay rate of the first moment
    b2: Fraction = 0.999  # decay rate of the second moment
    eps: PositiveAmount = 1e-12  # added to the square root of the second moment
    momentum: Fraction = 0.95  # decay rate of the momentum of Muon
    clip: Amount = 1.0  # largest global norm of the gradient; 0 disables clipping
    accumulate: Size = 1  # micro-batches per optimizer step
    # decay rate per step of the moving average of the parameters, which finetune, export and fill use; 0: no average; a
    # run that continues with its first average starts it from its current parameters
    ema: Fraction = 0.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: Count = 200_000  # optimizer steps of the run
    # phases before the last, each STEP: FIELD=VALUE …; until STEP, these fields have other values than in this config,
    # any of model.length, data.dir, data.batch_size, data.mask_rate, optim.accumulate
    phases: tuple[str, ...] = ()
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
    # WORKDIR@STEP of a run that this one continues in a workdir of its own, with its parameters, its optimizer and the
    # rows that follow, for example with a decay of the learning rate; empty: the run starts at step 0
    branch_from: str = ""


@dataclasses.dataclass(frozen=True)
class GlueConfig:
    source: str = ""  # tsv:DIR with the standard folders of GLUE, or tfds:DIR prepared as ArrayRecord


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning config. A field of 0 or empty takes the protocol's value, unless its description says otherwise."""

    checkpoint: tuple[str, ...] = ()  # workdirs of pretrain runs
    checkpoint_steps: tuple[Index, ...] = ()  # steps to score of every workdir; empty: the latest
    # parameters of a checkpoint; ema: their moving average; raw: the last; empty: the average if there is one
    weights: Annotated[str, Choice(("", *WEIGHTS))] = ""
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # GLUE tasks
    protocol: str = "paper"  # paper, bert, roberta, cramming or modernbert (eval/protocols.py)
    seeds: Annotated[int, Range(0, 10_000)] = 0  # number of seeds; the seeds are 0 to seeds - 1
    epochs: Annotated[int, Range(0, 10_000)] = 0  # epochs per trial
    learning_rates: tuple[PositiveAmount, ...] = ()  # if several, the best by the validation split is selected
    batch_sizes: tuple[Size, ...] = ()  # if several, the best by the validation split is selected
    # if several, the best by the validation split is selected; they are multiplied by the learning rate, or with the
    # protocol modernbert, are the fraction of a weight that a step at the peak learning rate removes
    weight_decays: tuple[Amount, ...] = ()
    # epoch that is scored; best: the best by the validation split
    select: Annotated[str, Choice(("", "last", "best"))] = ""
    # tokens to which examples are truncated, at most model.length; 0: those of the protocol, but at most model.length
    length: Annotated[int, Range(0, 2**20)] = 0
    from_mnli: bool = False  # whether RTE, MRPC and STS-B start from the best MNLI model
    together: Annotated[int, Range(0, 10_000)] = 0  # trials that train at once; 0: as memory allows, 1 on a CPU
    save_models: bool = False  # whether to write the best model of each task to WORKDIR/models
    predictions: bool = False  # whether to write the files for the GLUE server to WORKDIR/submission
    glue: GlueConfig = GlueConfig()
    mesh: MeshConfig = MeshConfig()


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Study config: arms that differ in a few fields, each trained with the same learning rates and seeds."""

    base: Config = Config()
    # NAME, or NAME: FIELD=VALUE …; each arm is the base with some fields of `model` and `optim` changed
    arms: tuple[str, ...] = ("standard", "symmetric: model.attention=symmetric", "pairwise: model.attention=pairwise")
    seeds: Annotated[int, Range(1, 10_000)] = 3  # number of seeds of every arm; the seeds are 0 to seeds - 1
    # peak learning rates of every arm, of which the report compares the best by validation loss; empty: the base's own
    learning_rates: tuple[PositiveAmount, ...] = ()
    reference: str = "standard"  # arm with which all others are compared
    plateau: str = "uniform"  # arm whose final loss is that of the initial plateau
    # nats below the plateau at which a run has left it
    escape_margin: PositiveAmount = 0.3
    parallel: Annotated[int, Range(0, 10_000)] = 0  # runs that train at once; 0: as memory allows, 1 on a CPU
