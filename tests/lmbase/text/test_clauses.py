"""Rule `punctuation`: cuts where a reader would."""

import pytest
from cutting import assert_cut

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")


@pytest.mark.parametrize(
    "marked",
    [
        "Well,| he said:| go;| now!| Why?| Because.",
        "It costs 3.14,| or 1,000 at 10:30.| Don't.",
        "See example.com or setup.py.| Then https://a.b/c?d=e,f;g too.",
        "Wait... what?| No… yes . . . no.",
        "J. K. Rowling met Mr. Smith of the U.S. Army,| Ph.D.,| e.g. in St. Ives etc. and left.",
        "So do I.| Then I. K. Brunel came.| Room No. 5?| No.| I am out.",
        "“Yes!”| he said.| ‘No.’| (Really.)| [Truly.]| End.",
        '"Yes!"| he said.| "No,"| she "agreed"| at last.',
        "The “Wild”| was “near”,| he said",
        "„Ja.“| Dann ging er.| « Oui. »| Puis.",
        "你好，|世界。|他说：|“你好。”|然后走了！？|「好。」|对",
        '他说：|"你好。"|然后走了。',
        "价格３．１４元，|１０：３０开始。",
        "مرحبا،| كيف حالك؟| بخير.",
        "नमस्ते।| कैसे हो?",
        "Title|\n\nOne|\r\nTwo.|\n\n  Three|\n",
        "1. Buy milk.|\n2. Sell it.|\nIV. Rest",
        "Hi 😀!| Cafe\u0301,| \ud800 \x00.| ok",
        "etc.,| and so on.",
        "The Dr.|\nSmith",
    ],
)
def test_punctuation(marked: str) -> None:
    assert_cut(marked, "punctuation")


INVISIBLE = [chr(c) for c in (0xAD, 0x34F, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F))]
INVISIBLE += [chr(c) for c in (*range(0x2060, 0x2070), 0xFE0E, 0xFE0F, 0xFEFF, 0xE0001, 0xE007F)]


@pytest.mark.parametrize("rule", ["punctuation", "sentence"])
@pytest.mark.parametrize("character", INVISIBLE, ids=lambda c: f"{ord(c):X}")
def test_C2_invisible_characters_hide_no_mark(character: str, rule: str) -> None:
    for mark in ".!?؟":
        assert_cut(f"Hello{mark}{character}| World{mark}{character * 3}| Yes.", rule)


@pytest.mark.parametrize("rule", ["punctuation", "sentence"])
@pytest.mark.parametrize(
    "marked",
    [
        "Read.[1]| Then.[2][13]| It.[a]| Was.[note 2]| Said.¹²| So.†| End",
        "Great!🎉| Next.👍🏽| One?👩‍🚀🎉| Two.❤️| End",
        "~~No.~~| Then **this.**| And _that!_| `End.`| End",
        "你好。[1]|再见！🎉|好",
        "See a.[1]b and x[1].y or 3.[14]",
    ],
)
def test_C3_what_is_glued_to_a_mark_stays_with_it(marked: str, rule: str) -> None:
    assert_cut(marked, rule)


@pytest.mark.parametrize("rule", ["punctuation", "sentence"])
@pytest.mark.parametrize(
    "marked",
    [
        "ང་བོད་ནས་ཡིན།| ཁྱེད་རང་ག་ནས་ཡིན༎| ང",
        "ᠪᠢ ᠬᠦᠮᠦᠨ᠃| ᠲᠠ ᠪᠠᠢᠨ᠎ᠠ᠃",
        "මම යමි෴| ඔහු යයි෴",
        "မိုးရွာတယ်။|ထီးမပါဘူး။| ဟုတ်တယ်",
        "ខ្ញុំជាសិស្ស។| ចប់ហើយ៕| អរគុណ",
        "ሰላም ነው።| ደህና ነህ፧| እኔ",
        "Բարև։| Ինչպե՞ս ես։| Լավ",
        "वह गया।|मैं रुका॥| बस",
        "Πού πας;| Στο σπίτι.",
    ],
)
def test_C6_marks_of_other_scripts(marked: str, rule: str) -> None:
    assert_cut(marked, rule)


def test_C6_commas_of_other_scripts() -> None:
    for marked in ("ပန်းသီး၊| ငှက်ပျော၊| သရက်။", "ᠨᠠᠷᠠ᠂| ᠰᠠᠷᠠ᠃", "ዳቦ፣| ወተት፤| ስኳር።"):
        assert_cut(marked, "punctuation")
