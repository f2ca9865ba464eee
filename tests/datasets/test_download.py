"""Downloads give up in seconds, say why in one line, and leave nothing behind."""

import socket
import sys
import threading
import time
from contextlib import closing
from urllib.error import URLError

import pytest

from pyrovae.datasets.download import check_reachable, downloading, fetch, first_line


@pytest.fixture
def silent():
    """The URL of a server that takes a connection and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/file"


@pytest.fixture
def closed():
    """The URL of a port that nobody listens to."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/file"


def test_a_silent_server_is_given_up(silent):
    start = time.monotonic()
    with pytest.raises(OSError):
        check_reachable([silent], seconds=0.3)
    assert time.monotonic() - start < 3


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch):
    over = threading.Event()

    def lookup(*_, **__):
        over.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    before = set(threading.enumerate())
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^http://example.invalid/file does not answer$"):
        check_reachable(["http://example.invalid/file"], seconds=0.2)
    assert time.monotonic() - start < 3
    over.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_one_mirror_that_answers_is_enough(closed, tmp_path):
    (tmp_path / "file").write_text("here")
    check_reachable([closed, (tmp_path / "file").as_uri()])
    with pytest.raises(URLError, match="refused"):
        check_reachable([closed])


def test_fetch(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    fetch("name", (tmp_path / "source").as_uri(), tmp_path / "a" / "b" / "file")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_fetch_that_fails(tmp_path, closed):
    with pytest.raises(FileNotFoundError) as error:
        fetch("name", closed, tmp_path / "a" / "file")
    assert str(error.value) == (
        f"name: {tmp_path / 'a' / 'file'} is missing and could not be downloaded "
        "(<urlopen error [Errno 111] Connection refused>). Put the file there, or pass root=DIR (--data-root DIR)."
    )
    assert not (tmp_path / "a").exists()


@pytest.fixture
def own_limit():
    """A time limit that the user has set."""
    socket.setdefaulttimeout(7)
    yield
    socket.setdefaulttimeout(None)


def test_the_users_socket_time_limit_is_put_back(own_limit, tmp_path, capfd):
    (tmp_path / "file").write_text("here")
    with downloading("name", tmp_path, [(tmp_path / "file").as_uri()]):
        assert socket.getdefaulttimeout() == 30
        print("progress")
        print("progress", file=sys.stderr)
    assert socket.getdefaulttimeout() == 7
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(half\)"):
        with downloading("name", tmp_path, [(tmp_path / "file").as_uri()]):
            raise RuntimeError("half\nof it")
    assert socket.getdefaulttimeout() == 7
    assert capfd.readouterr() == ("", "")


def test_first_line():
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(TimeoutError()) == "TimeoutError"
