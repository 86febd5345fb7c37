"""The texts that are evaluated, and what names them."""

import hashlib
import json

import pytest
from families import loaded_as, make_lm

from sllm.evaluation.texts import make_texts, read_texts


def test_the_first_documents_of_a_split_and_their_hash(tmp_path):
    lines = [json.dumps({"text": text}) for text in ("One.", "Two.", "Three.")]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    texts, corpus = read_texts(str(tmp_path / "test.jsonl"), "test", "text", 2)
    assert texts == ["One.", "Two."]
    assert corpus["sha256"] == hashlib.sha256(b"One.\0Two.\0").hexdigest()


def test_empty_texts_are_left_out_and_tokens_are_the_baselines():
    data = make_texts(["", "abc", "de"], "some", loaded_as(make_lm()))
    assert (data.texts, data.num_baseline_tokens, data.baseline_window) == (["abc", "de"], 5, 63)
    with pytest.raises(ValueError, match="the split is empty"):
        make_texts([""], "some", loaded_as(make_lm()))
