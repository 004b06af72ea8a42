"""Uninterrupted runs, and the commands whose killed runs are compared with them."""

import dataclasses
import functools
import time
from pathlib import Path

from bench.chaos.commands import Command, Finetune, Prepare, Pretrain, Reference
from bench.chaos.inputs import write_documents, write_glue
from bench.chaos.starts import ONE_PROCESS, Layout, StartedCommand


class References:
    """The uninterrupted runs below one folder. Each is made when a command first needs it.

    corpus: the corpus that `pretrain` reads, which must fit configs/tiny.py; by default, the reference of `prepare`
      writes it from JSON lines.
    """

    def __init__(self, folder: Path, corpus: Path | None = None):
        self.folder = folder
        self._given_corpus = corpus
        self._made: dict[tuple[Command, Layout], Reference] = {}

    @functools.cached_property
    def documents(self) -> Path:
        """The file of JSON lines that `prepare` reads."""
        file = self.folder / "documents.jsonl"
        write_documents(file)
        return file

    @functools.cached_property
    def corpus(self) -> Path:
        """The corpus that `pretrain` reads."""
        return self._given_corpus or self.prepare_command("jsonl").reference.folder / "corpus"

    @functools.cached_property
    def glue(self) -> Path:
        """The folder of the tasks that `finetune` reads."""
        folder = self.folder / "glue"
        write_glue(folder, (self.corpus / "vocab.txt").read_text().split())
        return folder

    def prepare_command(self, kind: str) -> Prepare:
        """Returns a `prepare` with its reference.

        kind: the kind of the source, `jsonl` or `python-docs`; for `python-docs`, `prepare` starts processes that parse
          modules.
        """
        source = f"jsonl:{self.documents}" if kind == "jsonl" else "python-docs:stdlib"
        command = Prepare(f"prepare-{kind}", source=source)
        return dataclasses.replace(command, reference=self._reference(command))

    def pretrain_command(self, layout: Layout = ONE_PROCESS, name: str = "", **fields: object) -> Pretrain:
        """Returns a `pretrain` with its reference. The reference keeps all of its checkpoints.

        name: by default pretrain-N for N processes.
        fields: values for other fields of `Pretrain`.
        """
        command = Pretrain(name or f"pretrain-{layout.processes}", corpus=self.corpus, **fields)
        keeps_all = dataclasses.replace(command, keep="keep_every=10")  # checkpoints come every 10 steps
        return dataclasses.replace(command, reference=self._reference(keeps_all, layout))

    def finetune_command(self) -> Finetune:
        """Returns a `finetune` with its reference. Both start from the model of the reference of `pretrain`."""
        pretrained = self.pretrain_command().reference.folder / "run"  # a workdir
        command = Finetune("finetune", checkpoint=pretrained, glue=self.glue)
        # fills the compilation cache, so that the times of the reference do not include compilations
        self._reference(dataclasses.replace(command, name="finetune-first"))
        return dataclasses.replace(command, reference=self._reference(command))

    def _reference(self, command: Command, layout: Layout = ONE_PROCESS) -> Reference:
        """Returns the reference of a command; runs the command if there is none. Raises `RuntimeError` if it fails."""
        if (command, layout) not in self._made:
            self._made[command, layout] = self._run(command, layout)
        return self._made[command, layout]

    def _run(self, command: Command, layout: Layout) -> Reference:
        folder = self.folder / f"{command.name}-whole"
        folder.mkdir()
        began = time.monotonic()
        with StartedCommand(command, folder, layout) as started:
            started.wait_for_first_step()  # `command.phase` defines it, also for `prepare`
            first_step_ended = time.monotonic()
            if problems := started.wait_and_check(kill=None):
                raise RuntimeError(f"{command.name} without a kill: {problems}; see {started.logs[0]}")
        return Reference(
            folder,
            seconds_to_first_step=first_step_ended - began,
            seconds_after_first_step=time.monotonic() - first_step_ended,
        )
