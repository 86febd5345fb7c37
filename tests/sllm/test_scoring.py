"""Scores of texts: every byte, end mark and flag once, whatever the windows, the batch and the context."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAP, SLLMS, make_sllm

from lmbase.text.padding import pad_sentences
from lmbase.text.windows import Window, windows
from sllm.scoring import equal_context, score_plans, score_sentences

TEXTS = ["One, two. Four? Yes, five: six.", "", "Why", " ", "</s><pad>.", "naïve 你好。\n", "x" * (CAP + 1)]
LONG = [[10 + k, 60 + k, 110 + k][: 1 + k % 3] for k in range(20)]  # 20 sentences
MEMORY = SLLMS["memory"]()


@torch.no_grad()
def nats_of(model, sentences, continues=False):
    """Nats (S, T+1) and flags (S+1,) of one text, in one window."""
    nats = model.nats(**vars(pad_sentences([sentences], 1)), continues=torch.tensor([continues]))
    return nats.token[0], nats.stop[0]


def one_score(model, text, context=None):
    return model.score([text], None if context is None else [context]).nats[0]


def test_a_score_is_the_sum_of_tokens_end_marks_and_flags(sllm):
    scores = sllm.score(TEXTS)
    for text, nats in zip(TEXTS, scores.nats, strict=True):
        token, stop = nats_of(sllm, sllm.processor.encode(text).sentences())
        assert nats == pytest.approx(float(token.sum() + stop.sum()), rel=1e-4)
    assert scores.bytes == scores.tokens == [len(text.encode()) for text in TEXTS]


def test_an_empty_text_costs_the_flag_that_ends_it(sllm):
    log_odds = sllm(**vars(pad_sentences([LONG], 1))).stop_logits[0, 0]  # state 0 has read nothing
    assert one_score(sllm, "") == pytest.approx(-torch.nn.functional.logsigmoid(log_odds).item(), rel=1e-5)


@pytest.mark.parametrize("read_tokens", [1, 12, 40])
def test_scores_do_not_depend_on_what_is_read_at_a_time(sllm, monkeypatch, read_tokens):
    documents = [LONG, LONG[:3], [], LONG[5:12]]
    expected = score_sentences(sllm, documents, [1] * 4, window=6)
    monkeypatch.setattr("sllm.scoring.READ_TOKENS", read_tokens)
    for document, alone in zip(score_sentences(sllm, documents, [1] * 4, window=6), expected, strict=True):
        assert document.token == pytest.approx(alone.token, rel=1e-5)
        assert document.stop == pytest.approx(alone.stop, rel=1e-5)


def random_plan(random):
    """Windows as `windows` and `sentence_windows` make them, of any lengths."""

    def plan(before):
        found: list[Window] = []
        scored, length = 0, len(before) - 1
        while scored < length or not found:
            start, stop = random.randint(max(0, scored - 5), scored), min(length, scored + random.randint(1, 6))
            found.append(Window(start if found else 0, stop, scored))
            scored = stop
        return found

    return plan


@settings(max_examples=12)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.sampled_from([1, 12, 8192]), st.randoms())
def test_every_plan_gets_the_scores_of_its_windows_alone(sizes, read_tokens, random):
    """Several plans at once, whose windows overlap and begin alike, against each window as a text of its own."""
    documents, plans = [LONG[:size] for size in sizes], [random_plan(random) for _ in range(3)]
    cut: dict[tuple[int, int], list[Window]] = {}  # a plan's windows are drawn once

    def remembered(i):
        return lambda before: cut.setdefault((i, len(before) - 1), plans[i](before))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sllm.scoring.READ_TOKENS", read_tokens)
        found = score_plans(MEMORY, documents, [1] * len(sizes), [remembered(i) for i in range(3)])
    for i, of_plan in enumerate(found):
        for sentences, document in zip(documents, of_plan, strict=True):
            token, stop = [], []
            for w in cut[i, len(sentences)]:
                parts = nats_of(MEMORY, sentences[w.start : w.stop], continues=w.stop < len(sentences))
                token += parts[0].sum(-1)[w.scored - w.start : w.stop - w.start].tolist()
                stop += parts[1][w.scored - w.start + (w.scored > 0) : w.stop - w.start + 1].tolist()
            assert document.token == pytest.approx(token, rel=1e-5)
            assert document.stop == pytest.approx(stop, rel=1e-5)
            assert document.num_tokens == sum(map(len, sentences))


def test_windows_score_every_sentence_and_every_flag_once(sllm):
    """Window 6: each later window sees three sentences again and scores three; a border's flag is the earlier's."""
    (found,) = score_sentences(sllm, [LONG], [100], window=6)
    token, stop = nats_of(sllm, LONG[:6], continues=True)
    expected, flags = token.sum(-1).tolist(), stop.tolist()
    for border in range(6, 20, 3):
        stop_at = min(border + 3, 20)
        token, stop = nats_of(sllm, LONG[border - 3 : stop_at], continues=stop_at < 20)
        expected += token[3:].sum(-1).tolist()
        flags += stop[4:].tolist()
    assert found.token == pytest.approx(expected, rel=1e-4)
    assert found.stop == pytest.approx(flags, rel=1e-4)
    assert (len(found.token), len(found.stop), found.num_tokens) == (20, 21, sum(map(len, LONG)))
    assert min(found.token + found.stop) > 0


def test_a_text_that_fits_is_scored_alike_in_any_window(sllm):
    tight, wide = (score_sentences(sllm, [LONG[:6]], [1], window=size)[0] for size in (6, 31))
    assert tight.nats == pytest.approx(wide.nats, rel=1e-5)
    assert score_sentences(sllm, [LONG], [1], window=6)[0].nats != pytest.approx(
        score_sentences(sllm, [LONG], [1], window=31)[0].nats, rel=1e-5
    )


def test_a_plan_decides_what_is_seen(sllm):
    """Windows of one sentence: each is scored as the first of its text."""
    plan = [Window(k, k + 1, k) for k in range(len(LONG))]
    (found,) = score_sentences(sllm, [LONG], [1], plan=lambda before: plan)
    assert found.token == pytest.approx([nats_of(sllm, [s])[0].sum().item() for s in LONG], rel=1e-4)


@settings(max_examples=30)
@given(st.lists(st.integers(1, CAP), min_size=1, max_size=6), st.integers(2, 9))
def test_F1_every_token_sees_what_the_token_window_that_scores_it_holds(lengths, size):
    """Of a sentence that is longer than a token window reaches back, token by token, against that window alone."""
    ids = iter(range(10, 200))
    text = [[next(ids) for _ in range(length)] for length in lengths]
    before = list(accumulate(lengths, initial=0))
    (found,) = score_sentences(MEMORY, [text], [1], plan=equal_context(size, 24))
    for k, sentence in enumerate(text):
        scorers = [w for w in windows(before[-1], size) if w.scored < before[k + 1] and before[k] < w.stop]
        if scorers[-1].start <= before[k]:
            continue
        expected = 0.0
        for place, at in enumerate(range(before[k], before[k + 1])):
            window = next(w for w in scorers if w.scored <= at < w.stop)
            seen = max(0, window.start - before[k])
            token, stop = nats_of(MEMORY, [sentence[seen : place + 1]], continues=k + 1 < len(text))
            expected += float(token[0, place - seen])
        assert found.token[k] == pytest.approx(expected + float(token[0, place - seen + 1]), rel=1e-4)
        assert found.stop[k + 1] == pytest.approx(float(stop[1]), rel=1e-4)


def test_F1_what_the_token_windows_do_not_reach_moves_no_score():
    """The beginning of a long sentence changes: of its end, only the parts that see it move, and nothing behind it."""
    long, later = list(range(10, 22)), [[30, 31], [40, 41, 42]]
    scores = [
        score_sentences(MEMORY, [[first + long[4:], *later]], [1], plan=equal_context(8, 24))[0]
        for first in (long[:4], [50, 51, 52, 53])
    ]
    assert scores[0].token[0] != scores[1].token[0]
    assert scores[0].token[1:] == scores[1].token[1:]
    assert scores[0].stop[1:] == scores[1].stop[1:]


def test_a_window_larger_than_the_trunk_is_refused(sllm):
    with pytest.raises(ValueError, match="32 positions"):
        score_sentences(sllm, [LONG], [1], window=32)


# -- contexts ----------------------------------------------------------------------------------------------------------

WHOLE = TEXTS[0]


def known_from(model, context, whole):
    """Nats of what a context fixes of the text that it begins: its tokens, that each of its sentences came, and their
    ends; the end of the last one only if that sentence is closed, and the whole ends it there, too."""
    processor = model.processor
    sentences, left = processor.encode(whole).sentences(), len(processor.encode(context).input_ids)
    token, flags = nats_of(model, sentences)
    known = 0.0
    for k, sentence in enumerate(sentences):
        read = min(left, len(sentence))
        left -= read
        known += float(token[k, :read].sum() + flags[k]) if read else 0.0
        if read == len(sentence) and (left or not processor.split_open_end(sentences[: k + 1])[1]):
            known += float(token[k, read:].sum())
    return known


def adds_up(model, whole, cut):
    score = one_score(model, whole[cut:], whole[:cut])
    expected = one_score(model, whole) - known_from(model, whole[:cut], whole)
    assert score == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_context_and_text_add_up_to_the_whole(sllm, cut):
    """nats(text | context) = nats(whole) - nats of what the context fixes."""
    adds_up(sllm, WHOLE, cut)


def test_B7_one_sentence_that_spans_context_and_text(sllm):
    for context, text in [("x" * 40, "y" * 40), ("The cat sat.", "q zz"), ("Größe 3", ".5 \N{OWL}"), ("Oh. ", "\n No")]:
        adds_up(sllm, context + text, len(context))


PARTS = ["The cat sat.", "q zz", " ", "x" * 14, " He said", "!", "你好", "\n", " 3.5", " No."]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join), st.data())
def test_B7_chain_rule_at_any_cut(whole, data):
    """Several cuts of one text: what each part costs after all before it adds up, whatever its borders are."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=3)))
    for cut in cuts:
        adds_up(MEMORY, whole, cut)


