"""Serves a tagger: a page to type into, and a JSON API.

colnorm serve                                   # http://127.0.0.1:8000
colnorm serve --model runs/labelled --port 8080
curl -d '{"text": "Mr. Annan flew to Geneva."}' http://127.0.0.1:8000/tag
"""

import dataclasses
import socket
from pathlib import Path

import uvicorn

from colnorm import model_file, process, server
from colnorm.cli.tag import find
from colnorm.programs import LENGTHS

SHORT = [length for length in LENGTHS if length <= 48]
"""Padded lengths of the sentences that people type."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What to serve, and where."""

    model: str = model_file.DEFAULT
    """A packaged model by its name (colnorm models lists them), a .safetensors file, or a run directory."""
    checkpoint: str = "best"
    """Of a run directory: best (by validation micro F1), latest, or the number of an epoch that is still stored."""
    host: str = "127.0.0.1"
    """Address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    most_characters: int = server.MOST_CHARACTERS
    """Of a request; longer ones are refused."""


def serve(command: Command) -> None:
    """Serves until it is interrupted."""
    if command.most_characters < 1:
        raise ValueError(f"--most-characters must be at least 1, got {command.most_characters}")
    process.prepare()
    predictor = find(command.model, command.checkpoint)
    for length in SHORT:  # compiled before the first request comes: seconds, or out of the cache on disk
        predictor.tag_tokens([["word"] * length])
    app = server.make_app(predictor, Path(command.model).name, most_characters=command.most_characters)
    with _listen(command.host, command.port) as listener:
        url = f"http://{command.host}:{listener.getsockname()[1]}"
        _Announced(uvicorn.Config(app, log_level="warning"), url).run(sockets=[listener])


class _Announced(uvicorn.Server):
    """Says where it is once it answers and heeds signals: before, a Ctrl-C could get lost in the collection of garbage."""

    def __init__(self, config: uvicorn.Config, url: str):
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._url, flush=True)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be 0 to 65,535, got {port}")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"can't listen at {host}, port {port}: {error.strerror}") from None
    return listener


main = process.command_line(Command, serve, "colnorm serve", __doc__)
