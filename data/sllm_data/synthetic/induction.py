"""Induction: short stories whose names are two random tokens, so that a name's second half must be looked up.

After arXiv 2404.19737, section 4.1: who has read "Mi" + "zo" once can tell after the next "Mi" that "zo" follows, and
nobody can tell it before. In each story no name shares a token with another, so the answer is exact.

B stories, L tokens of a story.
"""

import re
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import SPECIAL_TOKENS

Batch = dict[str, Tensor]
PAD = SPECIAL_TOKENS.index("<pad>")
SPLITS = ("train", "test")

# Halves of names: 40 beginnings and 40 endings.
BEGINNINGS = tuple(consonant + vowel for consonant in "bdfklmrt" for vowel in "aeiou")
ENDS = tuple(consonant + vowel + "n" for consonant in "bdfklmrt" for vowel in "aeiou")
FEWEST_PEOPLE, MOST_PEOPLE = 3, 4  # in a story
FEWEST_EVENTS, MOST_EVENTS = 3, 6  # sentences between opening and ending

# {p} and {q} are two of the story's people, drawn for each sentence; {thing} and {place} stay the same throughout a
# story; the other words are drawn where they stand.
OPENINGS = (
    "once upon a time , a {mood} child named {p} lived near the {place} .",
    "one {weather} day , {p} went to the {place} with a friend named {q} .",
    "there was a {size} {animal} named {p} who loved the {place} .",
    "long ago , {p} and {q} lived in a {size} house by the {place} .",
    "it was a {weather} day , and {p} wanted to play with {q} .",
)
EVENTS = (
    "{p} saw a {color} {thing} and showed it to {q} .",
    "{p} was very {mood} .",
    '" can i have the {thing} ? " asked {p} .',
    '" yes , you can , " said {p} to {q} .',
    '" look at the {color} {thing} ! " said {p} .',
    "then {p} gave the {thing} to {q} .",
    "{p} and {q} ran to the {place} .",
    "{p} ate some {food} and gave the rest to {q} .",
    "but {p} did not want to share the {food} with {q} .",
    "{q} looked at {p} and felt {mood} .",
    "a {size} {animal} came and took the {thing} from {p} .",
    "{p} hid the {thing} under a {size} {color} box .",
    "{p} asked {q} for help .",
    "so {p} called the {animal} and waited .",
    "the {animal} was {mood} , and {p} laughed .",
    "{p} told {q} about the {place} .",
    "after that , {p} found {q} at the {place} .",
    "{p} fell down , and {q} helped {p} to stand up .",
)
ENDINGS = (
    "in the end , {p} and {q} were good friends .",
    "{p} thanked {q} and went home with the {thing} .",
    "from that day on , {p} never lost the {thing} again .",
    "{p} hugged {q} , and they all went to sleep .",
    "and {p} was {mood} again .",
)
WORDS = {
    "mood": ("happy", "sad", "angry", "tired", "brave", "shy", "proud", "kind", "scared", "curious"),
    "weather": ("sunny", "rainy", "cold", "windy", "warm", "foggy"),
    "size": ("big", "small", "tiny", "huge", "tall", "old"),
    "color": ("red", "blue", "green", "yellow", "white", "black", "pink"),
    "animal": ("dog", "cat", "bear", "frog", "bird", "fox", "mouse", "horse", "duck", "rabbit"),
    "food": ("cake", "bread", "soup", "apples", "berries", "cheese", "honey", "nuts"),
    "thing": ("ball", "kite", "drum", "book", "hat", "boat", "shell", "lamp", "key", "coat", "bell", "doll"),
    "place": ("park", "lake", "forest", "beach", "garden", "hill", "river", "farm", "market", "bridge"),
}
LASTING = ("thing", "place")


def _vocabulary() -> tuple[str, ...]:
    templates = [word for text in (*OPENINGS, *EVENTS, *ENDINGS) for word in text.split() if not word.startswith("{")]
    drawn = [word for words in WORDS.values() for word in words]
    return (*SPECIAL_TOKENS, *BEGINNINGS, *ENDS, *dict.fromkeys([*templates, *drawn]))


VOCABULARY = _vocabulary()  # token id -> word; the first four are OPT's
FIRST_BEGINNING = len(SPECIAL_TOKENS)
FIRST_END = FIRST_BEGINNING + len(BEGINNINGS)
FIRST_WORD = FIRST_END + len(ENDS)
_IDS = {word: i for i, word in enumerate(VOCABULARY) if i >= FIRST_WORD}
_IDS_OF = {kind: np.array([_IDS[word] for word in words]) for kind, words in WORDS.items()}
# A template as ids, where a slot to be filled is its name.
_Template = tuple[int | str, ...]


