"""Kinds of input that a user gives: each makes a valid one, changes a copy, and runs the code under a command on it."""

import bz2
import contextlib
import dataclasses
import functools
import gzip
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tensorflow_datasets as tfds
from etils import epath
from tensorboardX.record_writer import RecordWriter

from bench.fuzz.attempts import Kind, Reached, command
from bench.fuzz.mutations.content import (
    PATHS,
    Random,
    any_text,
    change_bytes,
    change_file,
    change_folder,
    change_lines,
    words,
)
from symbert_jax import compare, metrics, slices
from symbert_jax import config as configs
from symbert_jax.checkpoint import Checkpoints, load, write_params
from symbert_jax.config import Config, Finetune, Mesh, Train
from symbert_jax.data import bookcorpus, glue, sources, stream, tokenizer
from symbert_jax.data.tasks import TASKS
from symbert_jax.eval import saved, trials
from symbert_jax.interop import export, import_
from symbert_jax.sharding import make_mesh
from symbert_jax.train import start

FIXTURES = Path(__file__).parents[3] / "tests" / "fixtures"
VOCAB = FIXTURES / "transformers" / "vocab.txt"
PRETRAINED = FIXTURES / "checkpoint" / "workdir"  # 2 layers of 16, rows of 16 tokens, step 40
SELDOM = 50  # what takes long is tried once in so many inputs


def finetune(*flags: str, story: list[str]) -> None:
    """Runs `finetune` with GLUE up to where it trains."""
    with mock.patch("symbert_jax.eval.finetune.require_shared", _reached):
        command("finetune", "--config=glue.py", "--workdir=out", *flags, story=story)


TINY = """\
from symbert_jax import config


def get_config():
    c = config.default()
    c.model.update(layers=2, dim=16, heads=2, mlp_dim=32, length=16, vocab_size=128, dtype="float32")
    c.data.update(dir="corpus", sources=("text:*.txt",), vocab="vocab.txt", validation_fraction=0.3, batch_size=8)
    c.optim.update(warmup_steps=2)
    c.train.update(steps=10)
    return c
"""
GLUE = """\
from symbert_jax import config


def get_config():
    c = config.default_finetune()
    c.update(checkpoint=("run",), tasks=("sst2",))
    c.glue.source = "tsv:glue"
    return c
"""


def make_texts(count: int = 8) -> list[str]:
    """Texts of 16 lines, of the words of VOCAB."""
    known = [word for word in VOCAB.read_text().split("\n") if word.isalpha()]
    rng = np.random.default_rng(0)
    return ["".join(" ".join(rng.choice(known, 20)) + f" {i}.\n" for _ in range(16)) for i in range(count)]


def write_texts(folder: Path, count: int = 8) -> None:
    for i, text in enumerate(make_texts(count)):
        (folder / f"text{i}.txt").write_text(text)


