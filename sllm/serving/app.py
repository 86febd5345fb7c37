"""The web application: OpenAI's interface to one or more models."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lmbase.text.tokenizers import encode_text
from sllm.serving.engine import Choice, Engine, Limits, Refused, Sampling
from sllm.serving.protocol import (
    DEFAULT_TOKENS,
    PLAIN_STOP,
    Answer,
    Asked,
    AskedT,
    ChatAnswer,
    ChatAsked,
    CompletionAsked,
    chat_template,
    error_json,
    parse,
    plain_chat,
)

READ = ["GET", "HEAD"]  # who watches a server asks for heads only
GRACE = 5.0  # seconds beyond a request's own in which the thread that writes must have told its end


def build_app(engines: Mapping[str, Engine], hosts: list[str] | None = None) -> FastAPI:
    """The application.

    Args:
        engines: by the names of their models. hosts: names that the server may be called by; None: any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for engine in engines.values():
            engine.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    if hosts is not None:  # or a page from elsewhere could lead its own name here, and read what is answered
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    for kind in (Refused, HTTPException):
        app.add_exception_handler(kind, _refusal)
    began, limits = int(time.time()), next(iter(engines.values())).limits
    templates = {name: chat_template(engine.loaded.tokenizer) for name, engine in engines.items()}

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "local"}

    @app.api_route("/health", methods=READ)
    async def health() -> Response:
        alive = all(engine.thread.is_alive() for engine in engines.values())
        states = {name: engine.counts() for name, engine in engines.items()}
        return JSONResponse({"status": "ok" if alive else "broken", "models": states}, 200 if alive else 503)

    @app.api_route("/v1/models", methods=READ)
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card(name) for name in engines]})

    @app.api_route("/v1/models/{name:path}", methods=READ)
    async def model(name: str) -> Response:
        engine_of(engines, name)
        return JSONResponse(card(name))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_json(request, CompletionAsked, limits)
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        wanted = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
        call = Call(engine_of(engines, asked.model), asked, Answer(asked.model), echo=bool(asked.echo))
        return await call.answer(request, prompts, wanted, asked.stops)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read_json(request, ChatAsked, limits)
        engine = engine_of(engines, asked.model)
        template = templates[asked.model]
        prompt = template([{"role": message.role, "content": message.text} for message in asked.messages])
        stops = (*asked.stops, PLAIN_STOP) if template is plain_chat else asked.stops
        return await Call(engine, asked, ChatAnswer(asked.model)).answer(request, [prompt], asked.limit, stops)

    return app


def engine_of(engines: Mapping[str, Engine], model: str) -> Engine:
    """The engine of a model.

    Raises:
        Refused: there is no model of this name.
    """
    if model not in engines:
        known = ", ".join(engines)
        raise Refused(404, f"There is no model {model!r:.200} here; known: {known}.", "model", "model_not_found")
    return engines[model]


async def _refusal(request: Request, error: Any) -> Response:
    refused = error if isinstance(error, Refused) else Refused(error.status_code, str(error.detail))
    headers = getattr(error, "headers", None)  # those of a wrong method name the right ones
    return JSONResponse(error_json(refused), refused.status, headers)


async def read_json(request: Request, kind: type[AskedT], limits: Limits) -> AskedT:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Send JSON, with the header Content-Type: application/json.")
    body = b""
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise Refused(413, f"The body is larger than {limits.body_bytes:,} bytes.")
    except TimeoutError:
        raise Refused(408, "The body did not come in time.") from None
    return parse(body, kind)