def _compiled(templates: tuple[str, ...]) -> tuple[_Template, ...]:
    return tuple(tuple(word[1:-1] if word[0] == "{" else _IDS[word] for word in text.split()) for text in templates)


_OPENINGS, _EVENTS, _ENDINGS = map(_compiled, (OPENINGS, EVENTS, ENDINGS))


def _longest(templates: tuple[_Template, ...]) -> int:
    return max(sum(2 if slot in ("p", "q") else 1 for slot in template) for template in templates)


MAX_TOKENS = _longest(_OPENINGS) + MOST_EVENTS * _longest(_EVENTS) + _longest(_ENDINGS)


class InductionStories:
    """Training or test items: story i is a function of (split, seed, i), so that nothing needs to be stored.

    Args:
        split: `train` and `test` never share a story's random numbers, whatever their seeds are.
        num_items: how many stories there are.
        random_names: share of the stories whose names are random. In the others each beginning has one end, so that
            names can be known by heart: a text that does not enforce induction, like real stories.

    Raises:
        ValueError: a share outside 0..1.
    """

    def __init__(self, split: Literal["train", "test"], seed: int, num_items: int, random_names: float = 1.0):
        if not 0 <= random_names <= 1:
            raise ValueError(f"random_names={random_names}: it is a share of the stories, from 0 to 1.")
        self.split, self.seed, self.num_items, self.random_names = split, seed, num_items, random_names

    def __len__(self) -> int:
        return self.num_items

    def story(self, index: int) -> tuple[list[int], list[int]]:
        """Token ids of a story, and the positions among them that can be told from earlier ones: second halves of
        names that occurred before."""
        draw = np.random.default_rng([SPLITS.index(self.split), self.seed, index])
        names = self._names(draw)
        lasting = {kind: int(draw.choice(_IDS_OF[kind])) for kind in LASTING}
        events = draw.integers(len(_EVENTS), size=draw.integers(FEWEST_EVENTS, MOST_EVENTS + 1))
        parts = [_OPENINGS[draw.integers(len(_OPENINGS))], *(_EVENTS[i] for i in events)]
        ids: list[int] = []
        answers: list[int] = []
        mentioned: set[int] = set()
        for template in (*parts, _ENDINGS[draw.integers(len(_ENDINGS))]):
            p, q = draw.permutation(len(names))[:2]
            for slot in template:
                if isinstance(slot, int):
                    ids.append(slot)
                elif slot in ("p", "q"):
                    person = int(p if slot == "p" else q)
                    if person in mentioned:
                        answers.append(len(ids) + 1)
                    mentioned.add(person)
                    ids += names[person]
                else:
                    ids.append(lasting[slot] if slot in lasting else int(draw.choice(_IDS_OF[slot])))
        return ids, answers

    def _names(self, draw: np.random.Generator) -> list[list[int]]:
        """The two tokens of each person's name; no token twice in a story."""
        num_people = int(draw.integers(FEWEST_PEOPLE, MOST_PEOPLE + 1))
        first = draw.permutation(len(BEGINNINGS))[:num_people]
        second = draw.permutation(len(ENDS))[:num_people] if draw.random() < self.random_names else first
        return np.stack([FIRST_BEGINNING + first, FIRST_END + second], axis=1).tolist()

    def batch(self, indices: np.ndarray) -> Batch:
        """input_ids and attention_mask (B, L), ends (B,): every item is a whole story."""
        input_ids, attention_mask = pad_tokens([self.story(int(i))[0] for i in indices], PAD)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "ends": torch.ones(len(indices), dtype=torch.bool),
        }

    def answers(self, indices: np.ndarray) -> Tensor:
        """(B, L) True on the tokens that can be told; as wide as `batch` of the same indices."""
        stories = [self.story(int(i)) for i in indices]
        mask = torch.zeros(len(stories), max(len(ids) for ids, _ in stories), dtype=torch.bool)
        for row, (_, positions) in enumerate(stories):
            mask[row, positions] = True
        return mask


def decode(ids: list[int]) -> str:
    """A story as people read it: names in one word, no blank before a full stop. Padding is left out."""
    words: list[str] = []
    for i in ids:
        if i in (PAD, SPECIAL_TOKENS.index("</s>")):
            continue
        if FIRST_END <= i < FIRST_WORD and words:
            words[-1] += VOCABULARY[i]
        else:
            words.append(VOCABULARY[i].capitalize() if FIRST_BEGINNING <= i < FIRST_END else VOCABULARY[i])
    text = re.sub(r" ([.,?!])", r"\1", " ".join(words))
    text = re.sub(r'" (.*?) "', r'"\1"', text)
    return re.sub(r"(^|[.?!] )(\"?)([a-z])", lambda match: match[1] + match[2] + match[3].upper(), text)
