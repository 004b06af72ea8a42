"""One training step of BERT per contender: ours, Hugging Face's in Flax and PyTorch, KerasHub's on JAX.

A step consists of forward and backward pass with dropout, clipping, AdamW and schedule. Where the comparison leaves an
option free, each contender uses its fastest, such as fused AdamW, or a loss that takes integer labels and no one-hot
vectors; ours unrolls its layers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

VOCAB_SIZE = 30522
MASK_RATE = 0.15
MASK_ID, FIRST_TOKEN_ID = 4, 5  # any ids would do
LEARNING_RATE, WARMUP_STEPS, TOTAL_STEPS = 1e-4, 100, 10_000
WEIGHT_DECAY, CLIP = 0.01, 1.0

Step = Callable[[], float]  # makes one update; returns the loss when the update is done


@dataclasses.dataclass(frozen=True)
class Workload:
    """The batch, the model's sizes and its dropout, by default BERT-small. `bench.peers` has a flag for each field."""

    batch: int = 8
    length: int = 128
    layers: int = 4
    dim: int = 512
    heads: int = 8
    mlp_dim: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.1


def masked_batch(rows: int, length: int, vocab_size: int, num_masked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns full rows of random tokens: token ids, masked positions of each row, and the original ids there."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(FIRST_TOKEN_ID, vocab_size, (rows, length), dtype=np.int32)
    order = rng.permuted(np.tile(np.arange(length, dtype=np.int32), (rows, 1)), axis=1)
    positions = np.sort(order[:, :num_masked], axis=1)
    targets = np.take_along_axis(tokens, positions, axis=1)
    np.put_along_axis(tokens, positions, MASK_ID, axis=1)
    return tokens, positions, targets


def make_batch(workload: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the batch on which all contenders train."""
    return masked_batch(workload.batch, workload.length, VOCAB_SIZE, round(MASK_RATE * workload.length))


def make_labelled_batch(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same batch for Hugging Face: token ids and a label per position, -100 if it is not masked."""
    tokens, positions, targets = make_batch(workload)
    labels = np.full_like(tokens, -100)
    np.put_along_axis(labels, positions, targets, axis=1)
    return tokens, labels


def our_config(attention: str, workload: Workload, dtype: str = "float32"):
    """Returns a `ModelConfig`."""
    from symbert_jax import config

    return config.ModelConfig(
        attention=attention,
        layers=workload.layers,
        dim=workload.dim,
        heads=workload.heads,
        mlp_dim=workload.mlp_dim,
        length=workload.length,
        vocab_size=VOCAB_SIZE,
        dropout=workload.dropout,
        attention_dropout=workload.attention_dropout,
        dtype=dtype,
        unroll=workload.layers,
    )


def ours(attention: str, workload: Workload, dtype: str = "float32", pads_predictions: bool = False) -> Step:
    """Builds our step.

    pads_predictions: whether the predictions of a row, one for each masked position, are padded to the row's length, so
      that the head computes as many as Hugging Face's. Those that are added are for position 0 and have weight 0.
    """
    import jax

    from symbert_jax import config, sharding
    from symbert_jax.batch import MlmBatch
    from symbert_jax.train import state, step

    model = our_config(attention, workload, dtype)
    optim = config.OptimConfig(
        learning_rate=LEARNING_RATE, warmup_steps=WARMUP_STEPS, weight_decay=WEIGHT_DECAY, clip=CLIP
    )
    settings = config.Config(model=model, optim=optim, train=config.TrainConfig(steps=TOTAL_STEPS))
    jax.set_mesh(sharding.make_mesh(settings.mesh, jax.devices()[:1]))  # the peers use one device
    tokens, positions, targets = make_batch(workload)
    # as in training, the predictions are padded at least to a multiple of 8, and the added ones have weight 0
    width = workload.length if pads_predictions else -(-positions.shape[1] // 8) * 8
    padding = ((0, 0), (0, width - positions.shape[1]))
    weights = np.pad(np.ones(positions.shape, np.float32), padding)
    batch = sharding.put_batch(MlmBatch(tokens, np.pad(positions, padding), np.pad(targets, padding), weights))
    train_step = step.make_train_step(settings)
    current = state.init(settings)

    def run() -> float:
        nonlocal current
        current, sums = jax.block_until_ready(train_step(current, batch))
        total, count = sums["loss"]
        return float(total / count)

    return run


def hf_config(workload: Workload, **options: str):
    """Returns the `BertConfig` of Hugging Face."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=workload.dim,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.heads,
        intermediate_size=workload.mlp_dim,
        max_position_embeddings=workload.length,
        hidden_dropout_prob=workload.dropout,
        attention_probs_dropout_prob=workload.attention_dropout,
        **options,
    )


def hf_flax(workload: Workload, dtype: str = "float32") -> Step:
    """Builds the step of Hugging Face's Flax model."""
    import jax
    import jax.numpy as jnp
    import optax
    from transformers import FlaxBertForMaskedLM

    model = FlaxBertForMaskedLM(hf_config(workload), seed=0, input_shape=(1, workload.length), dtype=jnp.dtype(dtype))
    warmup = optax.linear_schedule(0.0, LEARNING_RATE, WARMUP_STEPS)
    linear_decay = optax.linear_schedule(LEARNING_RATE, 0.0, TOTAL_STEPS - WARMUP_STEPS)
    schedule = optax.join_schedules([warmup, linear_decay], [WARMUP_STEPS])
    has_weight_decay = jax.tree.map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), model.params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=has_weight_decay),
    )

    def loss(params, tokens, labels, key):
        logits = model(tokens, params=params, dropout_rng=key, train=True).logits
        is_masked = labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(is_masked, labels, 0))
        return jnp.sum(losses * is_masked) / jnp.sum(is_masked)

    def train_step(state, tokens, labels):
        params, moments, count = state
        key = jax.random.fold_in(jax.random.key(0), count)
        value, gradients = jax.value_and_grad(loss)(params, tokens, labels, key)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, count + 1), value

    compiled = jax.jit(train_step, donate_argnums=0)
    batch = jax.device_put(make_labelled_batch(workload))
    state = jax.device_put((model.params, optimizer.init(model.params), 0))

    def run() -> float:
        nonlocal state
        state, value = jax.block_until_ready(compiled(state, *batch))
        return float(value)

    return run


