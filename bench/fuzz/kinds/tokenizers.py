"""Vocabularies, and folders of other BERTs: config, tokenizer, weights."""

import json
import shutil
from pathlib import Path
from random import Random

import safetensors.numpy
from etils import epath

from bench.fuzz.attempts import Kind, command
from bench.fuzz.kinds.inputs import FIXTURES, SLOW_ODDS, TINY, VOCAB, write_texts
from bench.fuzz.mutations.files import change_folder
from symbert_jax.data import tokenizer
from symbert_jax.interop import import_

KINDS = ("roberta", "modernbert", "xlm_roberta", "wordpiece")


class Vocabularies(Kind):
    """The tokenizer that `data.vocab` names: a `vocab.txt`, or a folder with a `tokenizer.json`."""

    def make(self, folder: Path) -> None:
        write_texts(folder)
        (folder / "tiny.py").write_text(TINY)
        shutil.copyfile(VOCAB, folder / "vocab.txt")
        for kind in KINDS:
            shutil.copytree(FIXTURES / "tokenizers" / kind, folder / kind)
            (folder / kind / "recorded.json").unlink()

    def change(self, folder: Path, random: Random) -> list[str]:
        self.vocab = random.choice(("vocab.txt", *KINDS))
        files = [folder / "vocab.txt"] if self.vocab == "vocab.txt" else sorted((folder / self.vocab).iterdir())
        return [self.vocab, *change_folder(random, folder, files)]

    def reset(self) -> None:
        self.vocab = "vocab.txt"

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.randrange(SLOW_ODDS):
            loaded = tokenizer.read(Path(self.vocab))
            loaded.build(parse_special=random.random() < 0.5).encode("the cat [MASK] Caf\u00e9 \u4e2d\u6587")
            loaded.readable(loaded.mask_id)
        else:
            flags = ("--config.data.sources=text:text*.txt", f"--config.data.vocab={self.vocab}")
            command("prepare", "--config=tiny.py", *flags, "--config.model.vocab_size=512", history=history)


class HuggingFaceFolders(Kind):
    """The config, vocabulary and tokenizer of a BERT in the format of Hugging Face or of the paper's code."""

    suite_attempts = 30
    changes_weights = False  # whether the files with weights are changed, or all others

    def make(self, folder: Path) -> None:
        weights = safetensors.numpy.load_file(FIXTURES / "plpi" / "vanilla" / "model.safetensors")
        config = json.loads((FIXTURES / "plpi" / "vanilla" / "config.json").read_text()) | {"model_type": "bert"}
        settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 32}
        for name in ("whole", "sharded", "paper"):
            source = folder / name
            source.mkdir()
            (source / "config.json").write_text(json.dumps(config, indent=2))
            (source / "tokenizer.json").write_text(tokenizer.load(VOCAB, parse_special=True).to_str(pretty=True))
            (source / "tokenizer_config.json").write_text(json.dumps(settings))
            if name != "sharded":
                shutil.copyfile(VOCAB, source / "vocab.txt")
        safetensors.numpy.save_file(weights, folder / "whole" / "model.safetensors")
        names = sorted(weights)
        parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, part in parts.items():
            safetensors.numpy.save_file({tensor: weights[tensor] for tensor in part}, folder / "sharded" / file)
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {tensor: file for file, part in parts.items() for tensor in part},
        }
        (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
        shutil.copytree(FIXTURES / "plpi" / "pairwise", folder / "paper", dirs_exist_ok=True)
        (folder / "paper" / "expected.npz").unlink()

    def reset(self) -> None:
        self.source = "whole"

    def change(self, folder: Path, random: Random) -> list[str]:
        self.source = random.choice(("whole", "sharded", "paper"))
        files = sorted((folder / self.source).iterdir())
        files = [path for path in files if (path.suffix == ".safetensors") == self.changes_weights]
        return [self.source, *change_folder(random, folder, files)]

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.randrange(SLOW_ODDS):
            import_.read(epath.Path(folder) / self.source, vocab=None)
        else:
            command("import", f"--source={self.source}", "--workdir=out", history=history)


class Safetensors(HuggingFaceFolders):
    """The weights of a BERT in the formats of `HuggingFaceFolders`."""

    suite_attempts = 20
    changes_weights = True
