"""Finds the problems of a config: fields outside their limits, and fields that contradict each other."""

import math
import re
from collections.abc import Iterator

from symbert_jax.config.arms import parse_arms
from symbert_jax.config.phases import phases
from symbert_jax.config.schema import Config, FinetuneConfig, MeshConfig, ModelConfig, StudyConfig
from symbert_jax.config.walk import values_by_name, walk
from symbert_jax.errors import UserError, spelling_hint

# In each pair, the first field must be a multiple of the second.
_MULTIPLES = (
    ("model.dim", "model.heads"),
    ("model.layers", "model.unroll"),
    ("data.batch_size", "optim.accumulate"),
    ("train.checkpoint_every", "train.validate_every"),
)
# In each row, the first field may have the value only together with the value of the other field.
_REQUIREMENTS = (
    ("model.key_init", "query", "model.attention", "standard"),
    ("model.key_init", "query", "model.query", "learned"),
    ("model.query", "identity", "model.attention", "standard"),
    ("model.query", "identity", "model.key_dim", 0),
    ("optim.decay_shape", "sqrt", "optim.schedule", "wsd"),
)
_SPLIT_DIMENSIONS = ("heads", "mlp_dim", "vocab_size")  # these are split along the axis `model` of the mesh


def check(config: Config | FinetuneConfig | StudyConfig) -> None:
    """Raises the first of the `problems`, if there is one."""
    for problem in problems(config):
        raise problem


def problems(config: Config | FinetuneConfig | StudyConfig) -> Iterator[UserError]:
    """Yields an error for every field that is outside its limits or contradicts another.

    For a `StudyConfig`, these are its own fields, those of its base and, if the base has no problem, those of its arms.

    For a `FinetuneConfig`, the errors are a missing checkpoint and fields outside their limits. `eval.protocols`,
    `eval.tasks` and `eval.examples` check what these fields name; `sharding.check_split` checks the mesh against the
    model of a checkpoint.
    """
    if isinstance(config, FinetuneConfig) and not config.checkpoint:
        yield UserError("checkpoint", "none", "the workdir of a pretrain run", "--config.checkpoint=DIR")
    for field in walk(config):
        for value in field.value if isinstance(field.value, tuple) else (field.value,):
            for limit in field.limits:
                if problem := limit.problem(field.name, value):
                    yield problem
    if isinstance(config, Config):
        yield from _contradictions(config)
        yield from _phase_problems(config)
    if isinstance(config, StudyConfig):
        yield from _study_problems(config)


def _study_problems(config: StudyConfig) -> Iterator[UserError]:
    """Yields the errors of a study beside fields outside their limits."""
    if config.base.branch_from:
        found, hint = repr(config.base.branch_from), "the runs of a study start at step 0"
        yield UserError("base.branch_from", found, "none", hint)
    if in_base := [*_contradictions(config.base), *_phase_problems(config.base)]:
        for problem in in_base:
            yield UserError(f"base.{problem.what}", problem.found, problem.wanted, problem.hint)
        return
    arms = parse_arms(config)
    if config.reference not in arms:
        wanted = f"one of the arms {', '.join(arms)}"
        yield UserError("reference", repr(config.reference), wanted, spelling_hint(config.reference, arms))
    for name, arm in arms.items():
        for problem in problems(arm):
            yield UserError(f"arms: {name}: {problem.what}", problem.found, problem.wanted, problem.hint)


def split_problems(model: ModelConfig, mesh: MeshConfig) -> Iterator[UserError]:
    """Yields an error for every dimension of the model that the mesh cannot split evenly."""
    for name in _SPLIT_DIMENSIONS:
        yield from _multiple_problems(f"model.{name}", getattr(model, name), "mesh.model", mesh.model)