def write_glue(folder: Path) -> None:
    """GLUE, and the files of a task."""
    (folder / "glue.py").write_text(GLUE)
    (folder / "glue" / "SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        (folder / "glue" / "SST-2" / f"{name}.tsv").write_text("sentence\tlabel\n" + "the cat sat\t0\nno cat\t1\n" * 8)


def write_corpus(folder: Path) -> None:
    """TINY, the words of PRETRAINED, a corpus prepared with it, and what that is made of."""
    write_texts(folder)
    shutil.copyfile(PRETRAINED / "vocab.txt", folder / "vocab.txt")
    (folder / "tiny.py").write_text(TINY)
    with mock.patch("sys.stdout"), mock.patch("sys.stderr"):
        command("prepare", "--config=tiny.py", story=[])


class Fields(Kind):
    """Fields of the config of `pretrain`, given as flags to `doctor` and `prepare`."""

    tree: Config | Finetune = Config()
    examples = 30

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def reset(self) -> None:
        self.flags: list[str] = []

    def change(self, folder: Path, random: Random) -> list[str]:
        fields = configs.fields(self.tree)
        for name in random.sample([*fields], random.choice((1, 1, 1, 2, 3))):
            flag = f"--config.{name}={any_text(random, fields[name])}"
            self.flags.append(random.choice((flag,) * 9 + (f"--noconfig.{name}", f"--config.{name}")))
        return []

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if random.randrange(8):
            command("doctor", "--config=tiny.py", "--workdir=run", *self.flags, story=story)
        else:
            command("prepare", "--config=tiny.py", "--config.data.dir=new", *self.flags, story=story)


class FinetuneFields(Fields):
    """Fields of the config of `finetune`, up to where it trains."""

    examples = 15

    tree = Finetune()

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        write_glue(folder)

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        finetune(*self.flags, story=story)


class ConfigFiles(Kind):
    """Files that `--config` names: Python that raises, or returns something else than a config."""

    examples = 40
    BODIES = """\
        pass
        return
        return 1
        return 'x'
        return {}
        return {'seed': 1}
        return []
        return config.Config()
        return ConfigDict()
        return ConfigDict({'seed': 1})
        return ConfigDict({'model': 1})
        return config
        return ConfigDict({'model': {'layers': ConfigDict()}})
        return ConfigDict({'x': 1, 'seed': None})
        return config.default_finetune()
        return config.default().model
        return config.default().to_json()
        c.sed = 1
        c.seed = 'x'
        c.seed = None
        c.seed = 2.0
        c.seed = True
        c['model'] = 3
        c.model = c
        c.data.sources = 'text:*.txt'
        c.data.sources = ['text:*.txt']
        c.data.sources = [1, None]
        c.data.sources = {'a': 1}
        c.data.dir = None
        c.data.dir = b'x'
        c.data.dir = Path('corpus')
        c.model.layers = 1e400
        c.model.layers = np.int64(2)
        c.model.layers = np.zeros(3)
        c.seed = 1 << 70
        c.optim.b1 = float('nan')
        c.optim.b1 = '0.9'
        c.optim.b1 = 1j
        c.model.dropout = np.float32(0.1)
        c.unlock(); c.extra = 1
        c.unlock(); del c.seed
        c.unlock(); c.model = {}
        c.unlock(); c.seed = c
        c.seed = c.get_ref('optim') if 0 else 1
        c.model.layers = c.model.get_ref('heads')
        del c.model.layers
        c.data.dir = os.environ['NOT_SET_AT_ALL']
        c.data.dir = os.environ.get('NOT_SET_AT_ALL')
        c.seed = int(os.environ['HOME'])
        open('nowhere')
        open('.')
        1 / 0
        [][1]
        {}['x']
        nothing
        raise Exception
        raise Exception('a\\nb')
        raise RuntimeError(1, 2)
        raise SystemExit
        sys.exit(3)
        raise KeyError
        raise StopIteration
        raise NotImplementedError
        raise OSError
        raise AssertionError
        raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'x')
        raise MemoryError
        get_config()
        assert False
        import neighbour; c.seed = neighbour.SEED
        from neighbour import nothing
        from . import neighbour
        import not_a_module
        from configs.nowhere import get_config
        import broken
        json.loads('{')
        c.seed = neighbours()
        print('hello')
        c.update(model=1)
        c.update(nothing=1)
        c.model.update(dim='x')
        warnings.warn('x')
        c.lock().seed = 1
        os.chdir('..')
        yield c
        exec('def')
        int('x')
        c.x.y = 1
    """.strip().splitlines()
    HEADS = (
        *("", "", "", "", "", "import not_a_module\n", "import neighbour\n", "import broken\n", "1 / 0\n", "x = \n"),
        *("\ufeff", "\0", "# -*- coding: nothing -*-\n", "# -*- coding: latin-1 -*-\n", "from __future__ import x\n"),
        *("import os; X = os.environ['NOT_SET_AT_ALL']\n", "raise SystemExit(1)\n", "raise KeyError('x')\n"),
    )
    IMPORTS = (
        "import json, os, sys, warnings\nfrom pathlib import Path\n"
        "import numpy as np\nfrom ml_collections import ConfigDict\n"
    )
    SIGNATURES = ("get_config()",) * 12 + ("get_config(x)", "config_of()", "get_config(*x)", "get_config(x=1)")

    def make(self, folder: Path) -> None:
        write_corpus(folder)
        (folder / "neighbour.py").write_text("SEED = 3\n")
        (folder / "broken.py").write_text("def\n")

    def change(self, folder: Path, random: Random) -> list[str]:
        if not random.randrange(4):
            return [change_file(random, folder / "tiny.py")]
        text = TINY.replace("get_config()", random.choice(self.SIGNATURES))
        text = text.replace("    return", f"    {random.choice(self.BODIES).strip()}\n    return")
        text = random.choice(self.HEADS) + self.IMPORTS + text
        if not random.randrange(20):
            text = random.choice(
                ("get_config = 1\n", "get_config = None\n", "class get_config: pass\n", "\n", "get_config = {}")
            )
        (folder / "tiny.py").write_text(text)
        others = ("./tiny.py", "tiny", "tiny.py:", "tiny.py:x", "tiny.pyc", ".", *PATHS[:8])
        self.name = random.choice(("tiny.py",) * 12 + others)
        return [text]

    def reset(self) -> None:
        self.name = "tiny.py"

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        more = random.choice(([], [], ["--config.seed=1"], ["--config.model.layers=2"]))
        rest = random.choice((["doctor", "--workdir=run"],) * 3 + (["prepare"],))  # which finds it prepared
        command(*rest, f"--config={self.name}", *more, story=story)


class Arguments(Kind):
    """Flags and words of every command."""

    examples = 20
    COMMANDS = (
        ("doctor", "--config=tiny.py", "--workdir=new"),
        ("prepare", "--config=tiny.py"),
        ("finetune", "--config=glue.py", "--config.checkpoint=run", "--config.tasks=sst2", "--workdir=out"),
        ("export", "--checkpoint=run", "--out=out", "--step=40", "--format=huggingface", "--dtype=float32"),
        (
            "import",
            "--source=source",
            "--workdir=out",
            "--vocab=words",
            "--attention=pairwise",
            "--text=text:text*.txt",
        ),
        ("compile", "--config=tiny.py", "--topology=v5e:2x2", "--out=out.json"),
        ("fill", "--checkpoint=run", "--step=40", "--top=3", "the [MASK] sat"),
        ("compare", "--out=out", "--fill=the [MASK]", "run", "run"),
        (
            "doctor",
            "--config=tiny.py",
            "--workdir=new",
            "--config.model.attention=pairwise",
            "--config.init_from=run@40",
        ),
        ("doctor", "--config=tiny.py", "--workdir=new", "--coordinator=localhost:1", "--process=0", "--processes=2"),
    )
    EXTRA = (
        *words("- -- --- -x --x --= --=x -h --help --helpfull stray -1 --config. --config= --config"),
        *words("--config.model=1 --config.seed --config.seed=1 --config.seed.x=1 --config.nothing=1"),
        *words("--config.model.=1 --config..seed=1 --config.model[0]=1 --config.data.sources[0]=a"),
        *words("--flagfile=nowhere --flagfile=text0.txt --flagfile= --undefok=x --xla_preset=v5e --xla_preset=x"),
        *words("--workdir= --process=-1 --processes=0 --lost_after=0 --join_timeout=x --find-batch=maybe"),
        *words("--nofind_batch --noworkdir --wordir=x --verbosity=x --v=99 --logtostderr --only_check_args"),
        *words("--config.data.sources=a --config.data.sources=b --noconfig.mesh.fsdp --config.mesh.fsdp --pdb"),
        *words("--run_with_pdb=x --help=x --helpxml --helpshort --topology=v5e:2x2 --top=1"),
        *("", "\udcff"),
    )
    # what would start a debugger or read a terminal is no mistake

    def make(self, folder: Path) -> None:
        write_corpus(folder)
        shutil.copytree(PRETRAINED, folder / "run")
        write_glue(folder)
        shutil.copytree(FIXTURES / "plpi" / "vanilla", folder / "source")
        shutil.copyfile(VOCAB, folder / "words")

    def reset(self) -> None:
        self.arguments: list[str] = []

    def change(self, folder: Path, random: Random) -> list[str]:
        arguments = self.arguments = [*random.choice(self.COMMANDS)]
        for _ in range(random.choice((1, 1, 1, 2))):
            i = random.randrange(1, len(arguments))
            name, equals, value = arguments[i].partition("=")
            match random.randrange(8):
                case 0 if len(arguments) > 2:
                    del arguments[i]
                case 1:
                    arguments.insert(i, arguments[i])
                case 2:
                    arguments.insert(i, random.choice(self.EXTRA))
                case 3:
                    arguments[i] = name
                case _ if equals:
                    arguments[i] = f"{name}={any_text(random, value)}"
                case _:
                    arguments[i] = any_text(random, name)
        if not random.randrange(20):
            arguments[0] = random.choice(("", "pretrian", "Prepare", "--", "-", "import_", *self.EXTRA))
        return []

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        with (
            mock.patch("symbert_jax.compile.find_slice", _only_found),
            mock.patch("symbert_jax.interop.import_.warm_start.convert", _reached),
            mock.patch("symbert_jax.eval.finetune.require_shared", _reached),
            mock.patch("symbert_jax.fill.bert.logits", _logits),
        ):
            command(*(self.arguments or random.choice(self.COMMANDS[:-1])), story=story)


def _only_found(topology: str) -> None:
    slices.find_slice(topology)
    raise Reached


def _reached(*_: object) -> None:
    raise Reached


def _logits(model: configs.Model, params: object, tokens: jax.Array, positions: jax.Array, **_: object) -> jax.Array:
    """In the place of the model, whose compilation for every number of tokens would take most of the time."""
    return jnp.zeros((*positions.shape, model.vocab_size))


class Topologies(Kind):
    """Names of TPU slices."""

    examples = 15
    PARTS = (*words("v5e v5p v4 v6e v9 V5E : x 2 4 0 1 -1 16 999 2x2 2x2x1 9999999999999999999999"), "", " ")

    def reset(self) -> None:
        self.name = "v5e:2x2"

    def change(self, folder: Path, random: Random) -> list[str]:
        def some(most: int) -> list[str]:
            return random.choices(self.PARTS, k=random.randrange(most))

        names = ("".join(some(6)), f"{random.choice(self.PARTS)}:{'x'.join(some(5))}", any_text(random, "v5e:2x2"))
        self.name = random.choice(names)
        return [repr(self.name)]

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        slices.find_slice(self.name)


class FillTexts(Kind):
    """Texts of `fill`."""

    examples = 8

    PARTS = (
        *(
            "[MASK]",
            "[mask]",
            "[MASK",
            "[CLS]",
            "[SEP]",
            "[PAD]",
            "the",
            " ",
            "\n",
            "\0",
            "\u00e9",
            "\u4e2d",
            "\udcff",
            "\x1b",
        ),
        *("a" * 200, "[MASK] " * 20, "\u200b", "\U0001f44d", "-", "--", "--top=1", "=", ".", "\u2028", "\ufeff", "##s"),
    )

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")

    def reset(self) -> None:
        self.arguments = ["the [MASK] sat"]

    def change(self, folder: Path, random: Random) -> list[str]:
        texts = ["".join(random.choices(self.PARTS, k=random.randrange(7))) for _ in range(random.choice((1, 1, 2)))]
        top = random.choice(([], [], [f"--top={random.choice(('0', '-1', '1', '200', '9' * 20, 'x', '1.5'))}"]))
        self.arguments = [*top, *texts]
        return []

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        with mock.patch("symbert_jax.fill.bert.logits", _logits):
            command("fill", "--checkpoint=run", *self.arguments, story=story)


def write_recipe(folder: Path) -> None:
    """What `prepare` takes besides a source."""
    shutil.copyfile(VOCAB, folder / "words")
    (folder / "tiny.py").write_text(TINY)


def read_or_prepare(source: str, random: Random, story: list[str]) -> None:
    """Reads all documents of a source, and seldom prepares a corpus of it."""
    if random.randrange(SELDOM):
        for _ in sources.documents(source):
            pass
    else:
        given = (f"--config.data.sources={source}", "--config.data.vocab=words", "--config.data.validation_fraction=0")
        command("prepare", "--config=tiny.py", *given, story=story)


class JsonLines(Kind):
    """JSON lines as a source, plain and in archives."""

    scheme, name = "jsonl", "documents.jsonl"
    ARCHIVES: ClassVar = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}

    def make(self, folder: Path) -> None:
        texts = make_texts()
        self.write(folder, "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))

    def write(self, folder: Path, content: str) -> None:
        for suffix, pack in self.ARCHIVES.items():
            (folder / f"{self.name}{suffix}").write_bytes(pack(content.encode()))
        write_recipe(folder)

    def reset(self) -> None:
        self.source = f"{self.scheme}:{self.name}"

    def change(self, folder: Path, random: Random) -> list[str]:
        """One file is changed, and the only one there, by its own name or another."""
        files = sorted(folder.glob(f"{self.name}*"))
        kept = files.pop(random.randrange(len(files)))
        for path in files:
            path.unlink()
        told = change_folder(random, folder, [kept])
        suffix = Path(self.name).suffix
        if not random.randrange(6) and kept.is_file():
            names = (
                self.name,
                f"a{suffix}.gz",
                f"a{suffix}.xz",
                f"[x]{suffix}",
                f"\udcff{suffix}",
                f"a{suffix.upper()}",
            )
            kept = kept.rename(folder / random.choice(names))
            told.append(f"named {kept.name!r}")
        self.source = f"{self.scheme}:{random.choice((f'*{suffix}*', kept.name))}"
        return [*told, self.source]

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        read_or_prepare(self.source, random, story)


class TextFiles(JsonLines):
    """Plain text as a source, likewise."""

    scheme, name = "text", "documents.txt"

    def make(self, folder: Path) -> None:
        self.write(folder, "\n".join(make_texts()))


class Books(Kind):
    """A directory of books."""

    examples = 8

    def make(self, folder: Path) -> None:
        write_recipe(folder)
        books = folder / "books"
        books.mkdir()
        write_texts(books, 3)
        (books / "more.jsonl").write_text('{"text": "the cat sat on the mat"}\n{"text": "a cat"}\n')

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder / "books")

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        read_or_prepare("bookcorpus:books", random, story)