@dataclass
class Call:
    """One request for text and its answer."""

    engine: Engine
    asked: Asked
    form: Answer
    echo: bool = False

    async def answer(
        self, request: Request, prompts: list[str], wanted: int | None, stops: tuple[str, ...]
    ) -> Response:
        """Args: wanted: new tokens of each text; None: as many as there is room for."""
        events: asyncio.Queue = asyncio.Queue()
        self.deadline = time.monotonic() + self.engine.limits.seconds
        self.choices = await asyncio.to_thread(self._choices, prompts, wanted, stops, teller(events))
        self.engine.submit(self.choices)
        watch = asyncio.create_task(self._cancel_when_gone(request, events))
        parts = self._parts(events, watch)
        if not self.asked.stream:
            return JSONResponse(await self._whole(parts))
        first = await anext(parts)  # what is refused is refused with a status
        return StreamingResponse(self._stream(first, parts), media_type="text/event-stream")

    def _choices(
        self, prompts: list[str], wanted: int | None, stops: tuple[str, ...], tell: Callable[..., None]
    ) -> list[Choice]:
        asked, limits, room = self.asked, self.engine.limits, self.engine.loaded.room
        number = (asked.n or 1) * len(prompts)
        if not 1 <= number <= limits.choices:
            blame = "prompt" if asked.n in (None, 1) else "n"
            raise Refused(400, f"{number} texts are asked for; one request may have 1 to {limits.choices}.", blame)
        if wanted is not None and wanted > limits.max_tokens:
            told = f"{wanted} tokens are asked for; the server writes at most {limits.max_tokens} of a text."
            raise Refused(400, told, "max_tokens")
        seed = random.getrandbits(63) if asked.seed is None else asked.seed % 2**64
        sampling = Sampling(
            1.0 if asked.temperature is None else asked.temperature, 1.0 if asked.top_p is None else asked.top_p
        )
        choices: list[Choice] = []
        for prompt in prompts:
            try:
                size = len(encode_text(self.engine.loaded.tokenizer, prompt))
            except ValueError as error:  # a character that no tokens spell
                raise Refused(400, str(error), "prompt") from error
            most = limits.max_tokens if room is None else min(limits.max_tokens, room - size)
            if most < (wanted or 0) or most < 0:
                told = f"The prompt has {size} tokens and {wanted or 0} are to follow; the model has room for {room}."
                raise Refused(400, told, "prompt", "context_length_exceeded")
            for _ in range(asked.n or 1):
                i, new = len(choices), most if wanted is None else wanted
                choices.append(Choice(prompt, size, new, stops, sampling, (seed, i), self.deadline, partial(tell, i)))
        return choices

    async def _cancel_when_gone(self, request: Request, events: asyncio.Queue) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.engine.cancel(self.choices)
        events.put_nowait((0, "", Refused(499, "The client has gone.")))

    async def _parts(self, events: asyncio.Queue, watch: asyncio.Task) -> AsyncIterator[tuple[int, str, str | None]]:
        """What is told of the texts, until all have ended.

        Raises:
            Refused: one of them failed, or the time is over.
        """
        try:
            open_texts = len(self.choices)
            while open_texts:
                left = self.deadline + GRACE - time.monotonic()
                try:
                    index, text, reason = await asyncio.wait_for(events.get(), left)
                except TimeoutError:
                    raise Refused(503, "The request took too long; ask for fewer tokens.", code="timeout") from None
                if isinstance(reason, Refused):
                    raise reason
                open_texts -= reason is not None
                yield index, text, reason
        finally:
            watch.cancel()
            self.engine.cancel(self.choices)

    async def _whole(self, parts: AsyncIterator[tuple[int, str, str | None]]) -> dict[str, Any]:
        texts = [choice.prompt if self.echo else "" for choice in self.choices]
        reasons = [""] * len(texts)
        async for index, text, reason in parts:
            texts[index] += text
            reasons[index] = reason or reasons[index]
        return self.form.whole(texts, reasons, self._usage())

    async def _stream(self, first: tuple, parts: AsyncIterator) -> AsyncIterator[str]:
        """Server-sent events."""
        extra = {"usage": None} if self.asked.include_usage else {}
        for index, choice in enumerate(self.choices):
            if opening := self.form.opening(index):
                yield event(opening | extra)
            if self.echo and choice.prompt:
                yield event(self.form.chunk(index, choice.prompt, None) | extra)
        try:
            yield event(self.form.chunk(*first) | extra)
            async for part in parts:
                yield event(self.form.chunk(*part) | extra)
            if self.asked.include_usage:
                yield event(self.form.usage_chunk(self._usage()))
        except Refused as refused:
            yield event(error_json(refused))
        yield "data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        prompts = self.choices[:: self.asked.n or 1]  # each counts once
        read, new = sum(c.num_prompt_tokens for c in prompts), sum(c.num_tokens for c in self.choices)
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def teller(events: asyncio.Queue) -> Callable[..., None]:
    """What puts its arguments into a queue of this loop, from another thread."""
    loop = asyncio.get_running_loop()

    def tell(*told: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, told)

    return tell


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
