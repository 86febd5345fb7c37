"""Writing: what is generated is what the likelihood prefers, however it is prompted, batched, cached and streamed."""

from threading import Thread
from typing import Any

import pytest
import torch
from tiny import CAP, SLLMS, make_processor, make_sllm, rows
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TextIteratorStreamer, TextStreamer

from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.processor import SentenceProcessor
from lmbase.text.streaming import TextStream, written_text
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size
from sllm import SLLM

Sentences = list[list[int]]

PAD, EOS = 1, 2
PROMPTS = ["He said", "", "One. Two, three", "Where? There, and nowhere", "He left. "]


def write(model: SLLM, prompt, **settings) -> Any:
    return model.generate(text=prompt, **{"max_new_tokens": 30} | settings)


def cut(ids: list[int], lengths: list[int]) -> list[list[int]]:
    """Flat ids -> sentences."""
    return [part.tolist() for part in torch.tensor(ids, dtype=torch.long).split(lengths)] if ids else []


def without_processor(name: str, **options) -> SLLM:
    """Prompts are sentences then, and none of them is open."""
    return SLLMS[name](vae=dict(processor=False), **options)


# -- the reference -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_from_scratch(model: SLLM, closed: Sentences, forced: list[int], limit: int) -> tuple[Sentences, str]:
    """Greedy writing through `nats` alone: every choice scores all its alternatives, nothing is remembered."""

    def nats(texts, continues=True):
        batch = pad_sentences(texts, PAD)
        return model.nats(**vars(batch), continues=torch.full((len(texts),), continues))

    sentences, tokens, new = [*closed], [*forced], 0
    while new < limit:
        if not tokens and nats([sentences], continues=False).stop[0, len(sentences)] < torch.log(torch.tensor(2.0)):
            return sentences, "stop"
        while new < limit and len(tokens) < CAP:
            choices = [i for i in range(model.config.vocab_size) if i != EOS]
            costs = nats([[*sentences, [*tokens, i]] for i in choices]).token[:, len(sentences), len(tokens)]
            if tokens and nats([[*sentences, tokens]]).token[0, len(sentences), len(tokens)] < costs.min():
                break
            tokens.append(choices[int(costs.argmin())])
            new += 1
        sentences, tokens = [*sentences, tokens], []
    return sentences, "length"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_cached_writing_equals_recomputing_everything(sllm, prompt):
    closed, forced = sllm.processor.split_open_end(sllm.processor.encode(prompt).sentences())
    expected, reason = write_from_scratch(sllm, closed, forced, 16)
    output = write(sllm, prompt, max_new_tokens=16)
    assert cut(rows(output)[0], output.sentence_lengths[0]) == expected
    assert output.finish_reason == [reason]


def test_a_batch_is_its_members(sllm):
    """Prompts of different length, texts that stop at different times and for different reasons."""
    together = write(sllm, PROMPTS)
    assert len(set(together.finish_reason)) > 1, "the example is varied"
    assert len({len(lengths) for lengths in together.sentence_lengths}) > 2
    for b, prompt in enumerate(PROMPTS):
        alone = write(sllm, prompt)
        assert rows(together)[b] == rows(alone)[0]
        for name in ("sentence_lengths", "num_new_tokens", "finish_reason", "texts"):
            assert getattr(together, name)[b] == getattr(alone, name)[0]


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("start", [[], [EOS]], ids=["bare", "start token"])
def test_text_flat_ids_and_sentences_agree(sllm, side, start):
    """Flat ids may open with the start token, as the tokenizers of Transformers put it; padding on either side."""
    encoded = sllm.processor.encode_batch(PROMPTS)
    flat = [start + e.input_ids for e in encoded]
    ids, mask = pad_tokens([row[:: -1 if side == "left" else 1] for row in flat], PAD)
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    sentences = pad_sentences([e.sentences() for e in encoded], PAD)
    expected = write(sllm, PROMPTS)
    for opening, output in (
        (start, sllm.generate(ids, mask, max_new_tokens=30)),
        (start, sllm.generate(ids, max_new_tokens=30)),
        ([], sllm.generate(sentences.input_ids, sentences.attention_mask, max_new_tokens=30)),
        ([], sllm.generate(PROMPTS, max_new_tokens=30)),
    ):
        assert rows(output) == [opening + row for row in rows(expected)]
        assert output.finish_reason == expected.finish_reason
        assert output.sentence_lengths == expected.sentence_lengths


