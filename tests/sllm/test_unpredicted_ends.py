"""Where ends are told nobody predicts them, in training, scores and writing alike, and none is told for nothing."""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from cut_texts import PARAMETERS
from families import loaded_as
from tiny import CAP, make_opt, make_own, make_processor, make_sllm, make_vae, pad, rows
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig

from lmbase.text.learned import LearnedCuts
from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.measuring import Candidates
from sllm import SLLM, SLLMConfig
from sllm.assistant import SentenceAssistant
from sllm.benchmarks.drafting import candidate_rates
from sllm.evaluation.audit import audit_sentences
from sllm.evaluation.costs import continue_sentences, costs_in_sentences
from sllm.evaluation.probing import probe
from sllm.evaluation.weights_read import read_by_sentences
from sllm.joint_fitting import fit_flags
from sllm.scoring import score_sentences

EOS = 2
CUTS = replace(LearnedCuts.of(PARAMETERS), token_units=[64] * 7, tokens_per_piece=4.0, longest=8).parameters()
TEXT = "He left. She, too, went on (all day): 3.14 of it"
PROMPTS = ["He said", "", "One. Two, three", "Where? There, and nowhere"]


def told(kind: str, **options) -> SLLM:
    if kind == "own layers":
        model = make_own("opt", told_ends=True, stop_bias=-2.0, **options)
        assert model.end_head is not None
        torch.nn.init.constant_(model.end_head.bias, -4.0)
    else:
        model = make_sllm(5, vae=dict(processor=False), told_ends=True, num_memory_tokens=4, stop_bias=-2.0, **options)
    model.processor = make_processor("learned", CAP, punkt=CUTS)
    return model


@pytest.fixture(scope="module", params=["published", "own layers"])
def model(request) -> SLLM:
    return told(request.param)


def sentences_of(model: SLLM, text: str = TEXT) -> list[list[int]]:
    return model.processor.encode(text).sentences()


def test_told_ends_cost_nothing_and_the_last_one_does(model):
    sentences = sentences_of(model)
    assert len(sentences) > 5
    batch = pad([sentences, sentences])
    nats = model.nats(**batch, continues=torch.tensor([False, True])).token
    lengths = [len(sentence) for sentence in sentences]
    assert not any(nats[0, k, length] for k, length in enumerate(lengths[:-1]))
    assert nats[0, -1, lengths[-1]] > 0 == nats[1, -1, lengths[-1]]
    assert all((nats[0, k, :length] > 0).all() for k, length in enumerate(lengths))


def test_the_loss_is_the_likelihood(model):
    batch = pad([sentences_of(model), sentences_of(model, "A text, and another one")]) | {
        "continues": torch.tensor([False, True])
    }
    nats, output = model.nats(**batch), model(**batch)
    assert output.losses["token"].item() == pytest.approx(nats.token.sum().item(), rel=1e-5)
    counts = model.loss_counts(**batch)
    tokens = int(batch["attention_mask"].sum()) + 1  # and one end
    assert counts["token"].item() == tokens
    assert output.loss.item() == pytest.approx(float(nats.token.sum() + nats.stop.sum()) / tokens, rel=1e-5)


def test_windows_predict_no_end_but_the_texts(model):
    sentences = sentences_of(model)
    (of_windows,) = score_sentences(model, [sentences], [1], window=3)
    without = pad_sentences([sentences[:3]], 1)
    first = model.nats(**vars(without), continues=torch.tensor([True])).token.sum().item()
    assert sum(of_windows.token[:3]) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("parting", [1, 9, 14, 30])
def test_a_context_and_the_rest_are_the_whole(model, parting):
    """Less the context's last end, which only a text that ends there has, and the flag behind it."""
    before, after = TEXT[:parting], TEXT[parting:]
    whole, begun = model.score([TEXT, before]).nats
    (rest,) = model.score([after], contexts=[before]).nats
    sentences, encoded = sentences_of(model, before), pad([sentences_of(model, before)])
    ended = model.nats(**encoded)
    over = bool(model.processor.split_open_end(sentences)[1] == [])
    flag = model.nats(**encoded, continues=torch.tensor([True])).stop[0, len(sentences)].item() if over else 0.0
    last = ended.token[0, -1, len(sentences[-1])].item() + ended.stop[0, len(sentences)].item()
    assert begun - last + flag + rest - flag == pytest.approx(whole - 0.0, rel=1e-4)


