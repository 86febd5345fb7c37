"""Places in texts, and draws of every kind of model there."""

import pytest
from families import loaded_as, make_lm
from tiny import make_mtp, make_opt, make_processor, make_sllm, make_vae

from lmbase.modeling.kept_window import KeptWindow
from sllm.evaluation.drawing import ENDED, Place, check_tokenizers, copy_last, find_places, sampler_of
from sllm.evaluation.kept_window import keeping
from sllm.evaluation.loaded import Writing

TEXTS = ["One, two. Three? Yes, five: six. And on it goes, and ends!", "Why? Because. It is so."]
MODELS = {
    "opt": make_opt,
    "mtp": make_mtp,
    "sllm": make_sllm,
    "energy": lambda: make_sllm(vae=dict(latent="gaussian"), next_vector="energy"),
}


@pytest.fixture(scope="module")
def places():
    processor = make_processor()
    return find_places(processor, [e.sentences() for e in processor.encode_batch(TEXTS)], 6, 24, 4)


def test_a_place_is_where_the_text_before_says_that_a_sentence_begins(places):
    processor = make_processor()
    assert {place.document for place in places} == {0, 1}
    for place in places:
        before = [i for sentence in place.before for i in sentence]
        assert len(before) <= 24 + 12
        text = processor.decode(before + [i for i in place.after if i != ENDED])
        assert text in TEXTS[place.document]
        assert processor.split_open_end(place.before)[1] == []
    with pytest.raises(ValueError, match="give longer texts"):
        find_places(processor, [[[40, 41]]], 6, 24, 4)


def test_the_end_of_a_text_is_part_of_what_it_says():
    processor = make_processor()
    documents = [processor.encode("No. Yes.").sentences()]
    (place,) = find_places(processor, documents, 6, 24, 9)
    assert place.after == documents[0][1] + [ENDED] * (9 - len(documents[0][1]))
    assert copy_last([place], 5, []) == [(documents[0][0] * 5)[:5]]


@pytest.mark.parametrize("name", MODELS)
def test_draws_belong_to_their_seeds_not_to_what_stands_beside(name, places):
    model = MODELS[name]()
    draw = sampler_of(loaded_as(model), 1.0)
    seeds = [(5, number) for number in range(len(places))]
    together = draw(places, 4, seeds)
    assert {len(ids) for ids in together} == {4}
    assert together == [draw([place], 4, [seed])[0] for place, seed in zip(places, seeds, strict=True)]
    assert together != draw(places, 4, [(6, number) for number in range(len(places))])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="predicts no text"):
        sampler_of(loaded_as(make_vae()), 1.0)
    others = [loaded_as(make_sllm()), loaded_as(make_sllm())]
    check_tokenizers(others)


@pytest.mark.parametrize("ends", [True, False])
def test_a_model_with_a_window_is_judged_as_it_writes(ends):
    processor, text = make_processor(), "One, two. Three! Yes, five: six. And"
    whole = loaded_as(make_lm("llama", max_position_embeddings=128))
    kept = keeping(whole, KeptWindow(2, processor if ends else None))
    sentences = processor.encode(text).sentences()
    places = [Place(0, sentences, [1] * 8), Place(0, sentences[:2], [1] * 8)]
    seeds = [(0, 0), (0, 1)]
    drawn = sampler_of(kept, 1e-6)(places, 8, seeds)
    assert drawn != sampler_of(whole, 1e-6)(places, 8, seeds)
    assert drawn[1] == sampler_of(kept, 1e-6)(places[1:], 8, seeds[1:])[0]
    written = kept.write(text, Writing(8, settings=dict(do_sample=False))).text
    cut = "\N{REPLACEMENT CHARACTER}"  # what ends within a character is shown otherwise
    assert processor.decode([i for i in drawn[0] if i != ENDED]).rstrip(cut) == written.rstrip(cut) != ""
