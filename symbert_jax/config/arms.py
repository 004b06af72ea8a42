"""The arms of a study: the base config with a few fields changed, written as `NAME: FIELD=VALUE FIELD=VALUE`."""

import re

from symbert_jax.config.changes import Changeable, with_change
from symbert_jax.config.schema import Config, StudyConfig
from symbert_jax.errors import UserError

# Other fields belong to the whole study, so that all arms see the same batches and have the same learning rates.
_CHANGEABLE = Changeable(
    lambda field: field.startswith(("model.", "optim.")) and field != "optim.learning_rate",
    "a field of model or optim, but optim.learning_rate",
    "base and learning_rates have the fields that all arms share",
)


def parse_arms(study: StudyConfig) -> dict[str, Config]:
    """Returns the config of each arm by its name, in the order of the study.

    Raises:
      UserError: an arm is not `NAME: FIELD=VALUE …`, two have the same name, or a field or value is not known.
    """
    arms: dict[str, Config] = {}
    for text in study.arms:
        name, _, changes = text.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):  # it names a folder
            wanted = "NAME or NAME: FIELD=VALUE …, with a NAME of letters, digits and _ . + -"
            raise UserError("arms", repr(text), wanted)
        if name in arms:
            raise UserError("arms", f"two arms {name!r}", "a name for each")
        arms[name] = study.base
        for change in changes.split():
            arms[name] = with_change(arms[name], change, _CHANGEABLE, f"arms: {name}")
    return arms
