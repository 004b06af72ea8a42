"""The command line: fields of configs, flags, arguments, texts, names of slices, and files that flags name."""

import shlex
import shutil
from pathlib import Path
from random import Random

from bench.fuzz.attempts import Kind, command
from bench.fuzz.kinds.inputs import FIXTURES, PRETRAINED, VOCAB, write_corpus, write_glue
from bench.fuzz.mutations.content import change_bytes, change_lines
from bench.fuzz.mutations.texts import any_text, split
from symbert_jax import config as configs
from symbert_jax.config import Config, FinetuneConfig
from symbert_jax.estimate import slices


class Fields(Kind):
    """Fields of the config of `pretrain`, given as flags to `doctor` and `prepare`."""

    config: Config | FinetuneConfig = Config()
    suite_attempts = 30

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def reset(self) -> None:
        self.flags: list[str] = []

    def change(self, folder: Path, random: Random) -> list[str]:
        fields = configs.values_by_name(self.config)
        for name in random.sample([*fields], random.choice((1, 1, 1, 2, 3))):
            flag = f"--config.{name}={any_text(random, fields[name])}"
            self.flags.append(random.choice((flag,) * 9 + (f"--noconfig.{name}", f"--config.{name}")))
        return []

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.randrange(8):
            command("doctor", "--config=tiny.py", "--workdir=run", *self.flags, history=history)
        else:
            command("prepare", "--config=tiny.py", "--config.data.dir=new", *self.flags, history=history)


class FinetuneFields(Fields):
    """Fields of the config of `finetune`; a stand-in replaces its training."""

    suite_attempts = 15
    config = FinetuneConfig()

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        write_glue(folder)

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        command("finetune", "--config=glue.py", "--workdir=out", *self.flags, history=history)


class Arguments(Kind):
    """Flags and arguments of every command."""

    suite_attempts = 20
    COMMANDS = """\
        doctor --config=tiny.py --workdir=new
        prepare --config=tiny.py
        finetune --config=glue.py --config.checkpoint=run --config.tasks=sst2 --workdir=out
        export --checkpoint=run --out=out --step=40 --format=huggingface --dtype=float32
        import --source=source --workdir=out --vocab=words --attention=pairwise --text=text:text*.txt
        compile --config=tiny.py --topology=v5e:2x2 --out=out.json
        fill --checkpoint=run --step=40 --top=3 'the [MASK] sat'
        compare --out=out '--fill=the [MASK]' run run
        doctor --config=tiny.py --workdir=new --config.model.attention=pairwise --config.init_from=run@40
        doctor --config=tiny.py --workdir=new --coordinator=localhost:1 --process=0 --processes=2
    """.strip().splitlines()  # all but the last are valid
    EXTRA = (  # valid flags that start a debugger or read the terminal are left out
        *split("- -- --- -x --x --= --=x -h --help --helpfull stray -1 --config. --config= --config"),
        *split("--config.model=1 --config.seed --config.seed=1 --config.seed.x=1 --config.nothing=1"),
        *split("--config.model.=1 --config..seed=1 --config.model[0]=1 --config.data.sources[0]=a"),
        *split("--flagfile=nowhere --flagfile=text0.txt --flagfile= --undefok=x --xla_preset=v5e --xla_preset=x"),
        *split("--workdir= --process=-1 --processes=0 --lost_after=0 --join_timeout=x --find-batch=maybe"),
        *split("--nofind_batch --noworkdir --wordir=x --verbosity=x --v=99 --logtostderr --only_check_args"),
        *split("--config.data.sources=a --config.data.sources=b --noconfig.mesh.fsdp --config.mesh.fsdp --pdb"),
        *split("--run_with_pdb=x --help=x --helpxml --helpshort --topology=v5e:2x2 --top=1"),
        *("", "\udcff"),
    )

    def make(self, folder: Path) -> None:
        write_corpus(folder)
        shutil.copytree(PRETRAINED, folder / "run")
        write_glue(folder)
        shutil.copytree(FIXTURES / "plpi" / "vanilla", folder / "source")
        shutil.copyfile(VOCAB, folder / "words")

    def reset(self) -> None:
        self.arguments: list[str] = []

    def change(self, folder: Path, random: Random) -> list[str]:
        arguments = self.arguments = shlex.split(random.choice(self.COMMANDS))
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

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        arguments = self.arguments or shlex.split(random.choice(self.COMMANDS[:-1]))
        command(*arguments, history=history)


class Topologies(Kind):
    """Names of TPU slices."""

    suite_attempts = 15
    PARTS = (*split("v5e v5p v4 v6e v9 V5E : x 2 4 0 1 -1 16 999 2x2 2x2x1 9999999999999999999999"), "", " ")

    def reset(self) -> None:
        self.name = "v5e:2x2"

    def change(self, folder: Path, random: Random) -> list[str]:
        def parts(limit: int) -> list[str]:
            return random.choices(self.PARTS, k=random.randrange(limit))

        names = ("".join(parts(6)), f"{random.choice(self.PARTS)}:{'x'.join(parts(5))}", any_text(random, "v5e:2x2"))
        self.name = random.choice(names)
        return [repr(self.name)]

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        slices.find_slice(self.name)


class FillTexts(Kind):
    """Texts of `fill`."""

    suite_attempts = 8
    PARTS = (
        *split("[MASK] [mask] [MASK [CLS] [SEP] [PAD] the \u00e9 \u4e2d \udcff - -- --top=1 = . ##s"),
        *(" ", "\n", "\0", "\x1b", "\u200b", "\u2028", "\ufeff", "\U0001f44d", "a" * 200, "[MASK] " * 20),
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

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        command("fill", "--checkpoint=run", *self.arguments, history=history)


class Bytes(Kind):
    """A file with changed or arbitrary bytes, named by a flag or an argument that expects something else."""

    suite_attempts = 10
    COMMANDS = """\
        doctor --config=any --workdir=new
        doctor --config=tiny.py --workdir=any
        doctor --config=tiny.py --workdir=new --config.data.dir=any
        doctor --config=tiny.py --workdir=new --config.data.vocab=any
        doctor --config=tiny.py --workdir=new --config.init_from=any
        prepare --config=tiny.py --config.data.dir=new --config.data.vocab=any
        prepare --config=tiny.py --config.data.dir=new --config.data.sources=text:any
        prepare --config=tiny.py --config.data.dir=new --config.data.sources=jsonl:any
        prepare --config=tiny.py --config.data.dir=any/x
        export --checkpoint=any --out=new
        export --checkpoint=nowhere --out=any
        import --source=any --workdir=new
        import --source=nowhere --workdir=any
        fill --checkpoint=any 'the [MASK]'
        compare --out=new any
        finetune --config=tiny.py --workdir=any
    """.strip().splitlines()

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def reset(self) -> None:
        self.command = "doctor --config=tiny.py --workdir=new"

    def change(self, folder: Path, random: Random) -> list[str]:
        content, bytes_changed = change_bytes(random, random.choice((VOCAB.read_bytes(), bytes(range(256)), b"")))
        content, lines_changed = change_lines(random, content)
        (folder / "any").write_bytes(content)
        self.command = random.choice(self.COMMANDS)
        return [bytes_changed, lines_changed]

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        command(*shlex.split(self.command), history=history)
