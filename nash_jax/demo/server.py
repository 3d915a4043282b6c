"""The page's server: three files, what the models are, and the events of a comparison as they come."""

import asyncio
import json
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nash_jax.demo.comparison import Comparison, Event
from nash_jax.runtime.sharding import device_name

PAGE = Path(__file__).resolve().parent
MAX_CHARACTERS = 20_000
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {  # nothing but this server is asked for anything, and no text becomes a script
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip


def make_app(comparison: Comparison, engine: str, hosts: list[str]) -> Starlette:
    """Returns the application.

    Args:
      comparison: the models.
      engine: what generates, as the page names it.
      hosts: names by which the server may be called; a page of another site that has itself resolved to this
        machine is refused by them.
    """
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    return Starlette(
        routes=[
            *(Route(path, _file(*file)) for path, file in _FILES.items()),
            Route("/models", _models(comparison, engine)),
            Route("/compare", _compare(comparison), methods=["POST"]),
        ],
        middleware=middleware,
    )


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    text = (PAGE / name).read_text(encoding="utf-8")
    return lambda request: Response(text, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)


def _models(comparison: Comparison, engine: str) -> Callable[[Request], Response]:
    models = [{"name": one.name, "parameters": one.num_params} for one in comparison.contestants]
    said = {"models": models, "engine": engine, "device": device_name(), "max_characters": MAX_CHARACTERS}
    return lambda request: JSONResponse(said, headers=_HEADERS)


def _compare(comparison: Comparison) -> Callable[[Request], Any]:
    async def compare(request: Request) -> Response:
        """The events of a comparison; the body is `{"text": …}`, its type that of JSON, which no form can send."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            return _refusal(415, "expected a body of type application/json")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > 16 * MAX_CHARACTERS:  # a character has up to 12 bytes in JSON
                return _refusal(413, f"expected a text of up to {MAX_CHARACTERS:,} characters")
        try:
            text = json.loads(body)["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return _refusal(400, 'expected {"text": …}')
        if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
            return _refusal(413, f"expected a text of up to {MAX_CHARACTERS:,} characters")
        return StreamingResponse(_events(comparison, text), media_type="text/event-stream", headers=_HEADERS)

    return compare


def _refusal(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status, headers=_HEADERS)


async def _events(comparison: Comparison, text: str) -> AsyncIterator[str]:
    """Yields each event as it comes from the thread that generates; ends that thread when nobody listens."""
    loop, queue, stopped = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

    def tell(event: Event | None) -> None:
        if not stopped.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, event)

    def answer() -> None:
        try:
            comparison.answer(text, tell, stopped)
        except Exception:  # a bug: the terminal has it whole
            traceback.print_exc()
            tell({"event": "error", "text": "this failed; the terminal says why"})
        tell(None)

    threading.Thread(target=answer, daemon=True).start()
    try:
        while (event := await queue.get()) is not None:
            yield f"data: {json.dumps(event)}\n\n"
    finally:
        stopped.set()
