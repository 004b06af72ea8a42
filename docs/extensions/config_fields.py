"""The directive `config-fields`: the fields of a config with their comments, defaults and limits, by section."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from symbert_jax import config as configs
from symbert_jax.config import Config, Field, FinetuneConfig

from . import markdown

CONFIGS = {"pretrain": Config, "finetune": FinetuneConfig}


class ConfigFields(SphinxDirective):
    """Takes `pretrain` or `finetune`, and lists the fields of its config under a heading for each section.

    Fields that `finetune` shares with `pretrain` are only listed for `pretrain`.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        config = CONFIGS[self.arguments[0]]()
        shared = configs.values_by_name(Config()) if isinstance(config, FinetuneConfig) else {}
        sections: dict[str, list[Field]] = {"": []}  # the fields outside of sections come first
        for field in configs.walk(config):
            if field.name not in shared:
                sections.setdefault(field.name.rpartition(".")[0], []).append(field)
        text = ""
        for name, fields in sections.items():
            text += (f"### {name}\n\n" if name else "") + "".join(map(describe, fields))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def describe(field: Field) -> str:
    """Returns the entry of a field in Markdown."""
    default = ",".join(map(str, field.value)) if isinstance(field.value, tuple) else str(field.value)
    facts = [f"Default: `{default}`" if default else "Default: empty"]
    facts += map(str, field.limits[-1:])  # the strictest
    return f"```{{confval}} {field.name}\n{markdown.escape(field.comment)}. {'; '.join(facts)}.\n```\n\n"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
