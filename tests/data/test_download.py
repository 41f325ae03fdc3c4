"""Fetching: what bears the name is whole and right, whatever the server does, and nothing else is left behind."""

import contextlib
import gzip
import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainer.data import download
from trainer.data.download import data_folder, fetch, find_or_fetch
from trainer.errors import UserError

CONTENT = bytes(range(256)) * 1000
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], object]


class Server:
    """A real http server on 127.0.0.1: `answers` per path, and the paths that were asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | bytes] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                answer = server.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                elif isinstance(answer, bytes):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                else:
                    with contextlib.suppress(OSError):  # the client may have hung up
                        answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __setitem__(self, path: str, answer: Answer | bytes) -> None:
        self.answers[path] = answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def headers(handler: BaseHTTPRequestHandler, status: int = 200, **fields: object) -> None:
    handler.send_response(status)
    for name, value in fields.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def refused(urls: list[str], target: Path, checksum: str = MD5, max_bytes: int = 10**6, timeout: float = 5.0) -> str:
    """The message of the refusal: one line, and no file has been left."""
    before = sorted(target.parent.rglob("*")) if target.parent.exists() else []
    with pytest.raises(UserError) as caught:
        fetch(urls, target, checksum, max_bytes=max_bytes, timeout=timeout)
    assert (sorted(target.parent.rglob("*")) if target.parent.exists() else []) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_what_is_fetched_is_what_is_served(server: Server, tmp_path: Path, checksum: str) -> None:
    server["/file"] = CONTENT
    target = tmp_path / "new" / "folder" / "file"
    fetch([f"{server.url}/file"], target, checksum, max_bytes=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["file"]


def test_a_fetched_file_is_readable_like_any_new_file(server: Server, tmp_path: Path) -> None:
    server["/file"] = CONTENT
    fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("level", [1, 9])
def test_unpacked_checksum_holds_however_a_mirror_packs(server: Server, tmp_path: Path, level: int) -> None:
    server["/file.gz"] = gzip.compress(CONTENT, level)
    fetch([f"{server.url}/file.gz"], tmp_path / "file.gz", f"unpacked-{SHA256}", max_bytes=10**6)
    assert gzip.decompress((tmp_path / "file.gz").read_bytes()) == CONTENT


def test_wrong_content_is_refused(server: Server, tmp_path: Path) -> None:
    server["/file"] = CONTENT[:-1] + b"x"
    message = refused([f"{server.url}/file"], tmp_path / "file")
    assert MD5 in message
    assert "another content" in message


def test_wrong_content_never_replaces_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    server["/file"] = b"wrong"
    refused([f"{server.url}/file"], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    "content",
    [CONTENT, gzip.compress(CONTENT, mtime=0)[:-9], b"\x1f\x8b\x08" + b"x" * 50, b""],
    ids=["plain", "cut", "damaged", "empty"],
)
def test_what_is_not_a_whole_gzip_file_is_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    server["/file.gz"] = content
    assert server.url[7:] in refused([f"{server.url}/file.gz"], tmp_path / "file.gz", f"unpacked-{SHA256}")


def test_cut_download_is_noticed(server: Server, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        headers(handler, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:1000])

    server["/file"] = cut
    assert f"broke off after 1,000 of {len(CONTENT):,} bytes" in refused([f"{server.url}/file"], tmp_path / "file")


def test_cut_chunked_download_is_noticed(server: Server, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        headers(handler, Transfer_Encoding="chunked", Connection="close")
        handler.wfile.write(b"100\r\n" + CONTENT[:0x50])

    server["/file"] = cut
    assert "broke off" in refused([f"{server.url}/file"], tmp_path / "file")


def test_download_without_a_length_is_judged_by_its_checksum(server: Server, tmp_path: Path) -> None:
    server["/whole"] = lambda handler: (headers(handler), handler.wfile.write(CONTENT))
    server["/cut"] = lambda handler: (headers(handler), handler.wfile.write(CONTENT[:1000]))
    assert "another content" in refused([f"{server.url}/cut"], tmp_path / "file")
    fetch([f"{server.url}/whole"], tmp_path / "file", SHA256, max_bytes=10**6)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_first_mirror_that_has_it_serves(server: Server, tmp_path: Path) -> None:
    server["/wrong/file"] = b"wrong"
    server["/right/file"] = server["/late/file"] = CONTENT
    fetch(
        [f"{server.url}/{m}/file" for m in ("none", "wrong", "right", "late")], tmp_path / "file", MD5, max_bytes=10**6
    )
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == ["/none/file", "/wrong/file", "/right/file"]


def test_every_mirror_s_reason_is_given(server: Server, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and it refuses
        deaf = f"http://127.0.0.1:{closed.getsockname()[1]}"
        server["/wrong"] = b"wrong"
        message = refused([f"{deaf}/a", f"{server.url}/none", f"{server.url}/wrong"], tmp_path / "file")
    assert message.startswith("data.urls: file could not be fetched (")
    assert f"{deaf[7:]}: Connection refused; " in message
    assert f"{server.url[7:]}: HTTP status 404; " in message
    assert f"{server.url[7:]}: another content" in message
    assert "data.urls=[https://...]" in message
    assert str(tmp_path) in message


def test_no_mirrors_is_a_mistake_that_is_named(tmp_path: Path) -> None:
    assert "no mirror is named" in refused([], tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/file",
        "http://localhost/file",
        "ftp://127.0.0.1/file",
        "file:///etc/hostname",
        "file",
        "http://[::1",
    ],
)
def test_only_https_leaves_this_machine(tmp_path: Path, url: str) -> None:
    refused([url], tmp_path / "file")


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    assert "secret" not in refused(["http://me:secret@example.com/file"], tmp_path / "file")


@pytest.mark.parametrize("to", ["http://example.com/file", "ftp://example.com/file", "file:///etc/hostname"])
def test_redirect_to_anything_but_https_is_refused(server: Server, tmp_path: Path, to: str) -> None:
    server["/file"] = lambda handler: headers(handler, 302, Location=to)
    refused([f"{server.url}/file"], tmp_path / "file")


def test_redirect_on_this_machine_is_followed(server: Server, tmp_path: Path) -> None:
    server["/file"] = lambda handler: headers(handler, 302, Location="/moved")
    server["/moved"] = CONTENT
    fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_circle_of_redirects_ends(server: Server, tmp_path: Path) -> None:
    server["/file"] = lambda handler: headers(handler, 302, Location="/file")
    assert "HTTP status 302" in refused([f"{server.url}/file"], tmp_path / "file")


def test_https_redirect_is_not_followed_to_this_machine() -> None:
    request = download.urllib.request.Request("https://example.com/file")
    with open(os.devnull, "rb") as body, pytest.raises(download._MirrorFailed):
        download._HttpsRedirects().redirect_request(request, body, 302, "", {}, "http://127.0.0.1/file")


def test_more_than_the_bound_is_refused_before_it_is_read(server: Server, tmp_path: Path) -> None:
    server["/file"] = CONTENT
    assert "256,000 bytes, more than the 1,000" in refused([f"{server.url}/file"], tmp_path / "file", max_bytes=1000)


def test_an_endless_server_cannot_fill_the_disk(server: Server, tmp_path: Path) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        headers(handler)
        while sent < 50_000_000:
            sent += handler.wfile.write(bytes(10_000))

    server["/file"] = endless
    assert "more than the 100,000 bytes" in refused([f"{server.url}/file"], tmp_path / "file", max_bytes=100_000)
    assert sent < 50_000_000


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    done = threading.Event()
    server["/file"] = lambda handler: (headers(handler, Content_Length=len(CONTENT)), done.wait(20))
    start = time.monotonic()
    message = refused([f"{server.url}/file"], tmp_path / "file", timeout=0.2)
    done.set()
    assert "timed out" in message
    assert time.monotonic() - start < 10


def test_a_trickling_server_is_given_up(server: Server, tmp_path: Path) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        headers(handler, Content_Length=len(CONTENT))
        for _ in range(400):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    server["/file"] = trickle
    start = time.monotonic()
    assert "too slow" in refused([f"{server.url}/file"], tmp_path / "file", timeout=0.3)
    assert time.monotonic() - start < 10  # the whole trickle takes 20 s


def test_what_is_no_http_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-\x1b[2Jhello\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        message = refused([f"http://127.0.0.1:{listener.getsockname()[1]}/file"], tmp_path / "file")
        thread.join()
    assert "\x1b" not in message


def test_proxies_do_not_see_this_machine_s_addresses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server["/file"] = CONTENT
    fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)


@pytest.mark.parametrize("checksum", ["", "md5:12", "crc32:12345678", "sha256:" + "g" * 64, MD5.upper(), None])
def test_a_checksum_that_is_none_is_refused_before_anything_is_asked(
    server: Server, tmp_path: Path, checksum: str
) -> None:
    server["/file"] = CONTENT
    assert f"checksum={checksum}" in refused([f"{server.url}/file"], tmp_path / "file", checksum)
    assert server.asked == []


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    server["/file"] = CONTENT
    (tmp_path / "here").touch()
    message = refused([f"{server.url}/file"], tmp_path / "here" / "below" / "file")
    assert f"data.root={tmp_path / 'here' / 'below'}" in message
    assert "Not a directory" in message


def test_a_full_disk_is_named(server: Server, tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond 100 kB."""
    server["/file"] = CONTENT
    code = (
        "import resource, signal, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from trainer.data.download import fetch\n"
        f"fetch(['{server.url}/file'], pathlib.Path({str(tmp_path / 'file')!r}), {MD5!r}, max_bytes=10**6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"UserError: data.root={tmp_path}: file cannot be written there (File too large)" in done.stderr
    assert os.listdir(tmp_path) == []


def test_interrupted_download_leaves_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    server["/file"] = CONTENT
    monkeypatch.setattr(download, "_digest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
    assert os.listdir(tmp_path) == []


def test_many_at_once_leave_one_whole_file(server: Server, tmp_path: Path) -> None:
    """Four in this process and two more, all writing the same name at the same time."""
    arrived = threading.Barrier(6)

    def together(handler: BaseHTTPRequestHandler) -> None:
        headers(handler, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:1000])
        arrived.wait(20)  # all six are in the middle of it
        handler.wfile.write(CONTENT[1000:])

    server["/file"] = together
    arguments = f"['{server.url}/file'], pathlib.Path({str(tmp_path / 'file')!r}), {MD5!r}, max_bytes=10**6"
    code = f"import pathlib; from trainer.data.download import fetch; fetch({arguments})"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    failures: list[BaseException] = []

    def one() -> None:
        try:
            fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(20) for process in processes] == [0, 0]
    assert failures == []
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_bar_is_for_terminals_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server["/file"] = CONTENT
    fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
    assert capfd.readouterr() == ("", "")

    pty = pytest.importorskip("pty")
    screen, terminal = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        fetch([f"{server.url}/file"], tmp_path / "file", MD5, max_bytes=10**6)
        monkeypatch.undo()
    drawn = os.read(screen, 1 << 16).decode()
    os.close(screen)
    assert "file" in drawn
    assert "256.0" in drawn  # of 256.0 kB