def test_a_whole_text_as_context_leaves_its_end(model):
    """Also where its end is told: what stands in it and what is left are the whole."""
    for text in (TEXT, "".join(map(model.processor.decode, sentences_of(model)[:-1]))):
        sentences = sentences_of(model, text)
        begun = model.nats(**pad([sentences]), continues=torch.tensor([True]))
        (rest,) = model.score([""], contexts=[text]).nats
        flags = begun.stop[0, : len(sentences)].sum()
        assert (begun.token.sum() + flags).item() + rest == pytest.approx(model.score(text).nats[0], rel=1e-4)


def test_greedy_continuations_go_on_across_told_ends():
    model = told("published")
    with torch.no_grad():
        model.stop_head.bias.fill_(-9.0)
        model.get_input_embeddings().weight[4 + 128 :] *= 0.1  # it writes characters
        model.get_input_embeddings().weight[EOS] *= 0.1
    output: Any = model.generate(text=TEXT, max_new_tokens=14)
    assert len(output.sentence_lengths[0]) > len(sentences_of(model)) + 1
    text = model.processor.decode(rows(output)[0])[len(TEXT) :]
    pairs = [(TEXT, text[:size]) for size in range(len(text) + 1)]
    assert all(found.greedy for found in loaded_as(model).continuations(pairs))


def test_figures_leave_out_what_costs_nothing(model):
    documents = [sentences_of(model), sentences_of(model, "A text, and another one. " * 3)]
    nats = sum(model.nats(**pad([document])).token.sum().item() for document in documents)
    assert probe(model, documents, [1, 0])["bits_per_byte"]["as_it_is"] == pytest.approx(nats / math.log(2), rel=1e-4)
    token = model.nats(**pad(documents[:1])).token[0, 1:]
    targets = sum(map(len, documents[0][1:])) + 1
    found = loaded_as(model).paper_perplexity([TEXT])
    assert math.log(found) == pytest.approx(token.sum().item() / targets, rel=1e-4)


def test_flags_are_fitted_to_ends_that_are_predicted():
    model = told("own layers")
    fit_flags(model, [pad([sentences_of(model)] * 2) | {"continues": torch.tensor([True, True])}])
    assert model.end_head is not None
    assert model.end_head.bias < -5


@pytest.mark.parametrize("given", [{}, {"next_vector": "projection"}])
def test_a_graft_is_told_as_its_autoencoder_is_cut(given):
    vae = make_vae(processor=False)
    vae.processor = make_processor("learned", CAP, punkt=CUTS)
    assert SLLM.graft(vae, make_opt(), max_sentences=16, **given).config.told_ends
    assert not SLLM.graft(vae, make_opt(), max_sentences=16, told_ends=False, **given).config.told_ends


@torch.no_grad()
def write_from_scratch(model: SLLM, prompt: str, limit: int) -> tuple[list[list[int]], str]:
    """Greedy writing through `nats` and the cuts of whole texts alone."""
    ids = model.processor.encode(prompt).input_ids
    size = model.config.vocab_size

    def cut(ids: list[int]) -> tuple[list[list[int]], list[int]]:
        return model.processor.split_open_end(model.processor.cut_ids(ids) if ids else [])

    for _ in range(limit):
        closed, begun = cut(ids)
        if not begun:
            nats = model.nats(**pad([closed])) if closed else None
            stop = nats.stop[0, -1] if nats is not None else model.nats(**pad([[]])).stop[0, 0]
            if stop < math.log(2):
                return closed, "stop"
        texts = [[*closed, [*begun, i]] for i in range(size) if i != EOS]
        going = torch.ones(len(texts), dtype=torch.bool)
        costs = model.nats(**pad(texts), continues=going).token[:, len(closed), len(begun)]
        if begun and model.nats(**pad([[*closed, begun]])).token[0, len(closed), len(begun)] < costs.min():
            return [*closed, begun], "stop"
        ids = [*ids, texts[int(costs.argmin())][-1][-1]]
    closed, begun = cut(ids)
    return [*closed, begun] if begun else closed, "length"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_cached_writing_equals_recomputing_everything(model, prompt):
    output: Any = model.generate(text=prompt, max_new_tokens=14)
    expected, reason = write_from_scratch(model, prompt, 14)
    assert output.sentence_lengths[0] == [len(sentence) for sentence in expected]
    assert rows(output)[0] == [i for sentence in expected for i in sentence]
    assert output.finish_reason == [reason]
    assert len(expected) > 1


