"""The published protocols of fine-tuning on GLUE, and how a config changes them."""

import dataclasses
import json
from typing import Any

from symbert_jax.config import FinetuneConfig, OptimConfig
from symbert_jax.errors import UserError, did_you_mean

SHORTEST = 8  # the least that `length` may be, and the length of the shortest batches


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a task is trained.

    A setting is a learning rate with a batch size, a weight decay and a number of epochs. Every combination of setting
    and seed is a trial. The report has, for each task, the setting with the best mean score over the seeds.
    """

    epochs: tuple[int, ...]  # numbers of epochs, each with a schedule of its own
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    warmup: float  # fraction of the steps
    optim: OptimConfig  # `optim_config` sets the learning rate and the warmup steps of a trial
    seeds: int  # the number of seeds
    select: str = "last"  # last | best: the epoch that is kept; `best` is the one with the highest validation score
    task_epochs: tuple[tuple[str, tuple[int, ...]], ...] = ()  # the tasks with other numbers of epochs, and these
    length: int = 128  # tokens to which examples are truncated
    dropout: float = 0.1  # of hidden layers and attention probabilities
    weight_decays: tuple[float, ...] = ()  # empty: that of `optim`
    decay_per_step: bool = False  # see `decay_factor`

    @property
    def all_weight_decays(self) -> tuple[float, ...]:
        return self.weight_decays or (self.optim.weight_decay,)

    @property
    def num_trials(self) -> int:
        """The number of trials of a task, with the protocol `for_task`."""
        return self._trials_per_epochs * len(self.epochs)

    @property
    def num_epochs(self) -> int:
        """The number of epochs that all trials of a task train together, with the protocol `for_task`."""
        return self._trials_per_epochs * sum(self.epochs)

    @property
    def _trials_per_epochs(self) -> int:
        return len(self.batch_sizes) * len(self.learning_rates) * len(self.all_weight_decays) * self.seeds

    @property
    def fingerprint(self) -> str:
        """The fields that all trials of a task share, as JSON.

        Learning rates, batch sizes and seeds are left empty; the weight decay or the number of epochs is null if there
        are several. It is that of the protocol `for_task`, which has no `task_epochs`.
        """
        fields = dataclasses.asdict(dataclasses.replace(self, learning_rates=(), batch_sizes=(), seeds=0))
        fields["epochs"] = _only(self.epochs)
        fields["optim"]["weight_decay"] = _only(self.all_weight_decays)
        del fields["task_epochs"], fields["weight_decays"]
        if not self.decay_per_step:
            del fields["decay_per_step"]  # earlier versions did not have it
        return json.dumps(fields)

    def trial_fingerprint(self, epochs: int, weight_decay: float) -> str:
        """Returns the fingerprint with one number of epochs and one weight decay of the grid."""
        return dataclasses.replace(self, epochs=(epochs,), weight_decays=(weight_decay,)).fingerprint

    def for_task(self, name: str) -> "Protocol":
        """Returns the protocol of a task."""
        return dataclasses.replace(self, epochs=dict(self.task_epochs).get(name, self.epochs), task_epochs=())

    def decay_factor(self, weight_decay: float, learning_rate: float) -> float:
        """Returns the factor of the weights in the update of a trial, which is multiplied by the learning rate.

        It is the weight decay itself, as in AdamW. With `decay_per_step`, it is such that a step at the peak learning
        rate removes the fraction `weight_decay` of a weight, as in Composer's DecoupledAdamW.
        """
        return weight_decay / learning_rate if self.decay_per_step else weight_decay

    def optim_config(self, learning_rate: float, steps: int) -> OptimConfig:
        """Returns the config of the optimizer and the schedule of a trial, which takes `steps` steps in all."""
        warmup = min(round(self.warmup * steps), steps - 1)
        return dataclasses.replace(self.optim, learning_rate=learning_rate, warmup_steps=warmup)


def _only(values: tuple[Any, ...]) -> Any:
    """Returns the value if there is one, None if there are several."""
    return values[0] if len(values) == 1 else None


PROTOCOLS = {
    # Courtois et al. (2024), section 4: 5 epochs at 1e-5, 10% warmup, batches of 16, 5 seeds, the last checkpoint.
    # The other values are defaults of Hugging Face's Trainer, which its scripts call: no weight decay, clipping at 1.
    "paper": Protocol(
        epochs=(5,),
        learning_rates=(1e-5,),
        batch_sizes=(16,),
        warmup=0.1,
        optim=OptimConfig(weight_decay=0.0, eps=1e-8, clip=1.0),
        seeds=5,
    ),
    # Devlin et al. (2018), section 4.1: batches of 32, 3 epochs, the best of four learning rates on the dev set.
    # Warmup, decay, epsilon and clipping are those of run_classifier.py and optimization.py in google-research/bert.
    "bert": Protocol(
        epochs=(3,),
        learning_rates=(5e-5, 4e-5, 3e-5, 2e-5),
        batch_sizes=(32,),
        warmup=0.1,
        optim=OptimConfig(weight_decay=0.01, eps=1e-6, clip=1.0),
        seeds=1,
    ),
    # Liu et al. (2019), section 5.1 and table 10: a grid of learning rates and batch sizes, 10 epochs, the best epoch
    # (early stopping), decay 0.1, 6% warmup, 5 seeds. They report the median of the seeds, which is in results.md, too.
    # 512 tokens, betas and epsilon: fairseq's examples/roberta.
    "roberta": Protocol(
        epochs=(10,),
        learning_rates=(1e-5, 2e-5, 3e-5),
        batch_sizes=(16, 32),
        warmup=0.06,
        optim=OptimConfig(weight_decay=0.1, b2=0.98, eps=1e-6, clip=0.0),
        seeds=5,
        select="best",
        length=512,
    ),
    # Geiping and Goldstein (2022), section 5: one set of values for all tasks, 5 epochs at 4e-5 with cosine decay,
    # batches of 16; the other values are from cramming/config/eval/GLUE_sane.yaml in JonasGeiping/cramming.
    "cramming": Protocol(
        epochs=(5,),
        learning_rates=(4e-5,),
        batch_sizes=(16,),
        warmup=0.1,
        optim=OptimConfig(weight_decay=0.0, b2=0.98, eps=1e-6, clip=0.0, schedule="cosine"),
        seeds=5,
    ),
    # Warner et al. (2024), appendix E.1: a grid of learning rates, weight decays and numbers of epochs, which are 1, 2
    # and 3 for SST-2, MNLI and RTE; batches of 64, and early stopping. RTE, MRPC and STS-B start from the MNLI model:
    # --config.from_mnli=True. Betas, epsilon, 256 tokens and the optimizer, Composer's DecoupledAdamW:
    # src/evals/glue_jobs.py in AnswerDotAI/ModernBERT. Warmup, one seed, no dropout and no decay of LayerNorm are
    # chosen here.
    "modernbert": Protocol(
        epochs=(2, 5, 10),
        task_epochs=tuple((task, (1, 2, 3)) for task in ("sst2", "mnli", "rte")),
        learning_rates=(1e-5, 3e-5, 5e-5, 8e-5),
        batch_sizes=(64,),
        warmup=0.06,
        optim=OptimConfig(b2=0.98, eps=1e-6, clip=0.0),
        weight_decays=(1e-6, 5e-6, 8e-6, 1e-5),
        decay_per_step=True,
        seeds=1,
        select="best",
        length=256,
        dropout=0.0,
    ),
}


def resolve(config: FinetuneConfig) -> Protocol:
    """Returns the protocol that `config` names, changed by the fields that `config` sets.

    Raises:
      UserError: there is no such protocol, or `config.length` is too small for a pair of sentences.
    """
    if config.protocol not in PROTOCOLS:
        hint = did_you_mean(config.protocol, PROTOCOLS)
        raise UserError("protocol", repr(config.protocol), f"one of {', '.join(PROTOCOLS)}", hint)
    if 0 < config.length < SHORTEST:
        raise UserError("length", str(config.length), f"at least {SHORTEST}, or 0 for that of the protocol")
    changes: dict[str, Any] = {
        "epochs": (config.epochs,) if config.epochs else (),
        "learning_rates": tuple(dict.fromkeys(config.learning_rates)),  # a duplicate would count its seeds twice
        "batch_sizes": tuple(dict.fromkeys(config.batch_sizes)),
        "weight_decays": tuple(dict.fromkeys(config.weight_decays)),
        "seeds": config.seeds,
        "select": config.select,
        "length": config.length,
    }
    protocol = dataclasses.replace(PROTOCOLS[config.protocol], **{name: new for name, new in changes.items() if new})
    if len(protocol.weight_decays) == 1 and not protocol.decay_per_step:
        (weight_decay,) = protocol.weight_decays
        optim = dataclasses.replace(protocol.optim, weight_decay=weight_decay)
        protocol = dataclasses.replace(protocol, optim=optim, weight_decays=())
    return dataclasses.replace(protocol, task_epochs=()) if config.epochs else protocol