@pytest.mark.parametrize("extra", [0, 3])
def test_new_ids_begin_where_the_given_prompt_ends(sllm, extra):
    """Also where every prompt has padding, as `pad_to_multiple_of` gives it."""
    ids, _ = pad_tokens([[EOS, *sllm.processor.encode(prompt).input_ids] + [PAD] * extra for prompt in PROMPTS], PAD)
    output: Any = sllm.generate(ids, max_new_tokens=9)
    new, expected = output.sequences[:, ids.shape[1] :], write(sllm, PROMPTS, max_new_tokens=9)
    assert [written_text(sllm.processor.tokenizer, row.tolist()) for row in new] == expected.texts
    assert torch.equal(new, expected.sequences[:, -new.shape[1] :])
    assert torch.equal(sllm.generate(ids, max_new_tokens=9, return_dict_in_generate=False), output.sequences)


@pytest.mark.parametrize("cut_at", range(1, 9))
def test_an_unfinished_last_sentence_begins_the_first_written_one(sllm, cut_at):
    prompt = "Yes. He said"[: 4 + cut_at]
    output = write(sllm, prompt)
    sentences = cut(rows(output)[0], output.sentence_lengths[0])
    assert sentences[0] == sllm.processor.encode("Yes.").input_ids
    assert sllm.processor.decode(sentences[1]).startswith(prompt[4:])


def test_a_prompt_comes_back_untouched_in_front(sllm):
    output = write(sllm, PROMPTS)
    for prompt, ids, num_new, text in zip(PROMPTS, rows(output), output.num_new_tokens, output.texts, strict=True):
        own = sllm.processor.encode(prompt).input_ids
        assert ids[: len(own)] == own
        assert len(ids) == len(own) + num_new
        assert text == written_text(sllm.processor.tokenizer, ids[len(own) :])
        assert EOS not in ids


def test_sequences_are_padded_left_of_prompts_and_right_of_new_ids(sllm):
    output = write(sllm, PROMPTS)
    widths = [len(sllm.processor.encode(p).input_ids) for p in PROMPTS]
    border = max(widths)
    for ids, mask, width, num_new in zip(
        output.sequences, output.attention_mask, widths, output.num_new_tokens, strict=True
    ):
        expected = [False] * (border - width) + [True] * (width + num_new)
        assert mask.tolist() == expected + [False] * (len(mask) - len(expected))
        assert (ids[~mask] == PAD).all()
    assert [sum(lengths) for lengths in output.sentence_lengths] == output.attention_mask.sum(1).tolist()


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 2, 17])
def test_new_tokens_are_counted_exactly(limit):
    """A model that never stops by itself writes just as many tokens as it may."""
    for model in (build(stop_bias=-100.0) for build in SLLMS.values()):
        output = write(model, PROMPTS, max_new_tokens=limit)
        assert output.num_new_tokens == [limit] * len(PROMPTS)
        assert output.finish_reason == ["length"] * len(PROMPTS)
        longer = write(model, PROMPTS, max_new_tokens=25)
        assert all(a == b[: len(a)] for a, b in zip(rows(output), rows(longer), strict=True))


def test_a_model_that_wants_to_stop_writes_the_forced_sentence_to_its_end_only():
    model = make_sllm(stop_bias=100.0)
    output = write(model, ["", "He left.", "He said"])
    assert output.finish_reason == ["stop"] * 3
    assert output.num_new_tokens[:2] == [0, 0]
    assert len(output.sentence_lengths[2]) == 1
    assert write(model, "", min_new_tokens=20).num_new_tokens[0] >= 20


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_new_sentences_are_counted_exactly(limit):
    model = make_sllm(stop_bias=-100.0)
    output: Any = model.generate(text=["He left.", "He said"], max_new_sentences=limit)
    whole = max(limit, 1)  # the unfinished sentence of the second prompt stays a sentence
    assert [len(lengths) for lengths in output.sentence_lengths] == [1 + limit, whole]
    assert output.finish_reason == ["length"] * 2


@pytest.mark.parametrize("name", sorted(SLLMS))
def test_the_context_ends_with_the_trunks_positions(name):
    """Six positions: the start state and five sentences, from which a sixth is written."""
    model = SLLMS[name](stop_bias=-100.0, opt=dict(max_position_embeddings=6), max_sentences=5)
    output = write(model, ["", "Yes. No. Yes.", "Yes." + " No." * 4], max_new_tokens=500)
    assert output.finish_reason == ["context"] * 3
    assert [len(lengths) for lengths in output.sentence_lengths] == [6, 6, 6]
    with pytest.raises(ValueError, match=r"Prompt 1 has 6 sentences, and the trunk has positions for 5.*'slide'"):
        write(model, ["", "Yes." + " No." * 5], max_new_tokens=500)


