"""Learned cuts as good as any, and texts to cut."""

import numpy as np
from hypothesis import strategies as st

from lmbase.text.learned import MOST_AGE, PRIOR, VERSION, LearnedCuts
from lmbase.text.places import CLASSES, TABLE

RNG = np.random.default_rng(0)
PARAMETERS = LearnedCuts(  # as good as any for what holds of all
    RNG.integers(-300, 300, TABLE).astype(np.int16),
    np.linspace(500, 0, MOST_AGE).astype(np.int32),
    np.sort(RNG.integers(-900, 900, PRIOR)).astype(np.int32),
    [16] * len(CLASSES),
    PRIOR * 64,
    6.0,
    1.5,
    24,
    version=VERSION,
).parameters()
UNITS = "word|Word|, |. | |\n|3.14|1,000|(x|)|你好|。|สวัส|don't|e\u0301|\ud800|😀|\u2019s|a_b|\r\n|,".split("|")  # noqa: SIM905
texts = st.lists(st.sampled_from(UNITS), max_size=60).map("".join) | st.text(max_size=40)
LONG = "".join(RNG.choice(UNITS, 2500))  # several blocks
