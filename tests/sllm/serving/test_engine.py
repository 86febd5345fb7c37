"""The queue and its batches, with a model that writes when it is told to, and with real ones."""

import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from families import MAKERS, loaded_as
from soak import times
from tiny import make_processor

from lmbase.text.tokenizers import encode_text
from sllm.evaluation.loaded import Writing, Written
from sllm.serving.engine import Choice, Engine, Limits, Refused, Sampling

GREEDY, WARM = Sampling(0.0, 1.0), Sampling(0.9, 0.95)
TOKENIZER = make_processor().tokenizer


@dataclass
class Heard:
    """What is told of one text."""

    text: str = ""
    reason: Any = None  # a finish_reason, or a Refused
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, text, reason):
        assert not self.over.is_set()
        self.text += text
        self.reason = reason
        if reason is not None:
            self.over.set()

    def wait(self):
        assert self.over.wait(60)
        return self


@dataclass
class Abc:
    """Writes the alphabet, a letter a pass, each pass when `passes` lets it."""

    name = "abc"
    tokenizer = TOKENIZER
    room = None
    passes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(10**6))
    calls: list[list[str]] = field(default_factory=list)

    def write_texts(self, prompts, how):
        self.calls.append(prompts)
        (listener,) = how.settings["stopping_criteria"]
        if "wrong" in prompts:
            raise ValueError("The prompt is wrong.")
        over = [how.max_new_tokens == 0 for _ in prompts]
        for n in range(how.max_new_tokens):
            if all(over):
                break
            self.passes.acquire()
            if "broken" in prompts:
                raise RuntimeError("out of memory")
            (letter,) = encode_text(TOKENIZER, chr(ord("a") + n % 26))
            over = [done or listener.take(row, letter) for row, done in enumerate(over)]
            listener.show()
        return [Written("", 0, "length") for _ in prompts]


def choice(heard, prompt="Hello", max_tokens=5, stop=(), sampling=GREEDY, seed=(0, 0), seconds=60.0):
    size = len(encode_text(TOKENIZER, prompt))
    return Choice(prompt, size, max_tokens, stop, sampling, seed, time.monotonic() + seconds, heard)


@pytest.fixture
def model():
    return Abc()


@pytest.fixture
def engine(model):
    engine = Engine(model, Limits(waiting=4, batch=3), Writing(0))
    yield engine
    model.passes.release(10**6)
    engine.close()
    assert not engine.thread.is_alive()


def busy(engine, model):
    """A text that is being written and waits for its next pass."""
    model.passes = threading.Semaphore(0)
    first = choice(Heard(), "first", 100)
    engine.submit([first])
    while not model.calls:
        time.sleep(0.001)
    return first


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ((), "abcde", "length"),
        (("d",), "abc", "stop"),
        (("cd", "b"), "a", "stop"),
        (("e",), "abcd", "stop"),
        (("ef",), "abcde", "length"),  # held back, and then not the stop string after all
        (("bcde",), "a", "stop"),
    ],
)
def test_a_text_ends_before_its_stop_string_or_at_its_length(engine, stop, text, reason):
    heard = Heard()
    engine.submit([choice(heard, stop=stop)])
    assert (heard.wait().text, heard.reason) == (text, reason)


def test_what_waits_is_written_together_each_to_its_own_length(engine, model):
    first = busy(engine, model)
    heard = [Heard() for _ in range(4)]
    for n, each in enumerate(heard):
        engine.submit([choice(each, max_tokens=n + 1, sampling=WARM if n == 1 else GREEDY)])
    engine.cancel([first])
    model.passes.release(100)
    assert [each.wait().text for each in heard] == ["a", "ab", "abc", "abcd"]
    assert [len(call) for call in model.calls] == [1, 3, 1]


def test_texts_that_would_not_fit_together_are_written_one_after_the_other(engine, model):
    model.room = 20
    first = busy(engine, model)
    heard = [Heard(), Heard()]
    engine.submit([choice(heard[0], "a" * 15, 5), choice(heard[1], "a", 19)])
    engine.cancel([first])
    model.passes.release(100)
    assert [len(each.wait().text) for each in heard] == [5, 19]
    assert [len(call) for call in model.calls] == [1, 1, 1]


def test_a_full_queue_takes_a_request_whole_or_not_at_all(engine, model):
    busy(engine, model)
    engine.submit([choice(Heard()) for _ in range(3)])
    with pytest.raises(Refused) as refused:
        engine.submit([choice(Heard()), choice(Heard())])
    assert refused.value.status == 429
    engine.submit([choice(Heard())])
    assert engine.counts() == {"running": 1, "waiting": 4}


def test_places_of_cancelled_requests_are_free_at_once(engine, model):
    first = busy(engine, model)
    waiting = [choice(Heard()) for _ in range(4)]
    engine.submit(waiting)
    engine.cancel([first, *waiting[:2]])
    assert engine.counts() == {"running": 0, "waiting": 2}
    model.passes.release(1)  # one pass, and the first is gone from the model, too
    while len(model.calls) < 2:
        time.sleep(0.001)
    assert first.num_tokens == 0


def test_time_is_up_while_a_text_waits_and_while_it_is_written(engine, model):
    busy(engine, model)
    late, slow = Heard(), Heard()
    engine.submit([choice(late, seconds=-1)])
    engine.submit([choice(slow, max_tokens=100, seconds=0.3)])
    engine.cancel(engine.running)
    model.passes.release(2)
    assert late.wait().reason.status == 503
    while not slow.text:
        time.sleep(0.001)
    time.sleep(0.3)
    model.passes.release(1)
    assert slow.wait().reason == "length"
    assert len(slow.text) < 5


def test_only_who_asked_for_the_impossible_is_refused(engine, model):
    first = busy(engine, model)
    heard = [Heard(), Heard(), Heard()]
    engine.submit([choice(each, prompt) for each, prompt in zip(heard, ("good", "wrong", "fine"), strict=True)])
    engine.cancel([first])
    model.passes.release(100)
    assert [each.wait().text for each in heard] == ["abcde", "", "abcde"]
    assert heard[1].reason.status == 400
    assert str(heard[1].reason) == "The prompt is wrong."


def test_a_failure_is_told_and_the_next_text_is_written(engine):
    heard = [Heard(), Heard()]
    engine.submit([choice(heard[0], "broken")])
    assert heard[0].wait().reason.status == 500
    engine.submit([choice(heard[1])])
    assert heard[1].wait().text == "abcde"


@pytest.mark.parametrize("name", MAKERS)
def test_neighbours_change_nothing(name):
    """Texts of many clients at once come out as each does alone, whatever its seed, length and neighbours."""
    loaded, rng = loaded_as(MAKERS[name]("llama")), random.Random(name)
    engine = Engine(loaded, Limits(), Writing(0))
    for _ in range(times(2, 200)):
        asked = [
            choice(
                Heard(),
                rng.choice(["", "Hello", "One, two. Three", "\N{OWL} and"]),
                rng.randint(0, 20),
                rng.choice([(), ("e",), ("a", "\n")]),
                rng.choice([GREEDY, WARM]),
                (rng.getrandbits(64), rng.randint(0, 2)),
            )
            for _ in range(6)
        ]
        engine.submit(asked)
        for one in asked:
            alone = replace(one, tell=Heard(), reason=None, over=False, num_tokens=0, num_told=0)
            one.tell.wait()
            engine.submit([alone])
            alone.tell.wait()
            assert (one.tell.text, one.tell.reason) == (alone.tell.text, alone.tell.reason)
            assert one.num_tokens == alone.num_tokens
    engine.close()
