"""The directive `config-fields`: the fields of a config with their comments, defaults and limits, by section."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from symbert_jax import config as configs
from symbert_jax.config import Config, Field, FinetuneConfig, StudyConfig

from . import markdown

CONFIGS = {"pretrain": Config, "finetune": FinetuneConfig, "study": StudyConfig}


class ConfigFields(SphinxDirective):
    """Takes a command, and lists the fields of its config under a heading for each section.

    Fields that `finetune` and `study` share with `pretrain` are only listed for `pretrain`.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        config = CONFIGS[self.arguments[0]]()
        shared = {} if isinstance(config, Config) else configs.values_by_name(Config())
        sections: dict[str, list[Field]] = {"": []}  # the fields outside of sections come first
        for field in configs.walk(config):
            if field.name.removeprefix("base.") not in shared:
                sections.setdefault(field.name.rpartition(".")[0], []).append(field)
        is_indexed = not isinstance(config, StudyConfig)  # some of its fields have names of fields of `finetune`
        text = ""
        for name, fields in sections.items():
            text += f"### {name}\n\n" if name else ""
            text += "".join(describe(field, is_indexed) for field in fields)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def describe(field: Field, is_indexed: bool) -> str:
    """Returns the entry of a field in Markdown."""
    option = "" if is_indexed else ":no-index:\n"
    default = ",".join(map(str, field.value)) if isinstance(field.value, tuple) else str(field.value)
    facts = [f"Default: `{default}`" if default else "Default: empty"]
    facts += map(str, field.limits[-1:])  # the strictest
    return f"```{{confval}} {field.name}\n{option}{markdown.escape(field.comment)}. {'; '.join(facts)}.\n```\n\n"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
