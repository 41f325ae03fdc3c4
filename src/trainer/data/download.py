"""Fetch a file over https: checked before it bears its name, from the first mirror that gives it whole."""

import contextlib
import gzip
import hashlib
import http.client
import ipaddress
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from trainer.disk.files import cache_folder, replace
from trainer.errors import UserError, one_of
from trainer.system.terminal import is_terminal

CHUNK_BYTES = 1 << 16
MIN_BYTES_PER_SECOND = 1_000  # a mirror that stays below this is given up: a trickle never runs into a timeout
CHECKSUM = re.compile(r"(unpacked-)?(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})")


class _MirrorFailed(Exception):
    """Why one mirror did not give the file."""


_not_asked_for: ContextVar[str] = ContextVar("words to type", default="")


@contextlib.contextmanager
def only_as_asked(words: str) -> Iterator[None]:
    """Within it nothing is fetched or unpacked unless `words` is empty: what is to be typed first.

    Whom to ask and where to write may come from a stranger's config: see `config.shipped`. What lies there is read.
    """
    token = _not_asked_for.set(words)
    try:
        yield
    finally:
        _not_asked_for.reset(token)


def refuse_unasked(what: str) -> None:
    """Raises UserError where files would be written for a config that nobody typed."""
    if words := _not_asked_for.get():
        raise UserError(
            f"{what}: whom to ask for it, or where to write it, stands in a file and not in the command. If you trust "
            f"it, add {words}"
        )


def data_folder(root: str | None, name: str) -> Path:
    """The folder that the user gave as `data.root`, or else `cache_folder(name)`. Nothing is created.

    Raises:
        UserError: there is a file instead of a folder, or no home folder.
    """
    try:
        folder = Path(os.path.expanduser(str(root))).absolute() if root else cache_folder(name)
    except RuntimeError as error:
        raise UserError(f"data.root={root}: you have no home folder here. Type data.root=<a folder>.") from error
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"data.root={root or folder}: {folder} is not a folder. Give the folder that holds the files.")
    return folder


def find_or_fetch(
    folder: Path, names: Sequence[str], *, download: bool, urls: Sequence[str], checksum: str, max_bytes: int
) -> Path:
    """The first of `names` that lies in `folder`, as it is; where none does, `names[0]` is fetched.

    Args:
        urls: prefixes to which the name is appended.
        checksum, max_bytes: as for `fetch`; a file that is there already is not compared with the checksum, so that
            the user's own files of the same format serve.
    """
    for name in names:
        if os.path.isfile(folder / name):
            return folder / name
    if not download:
        raise UserError(
            f"data.root={folder}: no {one_of(names)} there, and data.download=false. "
            f"Try data.download=true, or put the file there."
        )
    refuse_unasked(str(folder / names[0]))
    prefixes = [urls] if isinstance(urls, str) else urls
    fetch([f"{str(url).rstrip('/')}/{names[0]}" for url in prefixes], folder / names[0], checksum, max_bytes=max_bytes)
    return folder / names[0]


def fetch(urls: Sequence[str], target: Path, checksum: str, *, max_bytes: int, timeout: float = 30.0) -> None:
    """Write the file `target` from the first of `urls` that gives it whole.

    It is written under a temporary name in the same folder, checked, and only then renamed, so that what bears the
    name is right, whatever crashes and however many processes fetch at once. A failure leaves no file behind.

    Args:
        urls: https addresses of the same file, tried in order (plain http only from a loopback address).
        checksum: `sha256:<hex>` or `md5:<hex>` of the file as published; `unpacked-sha256:<hex>` of what a gzip file
            holds, for mirrors that pack the same content differently.
        max_bytes: no more than this is read.
        timeout: seconds that a mirror may stay silent, and after which it must have been faster than
            `MIN_BYTES_PER_SECOND` on average.

    Raises:
        UserError: no mirror gave the file, with the reason of each; or it cannot be written.
    """
    if not CHECKSUM.fullmatch(str(checksum)):
        raise UserError(
            f"checksum={checksum}: not a checksum of {target.name}; accepted are sha256:<64 hex digits> and "
            f"md5:<32 hex digits>, either after unpacked-."
        )
    failures = []
    for url in urls:
        try:
            return _fetch_one(url, target, checksum, max_bytes, timeout)
        except _MirrorFailed as failure:
            failures.append(f"{_host(url)}: {failure}")
    raise UserError(
        f"data.urls: {target.name} could not be fetched ({'; '.join(failures) or 'no mirror is named'}). "
        f"Try again later, name another mirror with data.urls=[https://...], or put the file into {target.parent}."
    )