def test_a_file_that_is_there_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine")
    found = find_or_fetch(tmp_path, ["a", "b"], download=True, urls=[server.url], checksum=MD5, max_bytes=10**6)
    assert found == tmp_path / "b"
    assert server.asked == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_name_is_appended_to_the_mirror(server: Server, tmp_path: Path, slash: str) -> None:
    server["/mirror/a"] = CONTENT
    urls = f"{server.url}/mirror{slash}"  # one, not in a list
    found = find_or_fetch(tmp_path, ["a", "b"], download=True, urls=urls, checksum=MD5, max_bytes=10**6)
    assert found.read_bytes() == CONTENT


def test_without_download_the_missing_file_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*: no a or b there, and data\.download=false"):
        find_or_fetch(tmp_path, ["a", "b"], download=False, urls=[server.url], checksum=MD5, max_bytes=10**6)
    assert server.asked == []


def test_the_cache_folder_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder(None, "mnist") == tmp_path / "cache" / "train" / "mnist"
    for relative in ("", "not/absolute"):  # the XDG specification: such a value is ignored
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert data_folder(None, "mnist") == tmp_path / ".cache" / "train" / "mnist"
    assert data_folder("~/mine", "mnist") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert data_folder("mine", "mnist") == tmp_path / "mine"
    assert os.listdir(tmp_path) == []


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is not a folder"):
        data_folder(str(tmp_path / "mine"), "mnist")