def test_a_batch_a_stream_and_a_fixed_cache_write_the_same(model):
    settings: dict = dict(max_new_tokens=24, do_sample=True, seed=3)
    together: Any = model.generate(PROMPTS, **settings)
    assert len(set(map(len, together.sentence_lengths))) > 1
    for number, prompt in enumerate(PROMPTS):
        alone: Any = model.generate(text=prompt, **settings | {"seed": [(3, number)]})
        assert rows(together)[number] == rows(alone)[0]
        assert together.sentence_lengths[number] == alone.sentence_lengths[0]
        ids = rows(alone)[0]
        cut = model.processor.cut_ids(ids)
        assert [len(sentence) for sentence in cut] == alone.sentence_lengths[0]


@pytest.mark.parametrize("kind", ["published", "own layers"])
@pytest.mark.parametrize("how", ["heads", "tree", "copies"])
def test_drafts_change_nothing(kind, how):
    model = told(kind, num_future_tokens=3, **({} if kind == "own layers" else {"draft_head_kind": "residual"}))
    ways: dict[str, dict] = {
        "heads": {"num_draft": 3},
        "tree": {"tree": [[0], [1], [0, 0]]},
        "copies": {"prompt_lookup_num_tokens": 4},
    }
    for prompt in PROMPTS:
        samplings: list[dict] = [{}, {"do_sample": True, "seed": 1}]
        for sampling in samplings:
            plain: Any = model.generate(text=prompt, max_new_tokens=20, num_draft=1, **sampling)
            drafted: Any = model.generate(text=prompt, max_new_tokens=20, **ways[how] | sampling)
            assert rows(drafted) == rows(plain)
            assert drafted.sentence_lengths == plain.sentence_lengths
            assert drafted.finish_reason == plain.finish_reason


@pytest.mark.parametrize("kind", ["published", "own layers"])
def test_what_greedy_writing_writes_is_greedy_over_ends_that_are_told(kind):
    model = told(kind)
    with torch.no_grad():
        model.stop_head.bias.fill_(-30.0)
        for i in (i for i in range(model.config.vocab_size) if not 32 <= i - 4 < 127):
            model.output_table[i] = 0  # nothing but letters and marks is written
    output: Any = model.generate(text=PROMPTS[2], max_new_tokens=20)
    assert len(output.texts[0]) == 20
    assert len(output.sentence_lengths[0]) > 4
    assert all(one.greedy for one in continue_sentences(model, [(PROMPTS[2], output.texts[0][:n]) for n in range(20)]))
    assert not continue_sentences(model, [(PROMPTS[2], output.texts[0][:9] + "\x07")])[0].greedy


def test_the_mark_of_a_text_s_end_counts_with_the_end(model):
    """So an opening costs the same whether the text goes on or not, its end left out."""
    sentences = sentences_of(model)
    (*whole, _), (*opening, end) = costs_in_sentences(model, sentences), costs_in_sentences(model, sentences[:4])
    assert sum(map(sum, opening)) == pytest.approx(sum(map(sum, whole[:4])), rel=1e-4)
    (score,) = score_sentences(model, [sentences[:4]], [1])
    assert sum(map(sum, [*opening, end])) == pytest.approx(score.nats, rel=1e-5)


def test_no_text_ends_before_it_may(model):
    for number in range(6):
        output: Any = model.generate(text="", max_new_tokens=30, min_new_tokens=17, do_sample=True, seed=number)
        assert output.num_new_tokens[0] >= 17


