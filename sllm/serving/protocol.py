"""What clients of OpenAI's interface ask and are answered: fields, checks, JSON."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sllm.serving.engine import Refused

DEFAULT_TOKENS = 16  # of /v1/completions, as OpenAI's
# Fields of OpenAI's that do nothing here: taken where they ask for nothing (null is nothing, too), refused otherwise.
NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
UNREAD = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")  # about the asker
Nothing = Annotated[list[Any], Field(max_length=0)] | None
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


class Asked(BaseModel):
    """Fields of both kinds of requests."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    model: str
    max_tokens: int | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionAsked(Asked):
    prompt: str | list[str] = Field(min_length=0)
    echo: bool | None = None


class Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None  # of who speaks; not read
    # An answer that is handed back has these, empty: what stands in them would be no part of the prompt.
    annotations: Nothing = None
    audio: None = None
    function_call: None = None
    refusal: None = None
    tool_calls: Nothing = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatAsked(Asked):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)

    @property
    def limit(self) -> int | None:
        """New tokens, by either of their names.

        Raises:
            Refused: the two differ.
        """
        given = {self.max_completion_tokens, self.max_tokens} - {None}
        if len(given) > 1:
            raise Refused(400, "max_tokens and max_completion_tokens differ: give one of them.", "max_tokens")
        return next(iter(given), None)


AskedT = TypeVar("AskedT", bound=BaseModel)


def parse(body: bytes, kind: type[AskedT]) -> AskedT:
    """The request in a body.

    Raises:
        Refused: no JSON, a field missing, unknown, of a wrong type or out of range, or one that asks for what is not
            done here.
    """
    try:
        fields = pydantic_core.from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise Refused(400, "The body is no JSON object.")
    for name, neutral in NOTHING.items():
        value = fields.pop(name, None)
        if value is not None and (type(value), value) not in [(type(n), n) for n in neutral]:
            raise Refused(400, f"{name} is not supported here: leave it out.", name, "unsupported_parameter")
    try:
        return kind.model_validate({name: value for name, value in fields.items() if name not in UNREAD})
    except ValidationError as error:
        where, what = _fault(error)
        raise Refused(400, f"{'.'.join(where)[:200]}: {what}.", where[0][:200]) from error


def _fault(error: ValidationError) -> tuple[list[str], str]:
    """Where in a request something is wrong, and what. A field may be of several kinds, and there are faults of each:
    those are told that look furthest into what was given, which are those of the kind that it is."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    of_field = [fault for fault in faults if fault["loc"][0] == faults[0]["loc"][0]]

    def depth(fault: Any) -> tuple[bool, int]:
        return fault["type"] not in ("string_type", "list_type"), len(fault["loc"])

    deepest = max(of_field, key=depth)
    if deepest["type"] == "extra_forbidden":
        return [*map(str, deepest["loc"])], "there is no such field here; leave it out, or correct its name"
    # Pydantic names the kinds themselves among the places: "str", "list[Part]".
    where = [str(place) for place in deepest["loc"] if isinstance(place, int) or place.isidentifier()]
    where = [*where[:1], *(place for place in where[1:] if place != "str")]
    kinds = [deepest]
    if not depth(deepest)[0]:
        kinds = [fault for fault in of_field if fault["loc"][:-1] == deepest["loc"][:-1] and not depth(fault)[0]]
    return where, ", or: ".join(dict.fromkeys(fault["msg"] for fault in kinds))


# -- chats -------------------------------------------------------------------------------------------------------------

USER, ASSISTANT = "User", "Assistant"
PLAIN_STOP = f"\n{USER}:"  # where a plain chat's answer ends


def plain_chat(messages: list[dict[str, str]]) -> str:
    """A conversation as a text: for tokenizers that have no template."""
    names = {"user": f"{USER}: ", "assistant": f"{ASSISTANT}: "}
    turns = [names.get(message["role"], "") + message["content"] for message in messages]
    return "\n".join([*turns, f"{ASSISTANT}:"])


def chat_template(tokenizer: Any) -> Any:
    """What makes a prompt of messages: the tokenizer's template; the plain one where there is none, or where it marks
    turns with special tokens: what is read here is text, in which they have no place."""
    if not tokenizer.chat_template:
        return plain_chat

    def render(messages: list[dict[str, str]]) -> str:
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and may refuse an order of roles
            raise Refused(400, f"The model's chat template refused: {error}.", "messages") from error

    try:
        shown = render([{"role": "user", "content": "Hello"}])
    except Refused:
        return plain_chat
    added = tokenizer.added_tokens_decoder.values()  # not all of them have a role that the tokenizer would name
    special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return plain_chat if any(token in shown for token in special) else render


# -- answers -----------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """The JSON of one request's answer, whole or in chunks."""

    object: ClassVar[str] = "text_completion"
    chunk_object: ClassVar[str] = "text_completion"
    prefix: ClassVar[str] = "cmpl-"
    model: str
    id: str = field(default="")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = self.prefix + uuid.uuid4().hex

    def whole(self, texts: list[str], reasons: list[str], usage: dict[str, int]) -> dict[str, Any]:
        pairs = enumerate(zip(texts, reasons, strict=True))
        choices = [{**self._text(t), "index": i, "logprobs": None, "finish_reason": r} for i, (t, r) in pairs]
        return {**self._head(self.object), "choices": choices, "usage": usage}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk before a text's first part, if there is one."""
        return None

    def chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return self._chunk(index, {"text": text}, reason)

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head(self.chunk_object), "choices": [], "usage": usage}

    def _chunk(self, index: int, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {**content, "index": index, "logprobs": None, "finish_reason": reason}
        return {**self._head(self.chunk_object), "choices": [choice]}

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatAnswer(Answer):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def opening(self, index: int) -> dict[str, Any]:
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return self._chunk(index, {"delta": {"content": text} if text else {}}, reason)

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}


def error_json(refused: Refused) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    told = {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}
    return {"error": told}