@pytest.mark.parametrize("name", sorted(SLLMS))
def test_sliding_drops_the_oldest_half_and_reads_again(name):
    """What follows a slide is what the kept sentences, as a prompt of their own, are continued with."""
    model = without_processor(name, stop_bias=-100.0, opt=dict(max_position_embeddings=6), max_sentences=5)
    long: Any = model.generate(torch.tensor([[[20, 21], [22, 23]]]), max_new_sentences=13, overflow="slide")
    sentences = cut(rows(long)[0], long.sentence_lengths[0])
    assert len(sentences) == 15
    assert long.finish_reason == ["length"]
    for start in (3, 6, 9):  # six sentences fill the context, the latest three stay
        kept = pad_sentences([sentences[start : start + 3]], PAD)
        again: Any = model.generate(kept.input_ids, kept.attention_mask, max_new_sentences=3)
        assert cut(rows(again)[0], again.sentence_lengths[0]) == sentences[start : start + 6]


def test_texts_of_a_batch_slide_at_their_own_time():
    model = make_sllm(stop_bias=-100.0, opt=dict(max_position_embeddings=6), max_sentences=5)
    settings = dict(max_new_tokens=60, overflow="slide")
    prompts = ["Yes. No. Yes. No.", "He said", "Yes." + " No." * 9]
    together = write(model, prompts, **settings)
    assert rows(together) == [rows(write(model, prompt, **settings))[0] for prompt in prompts]


# -- choices -----------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_a_sample(sllm):
    settings = dict(do_sample=True, temperature=0.9, top_p=0.95, max_new_tokens=40)
    first, again, other = (write(sllm, PROMPTS, seed=seed, **settings) for seed in (0, 0, 1))
    assert rows(first) == rows(again) != rows(other)
    assert rows(first) != rows(write(sllm, PROMPTS, max_new_tokens=40))


def test_a_seed_leaves_the_global_generator_alone(sllm):
    state = torch.get_rng_state()
    write(sllm, PROMPTS, do_sample=True, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_the_most_probable_token_is_greedy():
    """Flags are drawn, too: with a model that never stops only the tokens differ, and top_k=1 leaves one."""
    model = make_sllm(stop_bias=-100.0)
    assert rows(write(model, PROMPTS, do_sample=True, top_k=1, seed=0)) == rows(write(model, PROMPTS))


@torch.no_grad()
def test_samples_follow_the_likelihood():
    """Of 4,000 draws of one sentence's first token and of the stop flag, the shares are those of `nats`."""
    small = dict(vocab_size=8)
    model = make_sllm(vae=small | dict(processor=False), opt=small)
    prompt = torch.tensor([[[5, 6, 7]]]).expand(4000, 1, 3)
    output: Any = model.generate(prompt, torch.ones_like(prompt), do_sample=True, max_new_tokens=1, seed=0)
    stops = torch.tensor([reason == "stop" for reason in output.finish_reason])
    firsts = output.sequences[~stops, 3].bincount(minlength=8) / (~stops).sum()
    nats = model.nats(**vars(pad_sentences([[[5, 6, 7], [i]] for i in range(8)], PAD)))
    expected = torch.exp(-nats.token[:, 1, 0])
    torch.testing.assert_close(firsts, expected, atol=0.03, rtol=0)
    goes_on = torch.exp(-nats.stop[0, 1])
    assert (~stops).float().mean().item() == pytest.approx(goes_on.item(), abs=0.03)


class Only(LogitsProcessor):
    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.token]), 0.0)


def test_logits_processors_have_their_say():
    model = make_sllm(stop_bias=-100.0)
    output = write(model, "He said", max_new_tokens=5, logits_processor=LogitsProcessorList([Only(70)]))
    assert rows(output)[0][-5:] == [70] * 5


def test_a_generation_config_is_heard(sllm):
    config = GenerationConfig(max_new_tokens=3, do_sample=True, temperature=5.0)
    assert max(sllm.generate(text=PROMPTS, generation_config=config, seed=0).num_new_tokens) <= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(text="a", num_beams=3), "num_beams"),
        (dict(text="a", overflow="wrap"), "overflow='wrap'"),
        (dict(text="a \udfff"), "at character 2"),
        (dict(text="a", input_ids=torch.tensor([[5]])), "either input_ids or text"),
        (dict(input_ids=torch.tensor([5])), "give \\(B, L\\)"),
        (dict(input_ids=torch.tensor([[5, 260]])), "vocabulary of 260"),
        (dict(input_ids=torch.tensor([[5, -1]])), "vocabulary of 260"),
        (dict(input_ids=torch.tensor([[5, 2, 6]])), "special tokens"),
        (dict(input_ids=torch.tensor([[[5, 6, 2], [7, 8, 1]]])), "special tokens \\[2\\]"),
        (dict(input_ids=[[5, 6]]), "neither a tensor"),
        (dict(text=[]), "neither a tensor"),
        (dict(text="a", generation_config=GenerationConfig(num_beams=2)), "num_beams"),
        (dict(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 2)), "differ"),
        (dict(input_ids=torch.full((1, 1, CAP + 1), 5)), f"{CAP + 1} tokens"),
        (dict(text=["a", "b"], streamer=TextStream(make_processor().tokenizer)), "streamer"),
    ],
)
def test_mistakes_are_told(sllm, settings, message):
    with pytest.raises(ValueError, match=message):
        sllm.generate(**settings)