def test_the_audit_passes_and_finds_ends_that_nothing_tells(model):
    sentences = sentences_of(model)
    assert audit_sentences(model, sentences).passed
    moved = [sentences[0] + sentences[1][:1], sentences[1][1:], *sentences[2:]]
    assert moved[1]
    report = audit_sentences(model, moved)
    assert not report.passed
    assert "nothing tells it" in " ".join(report.failures)
    at = next(i for i, (one, two) in enumerate(itertools.pairwise(sentences)) if len(one + two) <= CAP)
    joined = [*sentences[:at], sentences[at] + sentences[at + 1], *sentences[at + 2 :]]
    passed_over = audit_sentences(model, joined)
    assert passed_over.failures == [f"{len(sentences)} ends are told, and the text has {len(sentences) - 1} sentences"]


def test_heads_learn_no_told_end():
    model = told("published", num_future_tokens=3)
    batch = pad([sentences_of(model)])
    lengths = batch["attention_mask"].sum(-1)[0]
    counts = model.loss_counts(**batch)
    ends = torch.zeros(len(lengths), dtype=torch.long)
    ends[-1] = 1
    for i in (2, 3):
        assert counts[f"head_{i}"] == (lengths + ends - i + 1).clamp(min=0).sum()
    assert set(model(**batch).losses) >= {"head_2", "head_3"}


def test_what_does_not_go_together_is_refused(tmp_path):
    model = told("published")
    with pytest.raises(ValueError, match=r"told_ends.*'punctuation' tells of none"):
        model.processor = make_processor()
    with pytest.raises(ValueError, match="told_ends: where this SLLM's sentences end depends on all"):
        SentenceAssistant(model)
    with pytest.raises(ValueError, match="told_ends: with next_vector='energy' ends are predicted"):
        SLLMConfig(told_ends=True, next_vector="energy", autoencoder={"latent": "gaussian"}).check()
    model.save_pretrained(tmp_path)
    again = SLLM.from_pretrained(tmp_path)
    assert again.config.told_ends
    assert again.score(TEXT).nats == model.score(TEXT).nats
    again._processor = None
    ids = pad([sentences_of(model)])["input_ids"]
    with pytest.raises(ValueError, match="this SLLM has none"):
        again.generate(ids, generation_config=GenerationConfig(max_new_tokens=2))


def test_what_is_told_counts_neither_as_operations_nor_as_weights_that_are_read(model):
    """No product with the vocabulary in a forward pass, and no step while a text is written."""
    predicting = copy.deepcopy(model)
    predicting.config.told_ends = False
    counts = [len(sentence) for sentence in sentences_of(model)]
    batch = pad([sentences_of(model)]) | {"continues": torch.tensor([True])}
    seen, formula = [], []
    for one in (model, predicting):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            one.nats(**batch)
        seen.append(counter.get_total_flops())
        formula.append(one.flops(sum(counts), len(counts)))
    steps = 0 if model.config.end_flag else sum(n < CAP for n in counts)  # at the cap ends are certain
    table = 2 * model.output_table.numel()
    assert (seen[1] - seen[0]) // table == steps  # what is left the flags take
    assert formula[1] - formula[0] == (0 if model.config.end_flag else len(counts) * table)
    stage = model.autoencoder.decoder if model.own is None else model.own.upper(model.trunk)
    step = sum(weight.numel() for weight in stage.parameters()) + model.output_table.numel()
    read = read_by_sentences(predicting, 4.0) - read_by_sentences(model, 4.0)
    assert read == pytest.approx(step / 4)


@torch.no_grad()
def test_no_drafting_head_is_asked_for_an_end_that_is_told(monkeypatch):
    model, seen = told("published", num_future_tokens=3), []
    count = Candidates.count

    def look(*given):
        seen.append(given[-1])
        count(*given)

    monkeypatch.setattr(Candidates, "count", look)
    candidate_rates(model, [TEXT])
    assert int((torch.cat(seen) == EOS).sum()) <= 2  # of either head the text's last
    assert len(torch.cat(seen)) > 20
