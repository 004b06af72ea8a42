"""Reference curves, from a file, and from the authors' repository through the cache."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from symbert_jax.compare import reference
from symbert_jax.compare.reference import PaperCurves, parse_curves, read_reference
from symbert_jax.errors import UserError

# As Weights & Biases exports it: the columns in any order, each loss with its minimum and maximum.
NAMES = [f"bert_base_{name}_2024-09 - eval/loss" for name in ("symmetric", "pairwise", "vanilla")]
HEAD = ["Step", *(f"{name}{suffix}" for name in NAMES for suffix in ("", "__MIN", "__MAX"))]
ROWS = [["10", *"abc"], ["21", *"def"]]
LOSSES = dict(zip("abcdef", ("9.1", "9.2", "9.3", "8.1", "8.2", "8.3"), strict=True))
CONTENT = "\n".join(
    ",".join(f'"{cell}"' for cell in row)
    for row in [HEAD, *([step, *(LOSSES[letter] for letter in row for _ in range(3))] for step, *row in ROWS)]
).encode()


class Server(ThreadingHTTPServer):
    """Answers every request with `content`, and counts the requests."""

    content, requests = CONTENT, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200 if self.path == "/curves.csv" else 404)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Takes the place of the authors' repository, with an empty cache in `tmp_path`."""
    with Server(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("no_proxy", "localhost")
        monkeypatch.setattr(reference, "URL", f"http://localhost:{server.server_port}")
        paper = PaperCurves("BERT", "curves.csv", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(reference, "PAPER", {"paper": paper})
        yield server
        server.shutdown()
        thread.join()


def test_curves_of_the_paper_are_downloaded_once(server: Server, tmp_path: Path, capsys) -> None:
    """Threads take the place of processes: the lock excludes them, too, because each opens the lock file itself."""
    with ThreadPoolExecutor(4) as pool:
        found, *others = pool.map(read_reference, ["paper"] * 4)
    assert others == [found] * 3 and server.requests == 1
    assert capsys.readouterr().out == f"downloading {reference.URL}/curves.csv\n"
    assert found.curves == {
        "standard": {250: 9.3, 500: 8.3},
        "symmetric": {250: 9.1, 500: 8.1},
        "pairwise": {250: 9.2, 500: 8.2},
    }
    assert found.labels == ["standard (paper)", "symmetric (paper)", "pairwise (paper)"]
    assert found.tokens_per_step == 131_072
    assert [file.name for file in (tmp_path / "symbert_jax/paper").iterdir()] == ["curves.csv"]


def test_damaged_file_in_the_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    cached = tmp_path / "symbert_jax/paper/curves.csv"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT[:-1])
    read_reference("paper")
    assert cached.read_bytes() == CONTENT and server.requests == 1


def test_download_with_a_wrong_hash_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = b"an error page"
    wrong, right = (hashlib.sha256(content).hexdigest() for content in (server.content, CONTENT))
    with pytest.raises(
        UserError, match=f"reference: found SHA-256 {wrong} of {reference.URL}/.*, wanted {right}; save"
    ):
        read_reference("paper")
    assert not [*tmp_path.rglob("*.csv*")]


def test_missing_network_is_reported_with_url_and_file(server: Server, monkeypatch, tmp_path: Path) -> None:
    hint = (
        f"save that file as {tmp_path}/symbert_jax/paper/curves.csv, or give curves of your own: --reference=FILE.csv"
    )
    for url, reason in ((f"{reference.URL}/nowhere", "Not Found"), ("http://localhost:9", ".*refused")):
        monkeypatch.setattr(reference, "URL", url)
        message = rf"^reference: found no answer from {url}/curves.csv \({reason}\), wanted access to it; {hint}$"
        with pytest.raises(UserError, match=message):
            read_reference("paper")
    assert not [*tmp_path.rglob("*.csv*")]


def test_reference_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_bytes(b'\xef\xbb\xbfstep, a ,"b,c",d\r\n20,1.5,2,\r\n\r\n10,,3e0,\r\n')
    found = read_reference(str(file))
    assert found.curves == {"a": {20: 1.5}, "b,c": {20: 2.0, 10: 3.0}}
    assert found.labels == ["a (mine)", "b,c (mine)"]
    assert found.title == "mine.csv" and found.tokens_per_step is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted the header step,NAME"),
        ("step\n1\n", "with the header 'step', wanted step,NAME"),
        ("loss,a\n1,2\n", "with the header 'loss,a', wanted step,NAME"),
        ("step,a,a\n1,2,3\n", "with the header 'step,a,a', wanted step,NAME"),
        ("step,a\n", "here without a loss, wanted the header step,NAME"),
        ("step,a\n1,2\n2,x\n", "here: '2,x' in row 3, wanted a step and 1 losses"),
        ("step,a\n1,2,3\n", "here: '1,2,3' in row 2, wanted a step"),
        ("step,a\n-1,2\n", "here: '-1,2' in row 2, wanted a step"),
        ("step,a\n1,nan\n", "here: '1,nan' in row 2, wanted a step"),
        (f"step,a\n{2**64},1\n", "in row 2, wanted a step"),
        ('step,a\n1,"2\n', "here: unexpected end of data, wanted the header step,NAME"),
    ],
)
def test_parse_curves_refuses_other_formats(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^reference: found .*{message}"):
        parse_curves(text, "here")
