"""Texts of several clients, written together: a queue, batches, limits. Knows nothing of HTTP.

One thread writes, batch after batch. A batch takes the text that has waited longest and all others with the same
sampling settings, as far as there is room; each has a seed, a length and stop strings of its own, and comes out as it
would alone (rounding apart).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmbase.text.stop_strings import StopStrings
from lmbase.text.tokenizers import encode_text
from multitoken.request import NoRoomError
from sllm.evaluation.loaded import LoadedModel, Writing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    max_tokens: int = 1024  # new ones of a text
    choices: int = 16  # texts of a request
    waiting: int = 64  # texts in the queue
    batch: int = 8  # texts that are written together
    seconds: float = 120.0  # from the request to its end
    body_bytes: int = 1 << 20


class Refused(Exception):
    """A request that gets no answer, in OpenAI's words.

    Args:
        status: of HTTP. param: the field that is to blame. code: for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True)
class Sampling:
    """Settings that the texts of a batch share; temperature 0 is greedy."""

    temperature: float
    top_p: float

    def settings(self) -> dict[str, Any]:
        if self.temperature < 1e-6:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


@dataclass
class Choice:
    """One text that is continued for somebody.

    Args:
        seed: and the text's number in its request: all that its draws depend on.
        tell: called with each part of the new text, from the thread that writes; at the end with a finish_reason, or
            with what went wrong.
    """

    prompt: str
    num_prompt_tokens: int
    max_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling
    seed: tuple[int, int]
    deadline: float  # of time.monotonic
    tell: Callable[[str, "str | Refused | None"], Any]
    num_tokens: int = 0
    reason: str | None = None  # why the text ends, once it does
    over: bool = False  # that was told, or nobody wants to know
    num_told: int = 0  # characters

    def begin(self, tokenizer: Any) -> None:
        self.reason = None if self.max_tokens else "length"
        self.written = StopStrings(tokenizer, self.stop, encode_text(tokenizer, self.prompt))

    def take(self, token: int) -> bool:
        """The next id; returns whether the text ends here."""
        if self.over or self.reason or self.num_tokens >= self.max_tokens:
            return True
        self.num_tokens += 1
        if self.written.add(token):
            self.reason = "stop"
        elif self.num_tokens >= self.max_tokens or time.monotonic() > self.deadline:
            self.reason = "length"
        return self.reason is not None

    def show(self) -> None:
        """Tell what is new, but for what may be the beginning of a stop string."""
        self.end(self.reason)

    def end(self, reason: "str | Refused | None") -> None:
        """Tell what is new; nothing more comes if there is a reason."""
        text = ""
        if not isinstance(reason, Refused):
            text = self.written.text[self.num_told : self.written.found if reason else self.written.num_certain]
        if not self.over and (text or reason):
            self.over, self.num_told = reason is not None, self.num_told + len(text)
            self.tell(text, reason)


class _Batch:
    """Hands each choice of a batch what is written for it; a `Listener`."""

    def __init__(self, choices: Sequence[Choice], tokenizer: Any):
        self.choices = choices
        for choice in choices:
            choice.begin(tokenizer)

    def take(self, text: int, token: int) -> bool:
        return self.choices[text].take(token)

    def show(self) -> None:
        for choice in self.choices:
            choice.show()


class Engine:
    """A model, the texts that wait for it, and the thread that writes them.

    Args:
        how: settings of writing that all texts share.
    """

    def __init__(self, loaded: LoadedModel, limits: Limits, how: Writing):
        self.loaded, self.limits, self.how = loaded, limits, how
        self.waiting: deque[Choice] = deque()
        self.running: list[Choice] = []
        self.changed = threading.Condition()
        self.lock = threading.Lock()  # held by whoever computes with the model
        self.closed = False
        self.thread = threading.Thread(target=self._work, name=f"writes with {loaded.name}", daemon=True)
        self.thread.start()

    def submit(self, choices: Sequence[Choice]) -> None:
        """Queue the texts of a request, all or none.

        Raises:
            Refused: the queue is full.
        """
        with self.changed:
            if len(self.waiting) + len(choices) > self.limits.waiting:
                raise Refused(429, f"{len(self.waiting)} texts are waiting already; try again later.", code="busy")
            self.waiting.extend(choices)
            self.changed.notify()

    def cancel(self, choices: Sequence[Choice]) -> None:
        """Nobody wants these any more: their places are free at once; what is being written ends at the next token."""
        with self.changed:
            for choice in choices:
                choice.over = True
            self.waiting = deque(choice for choice in self.waiting if not choice.over)

    def close(self) -> None:
        """End what is being written, and the thread."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.cancel([*self.waiting, *self.running])
        self.thread.join(timeout=10)

    def counts(self) -> dict[str, int]:
        return {"running": sum(not choice.over for choice in self.running), "waiting": len(self.waiting)}

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.closed:
                    return
                self.running = self._take()
            with self.lock:
                self._write(self.running)
            self.running = []

    def _take(self) -> list[Choice]:
        """The texts of the next batch."""
        batch: list[Choice] = []
        for choice in list(self.waiting):
            if time.monotonic() > choice.deadline:
                self.waiting.remove(choice)
                choice.end(Refused(503, "The request waited too long for its turn; try again later.", code="timeout"))
            elif self._fits(batch, choice):
                self.waiting.remove(choice)
                batch.append(choice)
        return batch

    def _fits(self, batch: Sequence[Choice], choice: Choice) -> bool:
        together = [*batch, choice]
        if len(together) > self.limits.batch or choice.sampling != together[0].sampling:
            return False
        room = self.loaded.room  # shorter texts go on, unseen, as long as the longest
        width = max(c.num_prompt_tokens for c in together) + max(c.max_tokens for c in together)
        return not batch or room is None or width <= room

    def _write(self, batch: Sequence[Choice]) -> None:
        if not batch:
            return
        self.how.max_new_tokens = max(choice.max_tokens for choice in batch)
        self.how.seed = [choice.seed for choice in batch]
        try:
            shown = _Batch(batch, self.loaded.tokenizer)
            self.how.settings = batch[0].sampling.settings() | {"stopping_criteria": [shown]}
            found = self.loaded.write_texts([choice.prompt for choice in batch], self.how)
            for choice, written in zip(batch, found, strict=True):
                choice.end(choice.reason or ("stop" if written.finish_reason == "stop" else "length"))
        except Exception as error:
            untouched = not any(choice.num_tokens for choice in batch)
            if isinstance(error, ValueError) and untouched and len(batch) > 1:
                for choice in batch:  # only whose fault it is shall pay
                    self._write([choice])
                return
            refused = isinstance(error, ValueError) and untouched
            if not refused:
                logger.exception("Writing failed.")
            blame = ("prompt", "context_length_exceeded") if isinstance(error, NoRoomError) else ()
            for choice in batch:
                told = Refused(400, str(error), *blame) if refused else Refused(500, "Writing failed; see the log.")
                choice.end(told)