class ArrayRecords(Kind):
    """A dataset that TFDS prepared as ArrayRecord: its records and its metadata."""

    def make(self, folder: Path) -> None:
        write_recipe(folder)
        (folder / "books").mkdir()
        write_texts(folder / "books")
        built = bookcorpus.build(folder / "books")
        shutil.copytree(built, folder / "data")
        shutil.rmtree(folder / "tfds")
        shutil.rmtree(folder / "books")

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder / "data")

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        read_or_prepare("tfds:./data", random, story)


class TfRecords(ArrayRecords):
    """One of TFRecord."""

    def make(self, folder: Path) -> None:
        write_recipe(folder)
        data = folder / "data"
        data.mkdir()
        features = tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()})
        writer = RecordWriter(str(data / "hand-train.tfrecord-00000-of-00001"))
        for i in range(5):
            writer.write(features.serialize_example({"title": "a title", "text": f"the cat sat on mat {i}"}))
        writer.close()
        identity = tfds.core.DatasetIdentity(
            name="hand", version=tfds.core.Version("1.0.0"), data_dir=str(data), module_name="hand"
        )
        info = tfds.core.DatasetInfo(builder=identity, features=features)
        info.set_file_format("tfrecord")
        info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name="train", shard_lengths=[5], num_bytes=1)]))
        info.write_to_directory(data)