# -- streaming ---------------------------------------------------------------------------------------------------------


class ASCII(LogitsProcessor):
    """Letters and end marks only, so that what is written is text."""

    def __init__(self, model: SLLM):
        self.allowed = torch.tensor([*model.processor.encode("abcdefghij ,").input_ids, EOS])

    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf).index_copy(1, self.allowed, scores[:, self.allowed])


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("skip_prompt", [False, True])
def test_a_streamer_gets_exactly_the_output(sllm, prompt, skip_prompt):
    class Collector(TextStreamer):
        text = ""

        def on_finalized_text(self, text, stream_end=False):
            self.text += text

    streamer = Collector(sllm.processor.tokenizer, skip_prompt=skip_prompt)
    output = write(sllm, prompt, streamer=streamer, logits_processor=LogitsProcessorList([ASCII(sllm)]))
    assert output.texts is not None
    assert streamer.text == ("" if skip_prompt else prompt) + output.texts[0]


def test_an_iterator_hands_out_the_text_while_it_is_written(sllm):
    streamer = TextIteratorStreamer(sllm.processor.tokenizer, skip_prompt=True, timeout=20)
    settings = dict(streamer=streamer, seed=3, do_sample=True, logits_processor=LogitsProcessorList([ASCII(sllm)]))
    thread = Thread(target=write, args=(sllm, "He said"), kwargs=settings)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == write(sllm, "He said", **{k: v for k, v in settings.items() if k != "streamer"}).texts[0]


# -- what is reported --------------------------------------------------------------------------------------------------


def test_the_share_of_recut_sentences():
    """Tokens that are no text (half a character) are never what tokenising their text gives."""
    model = make_sllm(stop_bias=-100.0)
    half = model.processor.encode("é").input_ids[0]
    settings = dict(max_new_sentences=4)

    def share(token):
        return model.generate(text="", logits_processor=LogitsProcessorList([Only(token)]), **settings).recut_share

    assert share(half) == 1.0
    assert share(model.processor.encode("x").input_ids[0]) == 0.0  # four sentences of the cap's length, cut alike
    assert write(model, PROMPTS, max_new_tokens=0).recut_share is None


def test_ids_that_are_no_token_are_left_out_of_the_text():
    """Vocabulary tables are padded beyond the tokenizer; a draw from such a row must not lose what was written."""
    model = make_sllm(stop_bias=-100.0)
    model.resize_token_embeddings(272, mean_resizing=False)
    given = dict(text="He said. No", max_new_tokens=24, min_new_tokens=24)
    output = model.generate(logits_processor=LogitsProcessorList([Only(270)]), **given)
    assert output.sequences[0, -24:].tolist() == [270] * 24
    assert output.texts == [""]
    assert output.recut_share == 1.0


class Script(LogitsProcessor):
    """Dictates what is written."""

    def __init__(self, ids: list[int]):
        self.ids = iter(ids)

    def __call__(self, input_ids, scores):
        return Only(next(self.ids))(input_ids, scores)


@pytest.mark.parametrize("spelling", ["letters", "half a character"])
def test_a_sentence_that_is_recut_leaves_the_later_ones_alone(spelling):
    """One of five sentences written with other tokens than its text has: other counts, the same bytes or not."""
    tokenizer = load_tokenizer("bpe:270", lambda: iter(["the cat. the cat. the cat. é"] * 20))
    size = dict(vocab_size=vocabulary_size(tokenizer))
    model = make_sllm(vae=size | dict(processor=False), opt=size, stop_bias=-100.0)
    model.processor = SentenceProcessor(tokenizer, "punctuation", CAP)
    usual = [model.processor.encode(text).input_ids for text in ("the.", " cat.", " the.", " the cat.", " cat.")]
    other = {
        "letters": tokenizer.convert_tokens_to_ids(list("the.")),
        "half a character": [tokenizer.convert_tokens_to_ids("Ã"), *usual[0]],
    }[spelling]
    assert other != usual[0]
    for first, share in ((usual[0], 0.0), (other, 0.2)):
        script = Script([i for sentence in (first, *usual[1:]) for i in (*sentence, EOS)])
        output: Any = model.generate(text="", max_new_sentences=5, logits_processor=LogitsProcessorList([script]))
        assert output.recut_share == share
