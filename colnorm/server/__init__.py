"""A tagger as a web application: a JSON API, and a page that marks entities while one types.

``POST /tag`` takes ``{"text": "..."}`` or ``{"texts": ["...", ...]}`` and answers ``{"sentences": [...]}`` or
``{"texts": [{"sentences": [...]}, ...]}``, each sentence as ``colnorm tag --format json`` writes it. ``GET /model`` says which
model it is and which types of entity it finds. ``GET /`` is the page. What can't be tagged is answered by ``{"error": "..."}``
with status 400 or 413, and with 503 while too many wait.
"""

import asyncio
import collections
import contextlib
import importlib.resources
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from colnorm.predict import Predictor, TaggedSentence
from colnorm.tagged import MARK_STYLE, degrees, to_objects

MOST_CHARACTERS = 100_000
"""In the texts of a request."""
MOST_WAITING = 256
"""Requests that wait; to more the answer is 503."""
ESCAPED = 12
"""Bytes that JSON may take for one character, as two escapes."""

Tag = Callable[[Sequence[str]], list[list[TaggedSentence]]]


class Waiting(NamedTuple):
    """The texts of a request, and where their sentences go."""

    texts: Sequence[str]
    answer: asyncio.Future[list[list[TaggedSentence]]]


def make_app(
    predictor: Predictor, name: str = "tagger", *, most_characters: int = MOST_CHARACTERS, most_waiting: int = MOST_WAITING
) -> Starlette:
    """The application, for any ASGI server.

    Requests that come while others are computed wait, and are then tagged together.

    Args:
      predictor: the tagger.
      name: what the page and ``/model`` call it.
      most_characters: of a request's texts; longer ones are refused with status 413.
      most_waiting: requests that wait; more are refused with status 503.

    Example:
      >>> from colnorm import model_file, server
      >>> app = server.make_app(model_file.load(model_file.packaged()["gmb"]), "gmb")
      >>> [route.path for route in app.routes]
      ['/', '/model', '/tag']
    """
    batches = Batches(lambda texts: list(predictor.tag_many(texts)), most_characters, most_waiting)
    template = importlib.resources.files("colnorm.server").joinpath("page.html").read_text(encoding="utf-8")
    page = template.replace("/* marks */", MARK_STYLE)
    about = {"name": name, "types": degrees(predictor.types), "most_characters": most_characters}

    async def tag(request: Request) -> Response:
        try:
            texts, many = parse(await read(request, ESCAPED * most_characters + 1000), most_characters)
            tagged = await batches.tag(texts)
        except RequestError as error:
            headers = {"Retry-After": "1"} if error.status == 503 else None
            return JSONResponse({"error": str(error)}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=400)
        answers = [{"sentences": to_objects(sentences, text)} for text, sentences in zip(texts, tagged, strict=True)]
        return JSONResponse({"texts": answers} if many else answers[0])

    async def index(_: Request) -> Response:
        # Nothing from elsewhere, whatever a text holds.
        rules = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
        return HTMLResponse(page, headers={"Content-Security-Policy": rules})

    async def model(_: Request) -> Response:
        return JSONResponse(about)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(batches.work())
        yield
        worker.cancel()

    routes = [Route("/", index), Route("/model", model), Route("/tag", tag, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


class RequestError(Exception):
    """What a request is refused for, with its HTTP status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


async def read(request: Request, most_bytes: int) -> bytes:
    """The body of a request; no more of it than ``most_bytes`` is held."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            raise RequestError(413, f"expected a body of at most {most_bytes:,} bytes, got more")
        parts.append(part)
    return b"".join(parts)


def parse(body: bytes, most_characters: int) -> tuple[list[str], bool]:
    """The texts of a request, and whether it has asked for many."""
    form = 'expected {"text": "..."} or {"texts": ["...", ...]}'
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):  # undecodable bytes are a ValueError as well
        raise RequestError(400, f"{form} in utf-8, got what is no JSON") from None
    if not isinstance(given, dict) or given.keys() not in ({"text"}, {"texts"}):
        raise RequestError(400, form)
    many = "texts" in given
    texts = given["texts"] if many else [given["text"]]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, form)
    size = sum(map(len, texts))
    if size > most_characters:
        raise RequestError(413, f"expected at most {most_characters:,} characters, got {size:,}")
    for number, text in enumerate(texts, 1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError(400, f"text {number}: expected characters, got half of a surrogate pair") from None
    return texts, many


class Batches:
    """Texts of many requests, tagged together: what comes while a batch is computed waits, and is the next one.

    Args:
      tag: texts -> the sentences of each, in order; runs in a thread.
      most_characters: of a batch that is more than one request.
      most_waiting: requests that wait.
    """

    def __init__(self, tag: Tag, most_characters: int, most_waiting: int):
        self._tag, self._most_characters, self._most_waiting = tag, most_characters, most_waiting
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._arrived = asyncio.Event()

    async def tag(self, texts: Sequence[str]) -> list[list[TaggedSentence]]:
        """The sentences of each text.

        Raises:
          RequestError: too many wait, or a text can't be tagged.
        """
        if len(self._waiting) >= self._most_waiting:
            raise RequestError(503, f"{len(self._waiting)} requests wait already")
        request = Waiting(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._arrived.set()
        return await request.answer

    async def work(self) -> None:
        """Tags what comes, for good."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                taken = self._take()
                if not await self._answer(taken):  # one of them is the reason, and the others are not to blame
                    for request in taken:
                        await self._answer([request])

    def _take(self) -> list[Waiting]:
        """The first that wait, as many as make a batch."""
        taken: list[Waiting] = []
        size = 0
        while self._waiting:
            size += sum(map(len, self._waiting[0].texts))
            if taken and size > self._most_characters:
                break
            taken.append(self._waiting.popleft())
        return [request for request in taken if not request.answer.done()]  # nobody waits for the others any more

    async def _answer(self, taken: Sequence[Waiting]) -> bool:
        """Answers requests; False where one of several can't be tagged."""
        try:
            found = iter(await asyncio.to_thread(self._tag, [text for request in taken for text in request.texts]))
        except Exception as error:
            refused = isinstance(error, ValueError)
            if refused and len(taken) > 1:
                return False
            for request in taken:
                if not request.answer.done():
                    request.answer.set_exception(RequestError(400, str(error)) if refused else error)
            return True
        for request in taken:
            tagged = [next(found) for _ in request.texts]
            if not request.answer.done():
                request.answer.set_result(tagged)
        return True