def _contradictions(config: Config) -> Iterator[UserError]:
    model, data, optim, train = config.model, config.data, config.optim, config.train
    for name in ("mask_rate", "validation_mask_rate", "final_mask_rate"):
        rate = getattr(data, name)
        is_constant = name == "final_mask_rate" and rate == 0
        # Any other mask rate is outside its limit. [CLS] and [SEP] are never masked.
        if 0 <= rate < 1 and round(rate * (model.length - 2)) < 1 and not is_constant:
            wanted = f"enough to mask a token of model.length={model.length}"
            yield UserError(f"data.{name}", str(rate), wanted, "without masked tokens there is no loss")
    if len(data.mask_split) != 3 or not math.isclose(sum(data.mask_split), 1):
        found, hint = ",".join(f"{share:g}" for share in data.mask_split), "BERT has 0.8,0.1,0.1"
        wanted = "three fractions that add up to 1: replaced by [MASK], replaced by a random token, kept"
        yield UserError("data.mask_split", found or "none", wanted, hint)
    if not data.lowercase and data.vocab.partition(":")[0] != "train":
        hint = "any other tokenizer says itself whether it lower-cases texts"
        yield UserError("data.lowercase", f"False with data.vocab={data.vocab}", "data.vocab=train or train:bpe", hint)
    values = values_by_name(config)
    for name, divisor_name in _MULTIPLES:
        yield from _multiple_problems(name, values[name], divisor_name, values[divisor_name])
    for name, value, other, required in _REQUIREMENTS:
        if values[name] == value and values[other] != required:
            yield UserError(name, f"{value!r} with {other}={values[other]}", f"{other}={required}")
    if model.window % 2:
        hint = f"{model.window + 1} is {(model.window + 1) // 2} on each side"
        yield UserError("model.window", str(model.window), "an even number, half of it on each side", hint)
    width_name = "model.key_dim" if model.key_dim else "model.dim / model.heads"
    if model.positions == "rope" and (width := model.key_dim or model.dim // max(model.heads, 1)) % 2:
        yield UserError(width_name, str(width), "an even number with model.positions=rope, which rotates pairs")
    yield from split_problems(model, config.mesh)
    # At most 10 digits, because `int` refuses very long numbers.
    step_range = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", train.profile_steps)
    if train.profile_steps and not (step_range and 1 <= int(step_range[1]) <= int(step_range[2]) <= train.steps):
        wanted = f"FIRST:LAST, steps from 1 to train.steps={train.steps}"
        yield UserError("train.profile_steps", repr(train.profile_steps), wanted, "for example 10:15")
    if optim.warmup_steps >= train.steps:
        yield UserError(
            "optim.warmup_steps",
            str(optim.warmup_steps),
            f"fewer than train.steps={train.steps}",
            "the learning rate would never come down again",
        )
    elif optim.schedule == "wsd" and optim.warmup_steps + optim.decay_steps > train.steps:
        wanted = f"at most {train.steps - optim.warmup_steps}, the steps of the run after warmup"
        yield UserError("optim.decay_steps", str(optim.decay_steps), wanted)
    if optim.decay_steps and optim.schedule != "wsd":
        found = f"{optim.decay_steps} with optim.schedule={optim.schedule}"
        yield UserError("optim.decay_steps", found, "optim.schedule=wsd")
    if config.branch_from and not re.fullmatch(r".+@[0-9]{1,10}", config.branch_from, re.DOTALL):
        hint = "a run that is started again must branch from the same step"
        yield UserError("branch_from", repr(config.branch_from), "WORKDIR@STEP", hint)
    if config.branch_from and config.init_from:
        yield UserError("branch_from", f"{config.branch_from} with init_from={config.init_from}", "one of them")


def _phase_problems(config: Config) -> Iterator[UserError]:
    """Yields the errors of the phases beside those of the config itself, which describes the last phase."""
    try:
        *earlier, last = phases(config)
    except UserError as error:
        yield error
        return
    in_last = {str(problem) for problem in problems(last.config)} if earlier else set()
    for phase in earlier:
        if phase.config.model.length > config.model.length:
            wanted = f"at most model.length={config.model.length}, that of the last phase, which sizes the model"
            found = str(phase.config.model.length)
            yield phase.named(UserError("model.length", found, wanted))
        for problem in problems(phase.config):
            if str(problem) not in in_last:
                yield phase.named(problem)


def _multiple_problems(name: str, value: int, divisor_name: str, divisor: int) -> Iterator[UserError]:
    """Yields an error if the value is not a multiple of the divisor.

    A divisor below 1 is skipped: `model.unroll=0` fits every value, and any other is outside its own limit.
    """
    if divisor >= 1 and value % divisor:
        wanted, hint = f"a multiple of {divisor_name}={divisor}", f"the next is {-(-value // divisor) * divisor}"
        yield UserError(name, str(value), wanted, hint)
