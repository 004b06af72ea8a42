"""BookCorpus is not in TFDS: our builder of a TFDS dataset over a directory of books."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data import files, tfds_text
from symbert_jax.errors import UserError
from symbert_jax.storage import lock

_ENDINGS = (".txt", ".jsonl")


@dataclasses.dataclass
class Books(tfds.core.BuilderConfig):
    """The books of one directory; `name` changes whenever its files do, so that they are read again."""

    directory: Path = Path()


class Bookcorpus(tfds.core.GeneratorBasedBuilder):
    """One example a document, in its field `text`: as `files.read_text` finds them in `.txt`, or a line of `.jsonl`."""

    VERSION = tfds.core.Version("1.1.0")  # changes with what a document is: datasets are kept between runs

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Books out of a directory of text files.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            disable_shuffling=True,  # keeps the order of the directory; rows are shuffled in training
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {"train": self._generate_examples(self.builder_config.directory)}

    def _generate_examples(self, directory: Path) -> Iterator[tuple[int, dict[str, str]]]:
        for key, text in enumerate(_books(directory)):
            yield key, {"text": text}


def build(directory: Path) -> epath.Path:
    """The folder of the TFDS dataset of the books in `directory`, built if these files were not built before.

    Raises:
      UserError: there are no books, or one cannot be read.
    """
    listing = hashlib.sha256()
    for path in files.below(directory, _ENDINGS):
        status = path.stat()
        listing.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    config = Books(name=listing.hexdigest()[:16], directory=directory)
    datasets = tfds_text.data_dir()
    builder = Bookcorpus(config=config, data_dir=datasets, file_format=tfds.core.FileFormat.ARRAY_RECORD)
    if not tfds_text.is_dataset(epath.Path(builder.data_dir)):
        with lock(datasets / "bookcorpus", "TFDS_DATA_DIR", wait=True):  # two corpora may have the same books
            try:
                builder.download_and_prepare()
            except RuntimeError as error:  # ArrayRecord's, of a full disk
                raise UserError("TFDS_DATA_DIR", f"{datasets}: {error}", "a disk with room for the books") from None
    return epath.Path(builder.data_dir)


def _books(directory: Path) -> Iterator[str]:
    for path in files.below(directory, _ENDINGS):
        yield from files.read_json(path) if ".jsonl" in path.name.lower() else files.read_text(path)
