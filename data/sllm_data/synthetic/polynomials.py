"""Polynomial arithmetic over F7[X]/(X^5): nested expressions and their exact results (arXiv 2404.19737, section 4.2).

A polynomial is its five coefficients, the constant one first; an expression is written operation first, so that it
needs no brackets:

    mul 1 0 3 0 0 neg 0 1 0 0 0 = 0 6 0 4 0        (1 + 3X^2) * -X = 6X + 4X^3

B rows, L tokens of a row.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import SPECIAL_TOKENS

Batch = dict[str, Tensor]
Polynomial = tuple[int, ...]  # NUM_COEFFICIENTS numbers of 0 .. MODULUS - 1, the constant one first
SPLITS = ("train", "test")
MODULUS, NUM_COEFFICIENTS = 7, 5


def neg(f: Polynomial) -> Polynomial:
    return tuple(-a % MODULUS for a in f)


def add(f: Polynomial, g: Polynomial) -> Polynomial:
    return tuple((a + b) % MODULUS for a, b in zip(f, g, strict=True))


def mul(f: Polynomial, g: Polynomial) -> Polynomial:
    """The product, from X^5 on cut off."""
    return tuple(sum(f[i] * g[k - i] for i in range(k + 1)) % MODULUS for k in range(NUM_COEFFICIENTS))


def compose(f: Polynomial, g: Polynomial) -> Polynomial:
    """f(g(X)), by Horner's rule.

    What f stands for is a polynomial of degree 4 at most, not a class modulo X^5: with a constant term in g, g^5 is not
    0. So sums may be composed term by term, but products only where g has no constant term.
    """
    result: Polynomial = (0,) * NUM_COEFFICIENTS
    for coefficient in reversed(f):
        result = mul(result, g)
        result = ((result[0] + coefficient) % MODULUS, *result[1:])
    return result


UNARY: dict[str, Callable[[Polynomial], Polynomial]] = {"neg": neg}
BINARY: dict[str, Callable[[Polynomial, Polynomial], Polynomial]] = {"add": add, "mul": mul, "compose": compose}
OPERATIONS = (*UNARY, *BINARY)
VOCABULARY = (*SPECIAL_TOKENS, *map(str, range(MODULUS)), *OPERATIONS, "=")  # token id -> word; first OPT's four
PAD, END = SPECIAL_TOKENS.index("<pad>"), SPECIAL_TOKENS.index("</s>")
FIRST_DIGIT = len(SPECIAL_TOKENS)
_IDS = {word: i for i, word in enumerate(VOCABULARY)}


def max_tokens(num_operations: int) -> int:
    """Of a sample with so many operations: each adds an operand at most."""
    return (num_operations + 1) * NUM_COEFFICIENTS + num_operations + 1 + NUM_COEFFICIENTS


def random_expression(draw: np.random.Generator, num_operations: int) -> tuple[list[int], Polynomial]:
    """Token ids and value of an expression: operations and coefficients uniform, the operations left over after each
    binary one split uniformly between its two sides."""
    if num_operations == 0:
        f = tuple(draw.integers(MODULUS, size=NUM_COEFFICIENTS).tolist())
        return [FIRST_DIGIT + a for a in f], f
    name = OPERATIONS[draw.integers(len(OPERATIONS))]
    if name in UNARY:
        ids, f = random_expression(draw, num_operations - 1)
        return [_IDS[name], *ids], UNARY[name](f)
    num_left = int(draw.integers(num_operations))
    left, f = random_expression(draw, num_left)
    right, g = random_expression(draw, num_operations - 1 - num_left)
    return [_IDS[name], *left, *right], BINARY[name](f, g)


class PolynomialRows:
    """Training or test items: row i is a function of (split, seed, i), so that nothing needs to be stored.

    In training a row holds several samples with </s> between them, as texts are packed, so that every position up to
    about three times the longest sample's has been trained when longer expressions are tested. Short expressions repeat
    between the splits (there are only 7^5 negations), as they do in any uniform draw.

    All of a row is predicted, expressions too, as published models are trained: an expression's coefficients are
    random and cannot be learnt, which adds a constant to the loss, the same one for each number of heads.

    Args:
        split: `train` and `test` never share random numbers, whatever their seeds are.
        num_items: how many rows there are.
        operations: the fewest and the most operations of an expression; their number is uniform in between.
        samples_per_row: 3 to train, 1 to test.

    Raises:
        ValueError: fewest above most, or fewer than one.
    """

    def __init__(
        self,
        split: Literal["train", "test"],
        seed: int,
        num_items: int,
        operations: tuple[int, int],
        samples_per_row: int = 3,
    ):
        fewest, most = operations
        if not 1 <= fewest <= most:
            raise ValueError(f"operations={list(operations)}: give the fewest, 1 or more, and the most of them.")
        self.split, self.seed, self.num_items = split, seed, num_items
        self.operations, self.samples_per_row = operations, samples_per_row

    def __len__(self) -> int:
        return self.num_items

    def row(self, index: int) -> tuple[list[int], list[int]]:
        """Token ids of a row, and the positions among them of its results."""
        draw = np.random.default_rng([SPLITS.index(self.split), self.seed, index])
        ids: list[int] = []
        answers: list[int] = []
        for number in range(self.samples_per_row):
            fewest, most = self.operations
            expression, value = random_expression(draw, int(draw.integers(fewest, most + 1)))
            ids += [*([END] if number else []), *expression, _IDS["="], *(FIRST_DIGIT + a for a in value)]
            answers += range(len(ids) - NUM_COEFFICIENTS, len(ids))
        return ids, answers

    @property
    def max_tokens(self) -> int:
        return self.samples_per_row * (max_tokens(self.operations[1]) + 1) - 1

    def batch(self, indices: np.ndarray) -> Batch:
        """input_ids and attention_mask (B, L), ends (B,): every row ends with a result."""
        input_ids, attention_mask = pad_tokens([self.row(int(i))[0] for i in indices], PAD)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "ends": torch.ones(len(indices), dtype=torch.bool),
        }

    def answers(self, indices: np.ndarray) -> Tensor:
        """(B, L) True on the coefficients of results; as wide as `batch` of the same indices."""
        rows = [self.row(int(i)) for i in indices]
        mask = torch.zeros(len(rows), max(len(ids) for ids, _ in rows), dtype=torch.bool)
        for row, (_, positions) in enumerate(rows):
            mask[row, positions] = True
        return mask


def decode(ids: list[int]) -> str:
    """A row as people read it, polynomials in brackets: `neg (0 1 0 0 0) = (0 6 0 0 0)`. Padding is left out."""
    words: list[str] = []
    digits = 0  # of the polynomial that is open
    for i in ids:
        if i == PAD:
            continue
        is_digit = FIRST_DIGIT <= i < FIRST_DIGIT + MODULUS
        if is_digit and 0 < digits < NUM_COEFFICIENTS:
            words[-1] += f" {VOCABULARY[i]}"
            digits += 1
        else:
            words.append(VOCABULARY[i])
            digits = int(is_digit)
        if digits == NUM_COEFFICIENTS:
            words[-1] = f"({words[-1]})"
            digits = 0
    return " ".join(words).replace(" </s> ", "; ")