def hf_torch(attention: str, workload: Workload, dtype: str = "float32", compiled: bool = False) -> Step:
    """Builds the step of Hugging Face's PyTorch model.

    attention: the model's `attn_implementation`, eager or sdpa.
    dtype: bfloat16 uses autocast over float32 parameters.
    compiled: whether torch.compile compiles the model.
    """
    import torch
    from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, XLA's default
    model = BertForMaskedLM(hf_config(workload, attn_implementation=attention)).train().to(device)
    forward = torch.compile(model) if compiled else model
    cast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
    matrices, vectors = [], []  # vectors, the biases and LayerNorm's parameters, have no weight decay
    for weight in model.parameters():
        (matrices if weight.ndim > 1 else vectors).append(weight)
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)  # `fused` as in transformers' Trainer
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, TOTAL_STEPS)
    tokens, labels = (torch.from_numpy(rows).long().to(device) for rows in make_labelled_batch(workload))

    def run() -> float:
        with cast:
            value = forward(input_ids=tokens, labels=labels).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return value.item()

    return run


def keras_hub(workload: Workload, dtype: str = "float32") -> Step:
    """Builds the step of KerasHub's model, whose head predicts only masked positions, like ours."""
    import keras
    from keras_hub.models import BertBackbone, BertMaskedLM

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    backbone = BertBackbone(
        vocabulary_size=VOCAB_SIZE,
        num_layers=workload.layers,
        num_heads=workload.heads,
        hidden_dim=workload.dim,
        intermediate_dim=workload.mlp_dim,
        dropout=workload.dropout,  # KerasHub applies it to attention probabilities too
        max_sequence_length=workload.length,
    )
    model = BertMaskedLM(backbone, preprocessor=None)
    schedule = keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE, TOTAL_STEPS, 0.0)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(), weighted_metrics=None)
    tokens, positions, targets = make_batch(workload)
    inputs = {
        "token_ids": tokens,
        "segment_ids": np.zeros_like(tokens),
        "padding_mask": np.ones_like(tokens),
        "mask_positions": positions,
    }

    def run() -> float:
        return float(model.train_on_batch(inputs, targets, return_dict=True)["loss"])

    return run