def test_B7_what_a_context_costs_does_not_depend_on_what_follows(sllm):
    """The same beginning, cut alike, takes as much from every whole."""
    context = "One, two. He"
    fixed = [
        one_score(sllm, context + text) - one_score(sllm, text, context) for text in (" left.", "r hat", "", ", too")
    ]
    assert fixed == pytest.approx(fixed[:1] * 4, abs=1e-3)


def test_an_empty_context_is_none(sllm):
    texts = [*TEXTS, " He." * 40]
    assert sllm.score(texts, [""] * len(texts)) == sllm.score(texts)


def test_a_context_that_begins_a_sentence_is_not_encoded(sllm):
    """The unfinished sentence is forced: no flag and no end mark are charged between it and the text."""
    token, flags = nats_of(sllm, sllm.processor.encode("He said. He left.").sentences())
    assert one_score(sllm, " left.", "He said. He") == pytest.approx(float(token[1, 3:].sum() + flags[2]), rel=1e-4)


def test_a_forced_beginning_and_the_text_share_the_cap(sllm):
    """Eleven forced tokens leave room for one: the rest is the next sentence."""
    score = one_score(sllm, "abc", "x" * (CAP - 1))
    ids = sllm.processor.encode("x" * (CAP - 1) + "abc").input_ids
    token, flags = nats_of(sllm, [ids[:CAP], ids[CAP:]])
    assert score == pytest.approx(float(token[0, CAP - 1 :].sum() + token[1].sum() + flags[1:].sum()), rel=1e-4)


