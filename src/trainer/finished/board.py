"""`train board`: TensorBoard for a folder of runs, on this machine alone; losses and metrics stand in front."""

import contextlib
import io
import json
import socket
import sys
import threading
import warnings
from pathlib import Path
from urllib.parse import quote

from trainer.errors import UserError
from trainer.finished.read import existing_folder, runs_below
from trainer.finished.runs import main_tag

_HOST = "127.0.0.1"  # `localhost` may also mean ::1, where another program can have the same port
_PORTS = 100  # tried, from the first one on
_FLAGS = (
    # The data server reads hundreds of runs at once, where the reader in Python takes its time and answers with errors
    # meanwhile; `auto` is that reader where there is no server for the platform. It announces the server on stderr,
    # which is why that is kept back until something goes wrong.
    "--load_fast=auto",
    "--reload_interval=2",  # seconds; 5 is long for runs of a minute
    "--samples_per_plugin=scalars=20000,images=100",  # of the 1,000 random points of a chart the peaks may be missing
)


def serve(word: str, port: str) -> int:
    """Serves the runs in a folder until Ctrl-C.

    Args:
        word: the folder.
        port: the first that is tried; where it is taken, the next free one.

    Raises:
        UserError: there is no such folder or no free port, or TensorBoard is missing.
    """
    folder = existing_folder(word)
    first = int(port) if port.isdecimal() and 0 < int(port) < 65536 else None
    if first is None:
        raise UserError(f"port={port}: must be a whole number from 1 to 65535. Try port=6006.")
    print(f"starting TensorBoard for {folder} ...", file=sys.stderr, flush=True)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()) as said:
        warnings.simplefilter("ignore")  # what TensorBoard imports is not our user's to mend
        try:
            from tensorboard import program

            from trainer.finished.declared import plugins
        except ImportError as error:
            raise UserError("train board: TensorBoard is not installed. Type pip install tensorboard.") from error
        board = program.TensorBoard(plugins())
        board.configure(["", f"--logdir={folder.absolute()}", f"--host={_HOST}", f"--port={free_port(first)}", *_FLAGS])
        try:
            url = board.launch()
        except (program.TensorBoardServerException, SystemExit) as error:
            last = (said.getvalue().strip().splitlines() or [str(error)])[-1]
            raise UserError(f"train board: TensorBoard does not start: {last}") from error
    print(f"TensorBoard for {folder}: {url}{opening(folder)} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


def opening(folder: Path) -> str:
    """What stands behind TensorBoard's address so that it opens with the losses and the deciding metric pinned.

    A pinned chart that no run has is left out by TensorBoard. So accuracy is pinned where there is no run yet.
    """
    runs, _ = runs_below(folder)
    deciding = main_tag(runs).removeprefix("best/") if runs else "val/accuracy"
    cards = [{"plugin": "scalars", "tag": tag} for tag in dict.fromkeys(("train/loss", "val/loss", deciding))]
    return f"?pinnedCards={quote(json.dumps(cards, separators=(',', ':')), safe='')}#timeseries"


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on.

    Raises:
        UserError: there is none near.
    """
    for port in range(first, min(first + _PORTS, 65536)):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or else one that was just left counts
            with contextlib.suppress(OSError):
                listener.bind((_HOST, port))
                return port
    raise UserError(f"port={first}: it and the next {_PORTS} are taken. Type port= with another number.")
