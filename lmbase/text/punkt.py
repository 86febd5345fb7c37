"""Punkt, NLTK's unsupervised sentence boundary detector (Kiss and Strunk 2006), with its parameters as plain JSON.

NLTK reads models only from its own data folders, so parameters that were learned from a train split travel as a dict of
lists beside the data, and the tokenizer is built from them in code.
"""

import warnings
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

# Dotted abbreviations that Punkt's defaults lack; it writes all types in lower case and without the last period.
DOTTED = frozenset(
    {"e.g", "i.e", "a.m", "p.m", "u.s", "u.k", "u.s.a", "d.c", "b.c", "a.d", "ph.d", "m.d", "z.b", "d.h"}
)
TRAINING_LINE = 10_000  # characters: NLTK gives up on a line that takes its pattern more than five seconds
KEYS = ("abbrev_types", "collocations", "ortho_context", "sent_starters")


class PunktModel:
    """Punkt's decision whether a period ends a sentence."""

    def __init__(self, parameters: Any) -> None:  # nltk.tokenize.punkt.PunktParameters
        from nltk.tokenize.punkt import PunktSentenceTokenizer

        tokenizer = PunktSentenceTokenizer(parameters)
        self._ask = lru_cache(maxsize=100_000)(tokenizer.text_contains_sentbreak)
        self._special = parameters.abbrev_types | {first for first, _ in parameters.collocations}

    def sentence_ends(self, word: str, next_word: str) -> bool:
        """`word` ends with its period or periods; `next_word` is what follows the white space."""
        plain = word[:-1].lower()
        # Punkt's own answer, without the price of asking: only abbreviations, collocations, initials, numbers and
        # ellipses can be anything but the end of a sentence.
        if len(plain) > 1 and plain.isalpha() and plain not in self._special:
            return True
        return self._ask(f"{word} {next_word}")


def load_punkt(punkt: dict | None, abbreviations: Iterable[str]) -> PunktModel:
    """The model of the given parameters; without any NLTK's English one, else Punkt's defaults and `abbreviations`."""
    if punkt is None:
        return _default_model(frozenset(a.lower() for a in abbreviations))
    # One entry is enough: a run has one set of parameters. Building a model takes longer than cutting a short document.
    global _latest
    if _latest is None or _latest[0] is not punkt:
        _latest = (punkt, PunktModel(_from_json(punkt)))
    return _latest[1]


_latest: tuple[dict, PunktModel] | None = None


@cache
def _default_model(abbreviations: frozenset[str]) -> PunktModel:
    from nltk.tokenize.punkt import PunktParameters, PunktTokenizer

    try:
        return PunktModel(PunktTokenizer("english")._params)
    except LookupError:
        warnings.warn(
            "rule 'sentence' found no Punkt model: Punkt's defaults and a list of common abbreviations are used. "
            "Learn parameters with lmbase.text.learn_parameters, or install NLTK's data package punkt_tab.",
            stacklevel=5,
        )
    parameters = PunktParameters()
    parameters.abbrev_types = set(abbreviations | DOTTED)
    return PunktModel(parameters)


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
