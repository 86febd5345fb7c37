"""An SLLM drafts for an OPT: what is written is what the OPT writes alone."""

import pytest
import torch
from tiny import MEMORY, make_opt, make_sllm
from transformers import StopStringCriteria

from sllm.assistant import SentenceAssistant

TEXT = "One, two and three. Four? Yes, f"


@pytest.fixture(scope="module")
def opt():
    return make_opt(max_position_embeddings=128).double()


@pytest.fixture(scope="module")
def sllm():
    return make_sllm(**MEMORY)


def prompt(sllm, text=TEXT):
    ids = sllm.processor.encode(text).input_ids
    return torch.tensor([[sllm.config.bos_token_id, *ids]])


def write(opt, ids, **options):
    return opt.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, **options)


@pytest.mark.parametrize("num_tokens", [1, 3, 40])
@pytest.mark.parametrize("options", [{}, {"min_new_tokens": 40}, {"repetition_penalty": 1.5, "min_new_tokens": 30}])
def test_greedy_texts_are_those_of_the_opt_alone(opt, sllm, num_tokens, options):
    ids = prompt(sllm)
    assistant = SentenceAssistant(sllm, num_tokens)
    plain = write(opt, ids, do_sample=False, **options)
    assert torch.equal(write(opt, ids, do_sample=False, custom_generate=assistant, **options), plain)
    # the pass over the prompt, which is not counted, writes too
    assert assistant.statistics.num_tokens <= plain.shape[1] - ids.shape[1]


def test_drawn_texts_are_those_of_the_opt_alone(opt, sllm):
    ids = prompt(sllm)
    options: dict = dict(do_sample=True, temperature=0.6, top_k=20)
    for seed in range(3):
        torch.manual_seed(seed)
        plain = write(opt, ids, **options)
        torch.manual_seed(seed)
        assert torch.equal(write(opt, ids, custom_generate=SentenceAssistant(sllm), **options), plain)


def test_guesses_are_what_the_sllm_goes_on_with(sllm):
    assistant = SentenceAssistant(sllm)
    assistant.drafter.restart()
    for text in (TEXT, TEXT + "ive: six. Sev", TEXT + "ive: six. Seven. Ei"):  # read on, sentence after sentence
        guesses = assistant.drafter.guess(prompt(sllm, text)[0].tolist(), 4)
        options: dict = dict(max_new_sentences=1, max_new_tokens=4, min_new_tokens=1, num_draft=1)
        output = sllm.generate(text=text, **options)
        assert guesses == output.sequences[0, -output.num_new_tokens[0] :].tolist()


def test_a_text_longer_than_the_assistants_positions_is_read_anew(opt):
    sllm = make_sllm(opt=dict(max_position_embeddings=4), max_sentences=3)
    ids = prompt(sllm, "A. B. C. D. E. F. G. H")
    plain = write(opt, ids, do_sample=False, min_new_tokens=40)
    assert torch.equal(
        write(opt, ids, do_sample=False, min_new_tokens=40, custom_generate=SentenceAssistant(sllm)), plain
    )


@pytest.mark.parametrize(("right", "per_forward"), [(3, 4.0), (1, 2.0), (0, 1.0)])
def test_guesses_that_come_true_save_passes(opt, sllm, right, per_forward, monkeypatch):
    ids = prompt(sllm)
    plain = write(opt, ids, do_sample=False, min_new_tokens=40)[0].tolist()
    assistant = SentenceAssistant(sllm, 3)

    def guess(written, num_tokens):
        known = plain[len(written) : len(written) + num_tokens]
        return known[:right] + [(token + 1) % 200 + 4 for token in known[right:]]

    monkeypatch.setattr(assistant.drafter, "guess", guess)
    found = write(opt, ids, do_sample=False, min_new_tokens=40, custom_generate=assistant)
    assert found[0].tolist() == plain
    assert assistant.statistics.tokens_per_forward == pytest.approx(per_forward, rel=0.1)


def test_a_streamer_gets_the_tokens_in_order(opt, sllm):
    class Kept:
        def __init__(self):
            self.ids, self.ended = [], False

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            self.ended = True

    kept, ids = Kept(), prompt(sllm)
    output = write(opt, ids, do_sample=False, custom_generate=SentenceAssistant(sllm, streamer=kept))
    assert kept.ids == output[0].tolist()
    assert kept.ended


def test_stop_strings_end_what_an_assistant_helps_with(opt, sllm):
    """As a criterion: where `generate` is handed an assistant, Transformers drops the tokenizer that they need."""
    ids, tokenizer = prompt(sllm), sllm.processor.tokenizer
    alone = write(opt, ids, do_sample=False, min_new_tokens=20)
    strings = [tokenizer.decode([int(token)]) for token in alone[0, -8:-6]]
    plain = write(opt, ids, do_sample=False, stop_strings=strings, tokenizer=tokenizer)
    assert plain.shape[1] < alone.shape[1]
    asked: dict = dict(do_sample=False, stopping_criteria=[StopStringCriteria(tokenizer, strings)])
    assert torch.equal(write(opt, ids, custom_generate=SentenceAssistant(sllm), **asked), plain)


def test_mistakes_are_told(opt, sllm):
    with pytest.raises(ValueError, match="num_tokens=0"):
        SentenceAssistant(sllm, 0)
    ids = prompt(sllm)
    with pytest.raises(ValueError, match="one at a time"):
        write(opt, ids.repeat(2, 1), custom_generate=SentenceAssistant(sllm))
    with pytest.raises(ValueError, match="same tokenizer"):
        write(make_opt(vocab_size=270, max_position_embeddings=128), ids, custom_generate=SentenceAssistant(sllm))
    with pytest.raises(ValueError, match="only the ids"):
        write(opt, ids, return_dict_in_generate=True, custom_generate=SentenceAssistant(sllm))
    with pytest.raises(ValueError, match="there are no beams"):
        write(opt, ids, num_beams=2, custom_generate=SentenceAssistant(sllm))
    vectors = opt.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="inputs_embeds are none"):
        opt.generate(inputs_embeds=vectors, max_new_tokens=4, custom_generate=SentenceAssistant(sllm))
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        with pytest.raises(ValueError, match="leave out use_cache"):
            write(opt, ids, custom_generate=SentenceAssistant(sllm), **options)


@pytest.mark.parametrize("number", [2, 290])
def test_ids_that_no_sentence_holds_end_the_guesses_and_not_the_text(number):
    """An end mark inside a text, or an id of a padded vocabulary that no token has."""
    opt = make_opt(vocab_size=300, max_position_embeddings=128).double()
    sllm = make_sllm(vae=dict(vocab_size=300), opt=dict(vocab_size=300))
    ids = prompt(sllm)
    ids = torch.cat([ids, torch.tensor([[number, 70, 71]])], dim=1)
    plain = write(opt, ids, do_sample=False, min_new_tokens=40)
    assisted = write(opt, ids, do_sample=False, min_new_tokens=40, custom_generate=SentenceAssistant(sllm))
    assert torch.equal(assisted, plain)
