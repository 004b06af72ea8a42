"""`parse` reads flags and fields of the config in every form that absl and ml-collections know."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from symbert_jax import config as configs
from symbert_jax.cli.parsing import parse, split_command

CONFIG = """
from symbert_jax import config

def get_config(dim="32"):
    c = config.get_config("tiny")
    c.model.dim = int(dim)
    return c
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Returns the path of a config file whose get_config() takes an argument."""
    (tmp_path / "mine.py").write_text(CONFIG)
    return str(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("arguments", "find_batch"),
    [
        (["--topology=v5e:2x2"], False),
        (["-topology", "v5e:2x2", "--find_batch"], True),
        (["--topology", "v5e:2x2", "--find-batch"], True),
        (["--find-batch=true", "--topology=v4:2x2x2", "--topology=v5e:2x2"], True),
        (["--find_batch", "--nofind_batch", "--topology=v5e:2x2"], False),
        (["--flagfile=flags.txt", "--topology=v5e:2x2"], True),
        # absl ignores an unknown flag that --undefok names
        (["--undefok=other", "--other=1", "--topology=v5e:2x2"], False),
    ],
)
def test_parse_reads_all_forms_of_flags(
    arguments: list[str], find_batch: bool, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flags.txt").write_text("# a comment\n--find_batch\n")
    given = parse("compile", [f"--config={file}", *arguments])
    assert (given.topology, given.find_batch, given.out, given.xla_preset) == ("v5e:2x2", find_batch, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.mesh.fsdp", "--config.data.sources=a,\"b,c\"", "--config.model.heads=8"],
        ["-config.mesh.fsdp=True", "--config.data.sources", "('a', 'b,c')", "--config.model.heads", "8"],
        ["--noconfig.mesh.fsdp", "--config.mesh.fsdp=1", "--config.data.sources=a", "--config.data.sources=\"b,c\"",
         "--config.model.heads=4", "--config.model.heads=8"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [["--config={}:64"], ["--config", "{}:64"], ["-config={}:64"]])
def test_parse_reads_all_forms_of_fields(arguments: list[str], form: list[str], file: str) -> None:
    """The argument of get_config(), 64, follows the name of the file after a colon."""
    given = parse("prepare", [*(part.format(file) for part in form), *arguments, "--config.data.mask_split=1,0,0"])
    config = given.config_file.to_config(configs.freeze)
    assert (config.model.dim, config.model.heads, config.mesh.fsdp) == (64, 8, True)
    assert config.data.sources == ("a", "b,c")
    assert config.data.mask_split == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["tiny", "tiny.py", "configs/tiny", "configs/tiny.py"])
def test_parse_finds_a_documented_config_unless_a_file_has_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("prepare", [f"--config={name}"]).config_file.to_config(configs.freeze).data.dir == "data/tiny"
    # now a file in the working directory has this name
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(CONFIG.replace("c.model", "c.data.dir = 'mine'; c.model"))
    assert parse("prepare", [f"--config={name}"]).config_file.to_config(configs.freeze).data.dir == "mine"


def test_parse_keeps_texts_after_dashes_and_returns_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = parse("fill", ["a [MASK]", "--checkpoint=x", "--step", "3", "--", "--top=9", "-b [MASK]"])
    assert given == SimpleNamespace(
        arguments=["a [MASK]", "--top=9", "-b [MASK]"], checkpoint=tmp_path / "x", step=3, top=5, weights=""
    )


def test_parse_returns_a_list_for_a_flag_that_can_be_repeated() -> None:
    assert parse("compare", ["--fill=a", "--out=x", "--fill=b", "y"]).fill == ["a", "b"]
    assert parse("compare", ["--out=x", "y"]).fill == []


@pytest.mark.parametrize("argv", [["doctor", "--a", "x"], ["--a", "x", "doctor"], ["--a=1", "doctor", "--", "prepare"]])
def test_split_command_takes_flags_before_the_name(argv: list[str]) -> None:
    assert split_command(argv) == ("doctor", [word for word in argv if word != "doctor"])