class Vocabularies(Kind):
    """A `vocab.txt` that `data.vocab` names."""

    def make(self, folder: Path) -> None:
        write_texts(folder)
        (folder / "tiny.py").write_text(TINY)
        shutil.copyfile(VOCAB, folder / "vocab.txt")

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder, [folder / "vocab.txt"])

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if random.randrange(SELDOM):
            words = tokenizer.load(Path("vocab.txt"), parse_special=random.random() < 0.5)
            words.encode("the cat [MASK] Caf\u00e9 \u4e2d\u6587")
            tokenizer.special_ids(words)
        else:
            command("prepare", "--config=tiny.py", "--config.data.sources=text:text*.txt", story=story)


class GlueFiles(Kind):
    """The TSV files of a task of GLUE."""

    examples = 15

    def make(self, folder: Path) -> None:
        for task in TASKS.values():
            label = task.classes[0] if task.classes else "2.5"
            texts = [name for name, _ in task.texts]
            for split in (task.train, *task.validation, *task.test):
                header = task.header or ("index", *texts, task.label)
                if split in task.test:
                    header = ("index", *texts, *[task.label] * ("msr" in split.files[-1]))
                fields = {name: f"the {name} cat" for name in header} | {"index": "0"} | {task.label: label}
                lines = [header] * (not task.header or split in task.test) + [[fields[name] for name in header]] * 4
                path = folder / task.folders[0] / split.files[0]
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join("\t".join(line) + "\n" for line in lines))

    def reset(self) -> None:
        self.task = TASKS["mnli"]

    def change(self, folder: Path, random: Random) -> list[str]:
        self.task = random.choice([*TASKS.values()])
        splits = (self.task.train, *self.task.validation, *self.task.test)
        files = [folder / self.task.folders[0] / split.files[0] for split in splits]
        return change_folder(random, folder, [path for path in files if path.exists()])

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        source = glue.Source("tsv:.")
        for split in (self.task.train, *self.task.validation) if self.task.validation else ():
            source.has(self.task, split)
            source.read(self.task, split, labelled=True)
        for split in self.task.test:
            source.read(self.task, split, labelled=False)


