"""Punkt: our shortcut answers as NLTK does, training survives poor texts, a missing model is said once."""

import warnings

import pytest

from lmbase.text import punkt, segment, train_punkt

TRAINING = ["The Xyzq. Smith came. The dog ran. A Xyzq. Jones left. We saw Xyzq. Brown. It was late. They left."] * 20


def test_punkt_shortcut_answers_as_punkt_does() -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    parameters = punkt._from_json(train_punkt(TRAINING))
    model, whole = punkt.PunktModel(parameters), PunktSentenceTokenizer(parameters)
    for word in ("came.", "Xyzq.", "I.", "3.", "well...", "non-Xyzq.", "é.", "Straße."):
        for following in ("The", "the", "Smith", "5", "dog", "“"):
            assert model.sentence_ends(word, following) == whole.text_contains_sentbreak(f"{word} {following}")


@pytest.mark.parametrize("texts", [[], [""], ["\ud800 \x00"], ["x" * 100_000 + "."]])
def test_training_punkt_on_next_to_nothing(texts: list[str]) -> None:
    assert segment("He left. She stayed.", "sentence", punkt=train_punkt(texts)) == ["He left.", " She stayed."]


def test_missing_model_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(language: str) -> None:
        raise LookupError(language)

    monkeypatch.setattr("nltk.tokenize.punkt.PunktTokenizer", absent)
    punkt._default_model.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            segment("Mr. Smith left. He ran.", "sentence")
    assert len([w for w in caught if "found no Punkt model" in str(w.message)]) == 1
    punkt._default_model.cache_clear()