def _fetch_one(url: str, target: Path, checksum: str, max_bytes: int, timeout: float) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    with _open(url, timeout) as response:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file, _progress_bar(target.name, response.length) as advance:
                for chunk in _chunks(response, max_bytes, timeout):
                    file.write(chunk)
                    advance(len(chunk))
                file.flush()
                os.fsync(file.fileno())
            found = _digest(temporary, checksum)
            if found != checksum:
                raise _MirrorFailed(f"another content than expected ({found} instead of {checksum})")
            replace(temporary, target)
        except OSError as error:  # of the disk: those of the network have become _MirrorFailed
            reason = error.strerror or error
            raise UserError(
                f"data.root={target.parent}: {target.name} cannot be written there ({reason}). "
                f"Type data.root=<a folder with room that you may write to>."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    """The response to a request for `url`, by https all along."""
    try:
        if not _is_https(url) and not _is_loopback(url):
            raise _MirrorFailed("only https is accepted")
        handlers: list[urllib.request.BaseHandler] = [_HttpsRedirects()]
        if _is_loopback(url):
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy sees this machine's own addresses
        request = urllib.request.Request(url, headers={"User-Agent": "train"})
        return urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorFailed(f"HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorFailed(_reason(error)) from error


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https alone; from a loopback address also to one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_https(newurl) and not (_is_loopback(newurl) and _is_loopback(req.full_url)):
            fp.close()
            raise _MirrorFailed("redirects to something other than https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _host(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2] or url  # without a password
    except ValueError:
        return url


def _is_https(url: str) -> bool:
    return urllib.parse.urlsplit(url).scheme == "https"


def _is_loopback(url: str) -> bool:
    """Plain http to an address of this machine: what it gives does not cross a network."""
    parts = urllib.parse.urlsplit(url)
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


def _chunks(response: http.client.HTTPResponse, max_bytes: int, timeout: float) -> Iterator[bytes]:
    """What the server sends, until it is whole."""
    expected = response.length  # None where the server does not say
    if expected is not None and expected > max_bytes:
        raise _MirrorFailed(f"{expected:,} bytes, more than the {max_bytes:,} that it may have")
    received, start = 0, time.monotonic()
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)  # what is there: read() would wait for a trickle to fill the chunk
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorFailed(f"broke off after {received:,} bytes ({_reason(error)})") from error
        if not chunk:
            break
        received += len(chunk)
        if received > max_bytes:
            raise _MirrorFailed(f"more than the {max_bytes:,} bytes that it may have")
        seconds = time.monotonic() - start
        if seconds > timeout and received < seconds * MIN_BYTES_PER_SECOND:
            raise _MirrorFailed(f"too slow ({received:,} bytes in {seconds:.0f} s)")
        yield chunk
    if expected is not None and received < expected:
        raise _MirrorFailed(f"broke off after {received:,} of {expected:,} bytes")


def _digest(path: Path, checksum: str) -> str:
    """The checksum of a file, of the same kind as the given one."""
    kind = checksum.rpartition(":")[0]
    algorithm = kind.removeprefix("unpacked-")
    try:
        with gzip.open(path) if kind != algorithm else open(path, "rb") as file:
            # MD5 only tells damage from wholeness: it is what the publishers give.
            digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _MirrorFailed(f"not a whole gzip file ({error})") from error
    return f"{kind}:{digest.hexdigest()}"


def _reason(error: Exception) -> str:
    """One line that says why a connection failed."""
    cause = getattr(error, "reason", error)  # what a URLError wraps
    text = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
    # It may quote the server, who has no business with the user's terminal.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@contextlib.contextmanager
def _progress_bar(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Something to call with each number of bytes received; a bar on stderr where that is a terminal."""
    if not is_terminal(sys.stderr):
        yield lambda num_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda num_bytes: progress.advance(task, num_bytes)