class GlueDatasets(Kind):
    """A task of GLUE that TFDS prepared as ArrayRecord."""

    examples = 8

    def make(self, folder: Path) -> None:
        data = folder / "glue" / "rte" / "2.0.0"

        with tfds.core.registered.skip_registration():  # a test may have one of that name

            class Rte(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("2.0.0")

                def _info(self) -> tfds.core.DatasetInfo:
                    features = {"sentence1": tfds.features.Text(), "sentence2": tfds.features.Text()}
                    label = tfds.features.ClassLabel(names=["entailment", "not_entailment"])
                    features |= {"label": label, "idx": np.int32}
                    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

                def _split_generators(self, _: object) -> dict[str, Iterator]:
                    return {name: self._generate_examples() for name in ("train", "validation", "test")}

                def _generate_examples(self) -> Iterator:
                    for i in range(4):
                        yield i, {"sentence1": "a cat", "sentence2": "no cat", "label": i % 2, "idx": i}

        builder = Rte(data_dir=folder / "built", file_format=tfds.core.FileFormat.ARRAY_RECORD)
        builder.download_and_prepare()
        shutil.copytree(builder.data_dir, data)
        shutil.rmtree(folder / "built")

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        source, task = glue.Source("tfds:."), TASKS["rte"]
        for split in (task.train, *task.validation):
            source.has(task, split)
            source.read(task, split, labelled=True)
        source.read(task, task.test[0], labelled=False)


class HuggingFaceFolders(Kind):
    """A folder of Hugging Face's BERT or of the paper's code: config, vocabulary, tokenizer."""

    examples = 30
    weights = False  # whether they are changed too

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
            safetensors.numpy.save_file({each: weights[each] for each in part}, folder / "sharded" / file)
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {each: file for file, part in parts.items() for each in part},
        }
        (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
        shutil.copytree(FIXTURES / "plpi" / "pairwise", folder / "paper", dirs_exist_ok=True)
        (folder / "paper" / "expected.npz").unlink()

    def reset(self) -> None:
        self.source = "whole"

    def change(self, folder: Path, random: Random) -> list[str]:
        self.source = random.choice(("whole", "sharded", "paper"))
        files = [
            path for path in sorted((folder / self.source).iterdir()) if (path.suffix == ".safetensors") == self.weights
        ]
        return [self.source, *change_folder(random, folder, files)]

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if random.randrange(SELDOM):
            import_.read(epath.Path(folder) / self.source, None)
        else:
            command("import", f"--source={self.source}", "--workdir=out", story=story)


class Safetensors(HuggingFaceFolders):
    """The weights of such a folder."""

    examples = 20

    weights = True


class Workdirs(Kind):
    """config.json, vocab.txt and metrics.jsonl of a run."""

    examples = 12

    def make(self, folder: Path) -> None:
        run = folder / "run"
        shutil.copytree(PRETRAINED, run)
        write_glue(folder)

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(
            random, folder, [folder / "run" / name for name in ("config.json", "vocab.txt", "metrics.jsonl")]
        )

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        workdir = epath.Path(folder) / "run"
        match random.randrange(12):
            case 0:
                with mock.patch("symbert_jax.fill.bert.logits", _logits):
                    command("compare", "--out=out", "--fill=the [MASK]", "run", story=story)
            case 1:
                finetune(story=story)
            case 2 | 3:
                story.append("metrics.Metrics: a run goes on")
                metrics.Metrics(workdir, 20, 100, "").close()
            case 4 | 5:
                story.append("config.read")
                configs.read(workdir)
            case 6:
                with mock.patch("symbert_jax.fill.bert.logits", _logits):
                    command("fill", "--checkpoint=run", "the [MASK]", story=story)
            case 7:
                story.append("export.read")
                export.read(workdir, None)
            case _:
                story.append("compare.read and compare.table")
                run = compare.read(workdir, "run")
                compare.table([run, run])


class Trials(Kind):
    """trials.jsonl and models of a workdir of `finetune`."""

    examples = 20

    def make(self, folder: Path) -> None:
        trial = trials.Trial("0" * 64, "1" * 64, "rte", 16, 1e-5, 0, '{"epochs": 5}')
        log = trials.Log(epath.Path(folder), write=True)
        for seed in range(4):
            each = dataclasses.replace(trial, seed=seed)
            log.add([trials.Result(each, {"validation": {"accuracy": 0.5 + seed / 10}}, False, 2, 1.5)])
        config = configs.read(epath.Path(PRETRAINED))
        facts = {"score": 70.0, "task": "rte", "model": dataclasses.asdict(config.model), "trial": trial.key}
        model = folder / "model"
        model.mkdir()
        (model / saved.FACTS).write_text(json.dumps(facts))
        shutil.copyfile(PRETRAINED / "vocab.txt", model / "vocab.txt")
        write_params(epath.Path(model / saved.PARAMS), load(PRETRAINED, 40)[0])

    def reset(self) -> None:
        self.model = True

    def change(self, folder: Path, random: Random) -> list[str]:
        self.model = random.random() < 0.5
        files = [folder / "model" / saved.FACTS] * 3 + sorted((folder / "model" / saved.PARAMS).rglob("*"))
        return change_folder(random, folder, files if self.model else [folder / trials.FILE])

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if self.model:
            story.append("export.read of a saved model")
            max(saved.describe(epath.Path(folder) / "model").score, 50.0)  # `finetune` keeps the better one
            export.read(epath.Path(folder) / "model", None)
            return
        log = trials.Log(epath.Path(folder), write=random.random() < 0.5)
        max(log.results.values(), key=lambda result: result.score, default=None)
        log.add([*log.results.values()])


class CheckpointFiles(Kind):
    """The files of a checkpoint, as `fill` and a run that goes on read them."""

    examples = 10

    def reset(self) -> None:
        self.step: list[str] = []

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        shutil.copytree(folder / "run" / "checkpoints" / "40", folder / "run" / "checkpoints" / "20")

    def change(self, folder: Path, random: Random) -> list[str]:
        self.step = random.choice(([], [], ["--step=40"], ["--step=20"], ["--step=50"]))
        step = folder / "run" / "checkpoints" / random.choice(("20", "40", "40"))
        match random.randrange(8):
            case 0:
                gone = random.choice([path for path in sorted(step.rglob("*")) if path.is_dir()])
                shutil.rmtree(gone)
                return [f"{gone.relative_to(folder)} removed"]
            case 1:
                name = random.choice(("50", "x", "40.orbax-checkpoint-tmp-1", "-1", "007", "9" * 30, "\u0663", "40 "))
                (step.parent / name).mkdir()
                return [f"an empty folder {name}"]
            case 2:
                (step.parent / random.choice(("50", "x"))).write_text("x")
                return ["a file among the steps"]
        return change_folder(random, step)

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if random.random() < 0.6:
            with mock.patch("symbert_jax.fill.bert.logits", _logits):
                command("fill", "--checkpoint=run", *self.step, "the [MASK]", story=story)
            return
        story.append("start.restore")
        config = configs.read(epath.Path(PRETRAINED))
        checkpoints = Checkpoints(epath.Path(folder) / "run", Train())
        with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])), contextlib.closing(checkpoints):
            start.restore(config, checkpoints)


