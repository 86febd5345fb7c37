"""The ring F7[X]/(X^5), checked by its laws and against whole numbers, and the samples made of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbase.text.tokenizers import SPECIAL_TOKENS
from lmbase.training.batches import count_tokens
from sllm_data.synthetic import polynomials
from sllm_data.synthetic.polynomials import PAD, VOCABULARY, PolynomialRows, add, compose, decode, mul, neg

POLYNOMIALS = st.tuples(*[st.integers(0, 6)] * 5)
WITHOUT_CONSTANT = st.tuples(st.just(0), *[st.integers(0, 6)] * 4)
ZERO, ONE, X = (0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0)
NUM = 100


@given(POLYNOMIALS, POLYNOMIALS, POLYNOMIALS)
def test_the_laws_of_a_commutative_ring(f, g, h):
    assert add(f, g) == add(g, f)
    assert mul(f, g) == mul(g, f)
    assert add(add(f, g), h) == add(f, add(g, h))
    assert mul(mul(f, g), h) == mul(f, mul(g, h))
    assert mul(f, add(g, h)) == add(mul(f, g), mul(f, h))
    assert add(f, ZERO) == mul(f, ONE) == f
    assert add(f, neg(f)) == mul(f, ZERO) == ZERO
    assert neg(neg(f)) == f


@given(POLYNOMIALS, POLYNOMIALS, POLYNOMIALS)
def test_the_laws_of_composition(f, g, h):
    assert compose(f, X) == f
    assert compose(X, g) == g
    assert compose((*f[:1], 0, 0, 0, 0), g) == (f[0], 0, 0, 0, 0)
    assert compose(add(f, g), h) == add(compose(f, h), compose(g, h))
    assert compose(neg(f), g) == neg(compose(f, g))


@given(POLYNOMIALS, POLYNOMIALS, WITHOUT_CONSTANT)
def test_without_a_constant_term_composition_is_a_map_of_rings_and_associative(f, g, h):
    assert compose(mul(f, g), h) == mul(compose(f, h), compose(g, h))
    assert compose(compose(f, g), h) == compose(f, compose(g, h))


def test_powers_of_x_vanish_from_the_fifth_on():
    power: polynomials.Polynomial = ONE
    for exponent in range(1, 5):
        power = mul(power, X)
        assert power == tuple(int(i == exponent) for i in range(5))
    assert mul(power, X) == ZERO


@given(POLYNOMIALS, POLYNOMIALS)
def test_products_and_compositions_are_those_over_the_integers_cut_off_and_reduced(f, g):
    f_whole, g_whole = np.polynomial.Polynomial(f), np.polynomial.Polynomial(g)
    for whole, own in ((f_whole * g_whole, mul(f, g)), (f_whole(g_whole), compose(f, g))):
        coefficients = [*np.rint(np.atleast_1d(whole.coef)).astype(np.int64), *[0] * 5][:5]
        assert tuple(int(c) % 7 for c in coefficients) == own


def value_of(words):
    """Value of an expression, read by a parser of its own, and the words after it."""
    head, *rest = words
    if head.isdigit():
        return tuple(int(word) for word in words[:5]), words[5:]
    f, rest = value_of(rest)
    if head == "neg":
        return neg(f), rest
    g, rest = value_of(rest)
    return {"add": add, "mul": mul, "compose": compose}[head](f, g), rest


@pytest.mark.parametrize("operations", [(1, 1), (1, 5), (10, 10)])
def test_samples_say_what_their_expressions_are_worth(operations):
    items = PolynomialRows("train", 0, NUM, operations)
    counts = set()
    for i in range(NUM):
        ids, answers = items.row(i)
        samples = " ".join(VOCABULARY[token] for token in ids).split(" </s> ")
        assert len(samples) == 3
        results = []
        for sample in samples:
            expression, result = (side.split() for side in sample.split(" = "))
            counts.add(sum(not word.isdigit() for word in expression))
            assert len(sample.split()) <= polynomials.max_tokens(operations[1])
            value, rest = value_of(expression)
            assert [*map(str, value)] == result
            assert not rest
            results += result
        assert [VOCABULARY[ids[position]] for position in answers] == results
    assert counts == set(range(operations[0], operations[1] + 1))


def test_operations_and_coefficients_are_uniform():
    items = PolynomialRows("train", 0, 400, (1, 1))
    words = [VOCABULARY[token] for i in range(400) for token in items.row(i)[0]]
    for kind in (polynomials.OPERATIONS, map(str, range(7))):
        shares = np.array([words.count(word) for word in kind], dtype=float)
        if len(shares) == 4:
            assert shares / shares.sum() == pytest.approx(np.full(4, 0.25), abs=0.04)
        else:  # zeros are commoner in products of random polynomials
            assert (shares / shares.sum() > 0.11).all()


def test_a_row_is_a_function_of_split_seed_and_index():
    items, again = PolynomialRows("train", 3, NUM, (1, 5)), PolynomialRows("train", 3, 10_000_000, (1, 5))
    rows = [tuple(items.row(i)[0]) for i in range(NUM)]
    assert [tuple(again.row(i)[0]) for i in range(NUM)] == rows
    assert len(set(rows)) == NUM
    for other in (PolynomialRows("test", 3, NUM, (1, 5)), PolynomialRows("train", 4, NUM, (1, 5))):
        assert not {tuple(other.row(i)[0]) for i in range(NUM)} & set(rows)


def test_batches_and_their_answers():
    items, indices = PolynomialRows("test", 0, NUM, (1, 8), samples_per_row=1), np.array([4, 40])
    batch, answers = items.batch(indices), items.answers(indices)
    assert len(items) == NUM
    assert batch["ends"].tolist() == [True, True]
    assert answers.shape == batch["input_ids"].shape
    assert answers.sum(1).tolist() == [5, 5]
    for row, i in enumerate(indices):
        ids, positions = items.row(i)
        assert batch["input_ids"][row][batch["attention_mask"][row]].tolist() == ids
        assert torch.nonzero(answers[row])[:, 0].tolist() == positions == list(range(len(ids) - 5, len(ids)))
    assert count_tokens(batch) == sum(len(items.row(i)[0]) for i in indices)
    assert items.max_tokens == polynomials.max_tokens(8) == 59


@pytest.mark.parametrize("operations", [(0, 3), (3, 2)])
def test_impossible_numbers_of_operations_are_an_error(operations):
    with pytest.raises(ValueError, match="give the fewest, 1 or more, and the most"):
        PolynomialRows("train", 0, 1, operations)


def test_the_vocabulary_has_opt_s_special_ids():
    assert list(VOCABULARY[:4]) == SPECIAL_TOKENS
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 16


def test_people_read_polynomials_in_brackets():
    words = [
        "mul",
        "1",
        "0",
        "3",
        "0",
        "0",
        "neg",
        "0",
        "1",
        "0",
        "0",
        "0",
        "=",
        "0",
        "6",
        "0",
        "4",
        "0",
        "</s>",
        "add",
        "1",
        "2",
        "3",
        "=",
        "4",
    ]
    ids = [VOCABULARY.index(word) for word in words]
    assert decode([*ids, PAD]) == "mul (1 0 3 0 0) neg (0 1 0 0 0) = (0 6 0 4 0); add 1 2 3 = 4"
    assert mul((1, 0, 3, 0, 0), neg(X)) == (0, 6, 0, 4, 0)
