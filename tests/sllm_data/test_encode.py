"""Documents become rows; what has no ids is left out, with its reason."""

from tokenizers import models

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.encode import Chunk, Statistics, encode_chunk, encode_in_order
from sllm_data.readers import Document


def processor_without(character: str) -> SentenceProcessor:
    """Bytes, but for one that the vocabulary lacks."""
    tokenizer = load_tokenizer("bytes")
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if token != character}
    tokenizer.backend_tokenizer.model = models.BPE(vocab=vocabulary, merges=[])
    return SentenceProcessor(tokenizer, "punctuation")


def test_what_has_no_ids_is_left_out_and_told() -> None:
    texts = {"a": "One. Two.", "b": "", "c": "\ud800", "d": "With an x.", "e": "Three."}
    chunk = encode_chunk(processor_without("x"), [Document(text, name) for name, text in texts.items()])
    assert chunk.batch["name"].to_pylist() == ["a", "e"]
    assert [(skip.name, skip.reason) for skip in chunk.skips] == [
        ("b", "empty document"),
        ("c", "lone surrogate"),
        ("d", "no tokens for a character"),
    ]
    assert (chunk.statistics.documents, chunk.statistics.sentences, chunk.statistics.bytes) == (2, 3, 15)
    assert chunk.batch["sentence_lengths"].to_pylist() == [[4, 5], [6]]


def test_statistics_of_disjoint_parts_add_up() -> None:
    processor = processor_without("x")
    documents = [Document("One. Two.", "a"), Document("Three, four.\n", "b")]
    total = Statistics()
    for document in documents:
        total.add(encode_chunk(processor, [document]).statistics)
    whole = encode_chunk(processor, documents).statistics
    # the ratio of tokens is measured on the first document of each chunk
    for name in ("documents", "bytes", "sentences", "tokens", "tokens_per_sentence", "rules"):
        assert getattr(total, name) == getattr(whole, name)


def test_a_short_stream_is_encoded_in_order_without_workers() -> None:
    chunks = [Chunk([Document("One.", str(i))], "train", 0, False, False, i, "") for i in range(3)]
    done = list(encode_in_order(chunks, processor_without("x"), num_workers=8))
    assert [chunk.documents_read for chunk, _ in done] == [0, 1, 2]
    assert [encoded.batch["name"].to_pylist() for _, encoded in done] == [["0"], ["1"], ["2"]]