class CorpusFiles(Kind):
    """The files of a corpus, as `doctor` and the training stream read them."""

    examples = 12

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder / "corpus")

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        if random.random() < 0.4:
            command("doctor", "--config=tiny.py", "--workdir=new", story=story)
            return
        story.append("stream.open_stream and batches")
        space: dict[str, Callable] = {}
        exec(TINY, space)
        config = configs.freeze(space["get_config"]())
        opened = stream.open_stream(config, np.arange(8))
        opened.batch(0)
        opened.fingerprint()
        for _ in opened.validation_batches(2):
            pass


class Bytes(Kind):
    """Random bytes instead of whatever file a flag names."""

    examples = 10
    COMMANDS = (
        ("doctor", "--config=any", "--workdir=new"),
        ("doctor", "--config=tiny.py", "--workdir=any"),
        ("doctor", "--config=tiny.py", "--workdir=new", "--config.data.dir=any"),
        ("doctor", "--config=tiny.py", "--workdir=new", "--config.data.vocab=any"),
        ("doctor", "--config=tiny.py", "--workdir=new", "--config.init_from=any"),
        ("prepare", "--config=tiny.py", "--config.data.dir=new", "--config.data.vocab=any"),
        ("prepare", "--config=tiny.py", "--config.data.dir=new", "--config.data.sources=text:any"),
        ("prepare", "--config=tiny.py", "--config.data.dir=new", "--config.data.sources=jsonl:any"),
        ("prepare", "--config=tiny.py", "--config.data.dir=any/x"),
        ("export", "--checkpoint=any", "--out=new"),
        ("export", "--checkpoint=nowhere", "--out=any"),
        ("import", "--source=any", "--workdir=new"),
        ("import", "--source=nowhere", "--workdir=any"),
        ("fill", "--checkpoint=any", "the [MASK]"),
        ("compare", "--out=new", "any"),
        ("finetune", "--config=tiny.py", "--workdir=any"),
    )

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def reset(self) -> None:
        self.arguments: tuple[str, ...] = ("doctor", "--config=tiny.py", "--workdir=new")

    def change(self, folder: Path, random: Random) -> list[str]:
        content, told = change_bytes(random, random.choice((VOCAB.read_bytes(), bytes(range(256)), b"")))
        content, more = change_lines(random, content)
        (folder / "any").write_bytes(content)
        self.arguments = random.choice(self.COMMANDS)
        return [told, more]

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        command(*self.arguments, story=story)


def _name(kind: type[Kind]) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).strip()


KINDS: dict[str, type[Kind]] = {
    _name(kind).replace(" ", "-"): kind
    for kind in (
        Fields,
        FinetuneFields,
        ConfigFiles,
        Arguments,
        Topologies,
        FillTexts,
        JsonLines,
        TextFiles,
        Books,
        ArrayRecords,
        TfRecords,
        Vocabularies,
        GlueFiles,
        GlueDatasets,
        HuggingFaceFolders,
        Safetensors,
        Workdirs,
        Trials,
        CheckpointFiles,
        CorpusFiles,
        Bytes,
    )
}


@functools.cache
def kind(name: str) -> Kind:
    """The kind of that name with its valid input, made once a process."""
    valid = tempfile.mkdtemp(prefix="fuzz_valid_")
    return KINDS[name](Path(valid))
