"""The playground: a page that shows what models do, and what it asks of the server."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from itertools import chain
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from lmbase.text import segment
from lmbase.text.streaming import TextDecoder
from lmbase.text.tokenizers import decode_ids
from sllm.evaluation.loaded import LoadedModel, Writing
from sllm.serving.app import READ, engine_of, event, read_json, teller
from sllm.serving.engine import Engine, Refused, Sampling

PAGES = {"": "index.html", "play.js": "play.js", "play.css": "play.css"}
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Nothing comes from elsewhere, nothing goes elsewhere.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
MAX_SCORED = 20_000  # characters of a text whose cost is shown
VECTOR_SHOWN = 256  # numbers of a vector, at most
Text = Annotated[str, Field(max_length=MAX_SCORED)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Write(_Fields):
    model: str
    prompt: Text
    max_tokens: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = Field(0, ge=0, lt=2**63)


class Score(_Fields):
    text: Text


class Rebuild(_Fields):
    model: str
    text: Text


class Move(_Fields):
    model: str
    one: Sentence
    other: Sentence
    steps: int = Field(9, ge=2, le=32)


class Shown:
    """Hears what a model writes and drafts, and tells it as events; a streamer and a `Listener`.

    Attributes: stopped: nobody looks any more.
    """

    def __init__(self, tell: Any, deadline: float):
        self.tell, self.deadline, self.stopped = tell, deadline, False

    def begin(self, loaded: LoadedModel, prompt: str) -> None:
        """Its turn has come."""
        self.loaded, self.began = loaded, time.perf_counter()
        self.decoder: TextDecoder | None = None
        self.num_sentences, self.num_tokens, self.num_accepted = len(loaded.split(prompt)), 0, 0
        self.rejected: list[str] = []

    def put(self, value: torch.Tensor) -> None:
        ids = value.flatten().tolist()
        if self.decoder is None:  # the prompt comes first
            self.decoder, self.num_given = TextDecoder(self.loaded.tokenizer), len(ids)
            self.decoder.add(ids)
            return
        self.num_tokens += len(ids)
        tokens = [[self.decoder.add([i]), number < self.num_accepted] for number, i in enumerate(ids)]
        self.tell({"tokens": tokens, "rejected": self.rejected, **self.state()})
        self.num_accepted, self.rejected = 0, []

    def put_draft(self, ids: list[int], num_accepted: int | None) -> None:
        pieces = [TextDecoder(self.loaded.tokenizer).add([i]) or "\ufffd" for i in ids]
        if num_accepted is None:
            self.tell({"draft": pieces})
        else:
            self.num_accepted, self.rejected = num_accepted, pieces[num_accepted:]

    def end(self) -> None:
        pass

    def take(self, text: int, token: int) -> bool:
        return self.stopped or time.monotonic() > self.deadline

    def show(self) -> None:
        if self.loaded.by_sentence:
            self.num_sentences += 1
            self.tell({"border": True, **self.state()})

    def state(self) -> dict[str, Any]:
        held = self.loaded.cache_bytes(self.num_given + self.num_tokens, self.num_sentences)
        return {"count": self.num_tokens, "seconds": time.perf_counter() - self.began, "cache_bytes": held}


def add_playground(app: FastAPI, engines: Mapping[str, Engine], writing: Mapping[str, Writing]) -> None:
    """Add the page and what it asks for.

    Args:
        writing: of each model the settings that all texts share.
    """
    limits = next(iter(engines.values())).limits
    folder = files("sllm.serving") / "page"

    def page(name: str) -> None:
        content, kind = (folder / PAGES[name]).read_bytes(), KINDS[PurePath(PAGES[name]).suffix]
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        app.add_api_route(f"/{name}", lambda: Response(content, media_type=kind, headers=headers), methods=READ)

    for name in PAGES:
        page(name)

    @app.api_route("/play/models", methods=READ)
    async def models() -> Response:
        return JSONResponse({"max_tokens": limits.max_tokens, "models": [_card(e.loaded) for e in engines.values()]})

    @app.post("/play/write")
    async def write(request: Request) -> Response:
        asked = await read_json(request, Write, limits)
        engine = engine_of(engines, asked.model)
        if not engine.loaded.predicts:
            raise Refused(400, f"{asked.model} is {engine.loaded.shown}: it writes no texts.", "model")
        if asked.max_tokens > limits.max_tokens:
            raise Refused(400, f"The server writes at most {limits.max_tokens} tokens of a text.", "max_tokens")
        return StreamingResponse(_written(engine, asked, writing[asked.model]), media_type="text/event-stream")

    @app.post("/play/score")
    async def score(request: Request) -> Response:
        asked = await read_json(request, Score, limits)
        scored = [engine for engine in engines.values() if engine.loaded.has_likelihood]
        cutter = next((e.loaded for e in scored if e.loaded.by_sentence), None)
        sentences = segment(asked.text)
        if cutter is not None:
            sentences = [decode_ids(cutter.tokenizer, ids) for ids in cutter.split(asked.text)]
        found = {e.loaded.name: await _computed(e, _token_costs, e.loaded, asked.text, sentences) for e in scored}
        return JSONResponse({"sentences": sentences, "models": found})

    @app.post("/play/rebuild")
    async def rebuild(request: Request) -> Response:
        asked = await read_json(request, Rebuild, limits)
        engine = engine_of(engines, asked.model)
        return JSONResponse({"sentences": await _computed(engine, _rebuilt, engine.loaded, asked.text)})

    @app.post("/play/move")
    async def move(request: Request) -> Response:
        asked = await read_json(request, Move, limits)
        engine = engine_of(engines, asked.model)
        vae = _autoencoder(engine.loaded)
        return JSONResponse({"texts": await _computed(engine, vae.interpolate, asked.one, asked.other, asked.steps)})


def _card(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "kind": loaded.shown,
        "writes": loaded.predicts,
        "by_sentence": loaded.by_sentence,
        "rebuilds": loaded.autoencoder is not None,
        "tuned_on": loaded.predicts and loaded.autoencoder is not None,  # to write what follows a sentence
        "parameters": loaded.num_parameters,
    }


async def _computed(engine: Engine, function: Any, *arguments: Any) -> Any:
    """What a function of a model returns, when it is its turn.

    Raises:
        Refused: what it was given is none of what it takes.
    """

    def compute() -> Any:
        with engine.lock, torch.inference_mode():
            return function(*arguments)

    try:
        return await asyncio.to_thread(compute)
    except ValueError as error:
        raise Refused(400, str(error)) from error


async def _written(engine: Engine, asked: Write, shared: Writing) -> AsyncIterator[str]:
    """A text as it is written: server-sent events."""
    events: asyncio.Queue = asyncio.Queue()
    tell = teller(events)
    shown = Shown(tell, time.monotonic() + engine.limits.seconds)
    settings = Sampling(asked.temperature, 1.0).settings() | {"stopping_criteria": [shown]}
    how = Writing(
        asked.max_tokens, overflow=shared.overflow, num_draft=shared.num_draft, seed=asked.seed, settings=settings
    )

    def work() -> None:
        try:
            with engine.lock:
                if not shown.stopped:
                    shown.begin(engine.loaded, asked.prompt)
                    written = engine.loaded.write(asked.prompt, how, shown)
                    per_pass = written.tokens_per_forward
                    tell({"end": written.finish_reason, "tokens_per_forward": per_pass, **shown.state()})
        except ValueError as error:
            tell({"error": str(error)})
        except Exception as error:
            tell({"error": f"Writing failed: {type(error).__name__}."})
            raise
        finally:
            tell()

    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        while told := await events.get():
            yield event(*told)
        await working
    finally:
        shown.stopped = True


def _token_costs(loaded: LoadedModel, text: str, sentences: list[str]) -> dict[str, Any]:
    """Pieces of each sentence of a text, each with its tokens and their bits, and the bits of its end. A piece is a
    token, or several that make a character; it belongs where it begins."""
    ids = loaded.split(text)
    bits = np.array([*chain(*loaded.costs(ids))]) / math.log(2)
    ends = np.cumsum([len(sentence.encode()) for sentence in sentences])
    pieces: list[list[tuple[str, int, float]]] = [[] for _ in sentences]
    decoder, begin, held = TextDecoder(loaded.tokenizer), 0, 0
    for number, token in enumerate(chain(*ids), 1):
        if piece := decoder.add([token]):
            owner = int(np.searchsorted(ends, begin, side="right"))
            pieces[owner].append((piece, number - held, float(bits[held:number].sum())))
            begin, held = begin + len(piece.encode()), number
    return {"pieces": pieces, "end": float(bits[-1]), "bits_per_byte": bits.sum() / ends[-1] if text else None}


def _autoencoder(loaded: LoadedModel) -> Any:
    if loaded.autoencoder is None:
        raise Refused(400, f"{loaded.name} is {loaded.shown}: it makes no vector of a sentence.", "model")
    return loaded.autoencoder


def _rebuilt(loaded: LoadedModel, text: str) -> list[dict[str, Any]]:
    """Each sentence, its vector, and what is written of that alone."""
    vae = _autoencoder(loaded)
    documents = vae.processor.encode(text).sentences()[:32]
    texts = [vae.processor.decode(ids) for ids in documents]
    if not texts:
        return []
    vectors = vae.encode_text(texts)
    written = [vae.processor.decode(ids) for ids in vae.decode(vectors)]
    numbers = vectors.float().cpu()[:, :VECTOR_SHOWN].tolist()
    width = vectors.shape[1]
    return [
        {"text": t, "written": w, "vector": [round(x, 3) for x in v], "width": width}
        for t, w, v in zip(texts, written, numbers, strict=True)
    ]