@torch.no_grad()
def test_a_forced_beginning_and_the_text_are_cut_between_characters(sllm):
    """Ten forced tokens leave room for two, and the character takes three: it opens the next sentence."""
    forced, text = (sllm.processor.encode(part).input_ids for part in ("x" * (CAP - 2), "你b"))
    token, flags = nats_of(sllm, [forced, text])
    expected = token[0, len(forced)] + token[1].sum() + flags[1:].sum()
    assert one_score(sllm, "你b", "x" * (CAP - 2)) == pytest.approx(float(expected), rel=1e-4)


def test_a_window_of_max_sentences_is_filled_with_context(sllm):
    """16 sentences: one of the text and the latest fifteen of the context."""
    sentences = [f" {word}." for word in ["the", "cat", "sat", "on", "its", "mat", "and", "ate"] * 5]
    scores = [one_score(sllm, " end.", "".join(sentences[-kept:])) for kept in (40, 15, 14)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[1] != pytest.approx(scores[2], rel=1e-6)


def test_a_long_text_after_a_context_is_scored_in_windows(sllm):
    """Four sentences, then 36: 16 sentences in the first window, then eight new ones each."""
    text = [f" {word}!" for word in ["the", "cat", "sat", "on", "its", "mat", "and", "ate"] * 5]
    ids = [sllm.processor.encode(sentence).input_ids for sentence in text]
    expected = 0.0
    for start, scored, stop in ((0, 4, 16), (8, 16, 24), (16, 24, 32), (24, 32, 40)):
        token, flags = nats_of(sllm, ids[start:stop], continues=stop < 40)
        own_flags = flags[scored - start + (scored > 4) :]  # a border's flag is the earlier window's
        expected += float(token[scored - start :].sum() + own_flags.sum())
    assert one_score(sllm, "".join(text[4:]), "".join(text[:4])) == pytest.approx(expected, rel=1e-4)


def test_pairs_do_not_depend_on_their_batch(sllm):
    texts = ["Yes.", " He." * 40, "", " left. No", "你好"]
    contexts = ["", "Hi.", "He said", "One. He", "No. " * 20]
    together = sllm.score(texts, contexts)
    alone = [one_score(sllm, text, context) for text, context in zip(texts, contexts, strict=True)]
    assert together.nats == pytest.approx(alone, rel=1e-4)
    assert together.tokens == together.bytes == [len(text.encode()) for text in texts]


def test_scores_ignore_training_and_leave_it_on():
    """Dropout never touches a score, with or without contexts."""
    model = make_sllm(vae=dict(dropout=0.5, latent="gaussian"), opt=dict(dropout=0.5))
    expected = [one_score(model, WHOLE), one_score(model, WHOLE, "Hi")]
    model.train()
    assert [one_score(model, WHOLE), one_score(model, WHOLE, "Hi")] == expected
    assert model.training


@pytest.mark.parametrize(
    ("texts", "contexts", "message"),
    [
        (["ok", "ab\ud800"], None, "U\\+D800 at character 2"),
        (["ok"], ["a\udfff"], "U\\+DFFF at character 1"),
        (["one", "two"], ["one"], "1 contexts for 2 texts"),
    ],
)
def test_what_cannot_be_scored_is_refused(sllm, texts, contexts, message):
    with pytest.raises(ValueError, match=message):
        sllm.score(texts, contexts)
