"""Punkt, NLTK's unsupervised sentence boundary detector (Kiss and Strunk 2006), with its parameters as plain JSON.

NLTK reads models only from its own data folders, so parameters that were learned from a train split travel as a dict of
lists beside the data, and the tokenizer is built from them in code.
"""

import warnings
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

TRAINING_LINE = 10_000  # characters: NLTK gives up on a line that takes its pattern more than five seconds
KEYS = ("abbrev_types", "collocations", "ortho_context", "sent_starters")


class PunktModel:
    """Punkt's decision whether a period ends a sentence."""

    def __init__(self, parameters: Any) -> None:  # nltk.tokenize.punkt.PunktParameters
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        tokenizer = PunktSentenceTokenizer(parameters)
        self._ask = lru_cache(maxsize=100_000)(tokenizer.text_contains_sentbreak)
        self._special = parameters.abbrev_types | {first for first, _ in parameters.collocations}

    def may_know(self, word: str) -> bool:
        """Can a period behind this word be anything but the end of a sentence to Punkt? Only behind abbreviations,
        collocations, initials and numbers."""
        return len(word) < 2 or not word.isalpha() or word.lower() in self._special

    def sentence_ends(self, word: str, next_word: str) -> bool:
        """`word` ends with its period or periods; `next_word` is what follows the white space."""
        return not self.may_know(word[:-1]) or self._ask(f"{word} {next_word}")


def load_punkt(punkt: dict | None) -> PunktModel:
    """The model of the given parameters; without any NLTK's English one, else one that has learned nothing."""
    if punkt is None:
        return _default_model()
    # One entry is enough: a run has one set of parameters. Building a model takes longer than cutting a short document.
    global _latest
    if _latest is None or _latest[0] is not punkt:
        _latest = (punkt, PunktModel(_from_json(punkt)))
    return _latest[1]


_latest: tuple[dict, PunktModel] | None = None


@cache
def _default_model() -> PunktModel:
    from nltk.tokenize.punkt import PunktParameters, PunktTokenizer

    try:
        return PunktModel(PunktTokenizer("english")._params)
    except LookupError:
        warnings.warn(
            "rule 'sentence' found no Punkt model: only a list of common abbreviations is used. "
            "Learn parameters with lmbase.text.learn_parameters, or install NLTK's data package punkt_tab.",
            stacklevel=5,
        )
    return PunktModel(PunktParameters())


def _from_json(punkt: dict) -> Any:
    from nltk.tokenize.punkt import PunktParameters

    parameters = PunktParameters()
    try:
        if sorted(punkt) != sorted(KEYS):
            raise KeyError(f"keys {sorted(punkt)}")
        parameters.abbrev_types = set(punkt["abbrev_types"])
        parameters.sent_starters = set(punkt["sent_starters"])
        parameters.collocations = {(first, second) for first, second in punkt["collocations"]}
        parameters.ortho_context.update({word: int(flags) for word, flags in punkt["ortho_context"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"these are no Punkt parameters ({error}): expected the keys {', '.join(KEYS)} as train_punkt writes them; "
            "train again"
        ) from error
    return parameters


def train_punkt(texts: Iterable[str]) -> dict:
    """Learn Punkt parameters, from the train split only.

    Returns a dict of JSON values for ``segment(..., punkt=)``: abbreviations, collocations across a period, frequent
    first words of sentences, and for each word seen twice the contexts (bit flags) in which it stood capitalised or
    not.
    """
    from nltk.tokenize.punkt import PunktTrainer

    trainer = PunktTrainer()
    for text in texts:
        lines = text.split("\n")
        short = (line[i : i + TRAINING_LINE] for line in lines for i in range(0, len(line) or 1, TRAINING_LINE))
        trainer.train("\n".join(short), finalize=False)
    trainer.freq_threshold()
    learned = trainer.get_params()
    return {
        "abbrev_types": sorted(learned.abbrev_types),
        "collocations": sorted(map(list, learned.collocations)),
        "ortho_context": dict(sorted(learned.ortho_context.items())),
        "sent_starters": sorted(learned.sent_starters),
    }
