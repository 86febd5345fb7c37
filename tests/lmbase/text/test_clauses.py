"""Rule `punctuation`: cuts where a reader would."""

import pytest
from cutting import assert_cut


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
