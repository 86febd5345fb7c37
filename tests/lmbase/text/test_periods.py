"""What a period ends: not a number in mid-sentence, not an abbreviation, not a name."""

import pytest
from cutting import assert_cut

from lmbase.text.periods import is_ellipsis, is_left_out_space, next_word

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")


@pytest.mark.parametrize("rule", ["punctuation", "sentence"])
@pytest.mark.parametrize(
    "marked",
    [
        "Das hatte er am 1. Februar 1916 geschrieben.| Der 1. FC Köln spielt.",
        "Im 19. Jahrhundert war es so.| Wilhelm II. floh am 1. 5. 1918.| Ende.",
        "Es war 1904.| Er kam mit 14.| Dann ging er.| Then I was 12.| Tom was 9.",
        "Stalo se to 1. května 1938.| Pršelo.",
    ],
)
def test_C1_ordinal_numbers_and_years(marked: str, rule: str) -> None:
    assert_cut(marked, rule)


@pytest.mark.parametrize("rule", ["punctuation", "sentence"])
@pytest.mark.parametrize(
    "marked",
    [
        "Er kam z. B. mit Igeln bzw. Katzen,| u. a. Köln,| d. h. am Montag,| ca. 80 Meter weit.| Ende.",
        "Anna,| geb. Schmidt,| siehe Abb. 4 auf S. 17.| Das war 300 v. Chr. so.| Ende.",
        "Vive en EE. UU. en la Avda. América.| Fin.",
        "Le livre (2e éd. revue) est au 12,| av. Foch.| Fin.",
        "डॉ. शर्मा आए।| वे बैठे।",
        "Think (Phil. 4:8).| Like Matt. 5:9 or not.| End.",
        "The F.B.I. James knew.| In the U.S.| He left at 9 a.m. Monday.| We sold rugs,| etc.| Then we left.",
        "Он жил в г. Москве на ул. Садовой.| Дом 1904 г. постройки.| Конец.",
        "Get vitamin C.| The integer n.| Then J.-P. Sand and M. Quinn.| End.",
        "It was late.|The train uses asyncio.Future and copy.Error in a.The",
    ],
)
def test_C5_abbreviations_of_many_languages(marked: str, rule: str) -> None:
    cut = marked if rule == "punctuation" else marked.replace(",|", ",")
    assert_cut(cut, rule)


@pytest.mark.parametrize(
    ("text", "end", "found"),
    [("So... and", 5, True), ("So . . . and", 4, True), ("So… and", 3, True), ("So. And", 3, False), ("So.", 3, False)],
)
def test_an_ellipsis_is_more_than_a_period(text: str, end: int, found: bool) -> None:
    period = next(i for i, character in enumerate(text) if character in ".…")
    assert is_ellipsis(text, period, end) is found


def test_a_space_is_left_out_only_before_a_word_that_begins_sentences() -> None:
    assert is_left_out_space("late.The train", 5)
    assert not is_left_out_space("asyncio.Future", 8)
    assert next_word("late. “The train", 5) == "The"
