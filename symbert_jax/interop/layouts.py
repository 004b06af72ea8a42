"""The names and the layout of the tensors of the classes of `transformers` that our models become."""

import dataclasses
from collections.abc import Mapping

from symbert_jax.model.tree import Params


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a class of PyTorch models names its tensors.

    Names are those in a model with heads. A name of a layer has `{}` for its index, or `{next}` for the index of the
    next layer.
    """

    title: str  # in errors
    encoder: str  # the prefix of the names of the encoder
    encoder_parts: tuple[str, ...]  # the parts of the encoder, with a dot
    head_parts: tuple[str, ...]  # the parts of the masked-language head, with a dot
    layers: str  # what precedes the index of a layer
    parameters: Mapping[str, str]  # names of parameters, by the path in our tree
    modules: Mapping[str, str]  # names of modules, by the path in our tree; their parameters are a weight and a bias
    # Tensors that some checkpoints hold twice, by the name of the copy.
    tied: Mapping[str, str]
    unused: tuple[str, ...]  # prefixes of tensors of the encoder that a masked-language model does not use
    # Modules of a layer that are one in PyTorch, whose outputs are concatenated, by the last parts of their names.
    fused: Mapping[str, tuple[str, ...]]
    after_layers: tuple[str, str]  # the module `{next}` of the last layer, without an index, and its name

    def name(self, path: str) -> str:
        """Returns the name of a parameter with this path in our tree."""
        module, _, last = path.rpartition(".")
        return self.parameters.get(path) or f"{self.modules[module]}.{_WEIGHTS[last]}"

    def layer_names(self, path: str, count: int) -> list[str]:
        """Returns the names of a parameter with this path in each of `count` layers."""
        name, (old, new) = self.name(path), self.after_layers
        names = [name.format(i, next=i + 1) for i in range(count)]
        last = f"{self.layers}{count}.{old}"
        return [new + each.removeprefix(last) if old and each.startswith(last) else each for each in names]

    def fused_name(self, name: str) -> tuple[str, int, int]:
        """Returns the name of the tensor that holds `name`, its place among the parts of this tensor, and their number.

        A tensor that is not fused is its own only part.
        """
        module, _, last = name.rpartition(".")
        for whole, parts in self.fused.items():
            for place, part in enumerate(parts):
                if module.endswith(f".{part}"):
                    return f"{module.removesuffix(part)}{whole}.{last}", place, len(parts)
        return name, 0, 1


_WEIGHTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}

_BERT_LAYER = "bert.encoder.layer.{}"
BERT = Layout(
    title="BERT",
    encoder="bert.",
    encoder_parts=("embeddings.", "encoder.", "pooler."),
    head_parts=("cls.predictions.",),
    layers="bert.encoder.layer.",
    parameters={
        "embeddings.word": "bert.embeddings.word_embeddings.weight",
        "embeddings.position": "bert.embeddings.position_embeddings.weight",
        "embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
        "layers.attention.pair": f"{_BERT_LAYER}.attention.self.pairwise_factors",
        "head.bias": "cls.predictions.bias",
    },
    modules={
        "embeddings.norm": "bert.embeddings.LayerNorm",
        "layers.attention.query": f"{_BERT_LAYER}.attention.self.query",
        "layers.attention.key": f"{_BERT_LAYER}.attention.self.key",
        "layers.attention.value": f"{_BERT_LAYER}.attention.self.value",
        "layers.attention.output": f"{_BERT_LAYER}.attention.output.dense",
        "layers.attention_norm": f"{_BERT_LAYER}.attention.output.LayerNorm",
        "layers.mlp.up": f"{_BERT_LAYER}.intermediate.dense",
        "layers.mlp.down": f"{_BERT_LAYER}.output.dense",
        "layers.mlp_norm": f"{_BERT_LAYER}.output.LayerNorm",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.pooler": "bert.pooler.dense",  # it and the next: only in fine-tuned models, which are not imported
        "head.classifier": "classifier",
    },
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    unused=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids", "bert.pooler."),
    fused={},
    after_layers=("", ""),
)

_MODERN_LAYER = "model.layers.{}"
# The norms of a layer of ours follow its attention and its MLP. In ModernBERT they precede what they are for, so the
# second belongs to the next layer. The first layer has no norm before its attention, which reads the normed embeddings.
MODERNBERT = Layout(
    title="ModernBERT",
    encoder="model.",
    encoder_parts=("embeddings.", "layers.", "final_norm."),
    head_parts=("head.", "decoder."),
    layers="model.layers.",
    parameters={
        "embeddings.word": "model.embeddings.tok_embeddings.weight",
        "head.bias": "decoder.bias",
    },
    modules={
        "embeddings.norm": "model.embeddings.norm",
        "layers.attention.query": f"{_MODERN_LAYER}.attn.query",
        "layers.attention.key": f"{_MODERN_LAYER}.attn.key",
        "layers.attention.value": f"{_MODERN_LAYER}.attn.value",
        "layers.attention.output": f"{_MODERN_LAYER}.attn.Wo",
        "layers.attention_norm": f"{_MODERN_LAYER}.mlp_norm",
        "layers.mlp.up": f"{_MODERN_LAYER}.mlp.input",
        "layers.mlp.gate": f"{_MODERN_LAYER}.mlp.gate",
        "layers.mlp.down": f"{_MODERN_LAYER}.mlp.Wo",
        "layers.mlp_norm": "model.layers.{next}.attn_norm",
        "head.dense": "head.dense",
        "head.norm": "head.norm",
        "head.classifier": "classifier",
    },
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    unused=(),
    fused={"Wqkv": ("query", "key", "value"), "Wi": ("input", "gate")},
    after_layers=("attn_norm", "model.final_norm"),
)

LAYOUTS = (BERT, MODERNBERT)


def layout_of(params: Params) -> Layout:
    """Returns the layout of a model with these parameters: only BERT has learned positions."""
    return BERT if "position" in params["embeddings"] else MODERNBERT
