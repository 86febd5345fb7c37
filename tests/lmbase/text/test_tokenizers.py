"""Tokenizers made here have OPT's special ids; those of others keep theirs, and pad with what they have."""

import copy
import json
import signal
import threading
import time

import pytest
from tokenizers import normalizers, pre_tokenizers
from tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, make_tokenizer
from transformers import GPT2Tokenizer

from lmbase.text.codec import codec_of
from lmbase.text.tokenizers import (
    LONGEST_WORD,
    SPECIAL_TOKENS,
    _without_long_words,
    check_same_tokenizer,
    decode_ids,
    encode_text,
    load_tokenizer,
    opening_id,
    padding_token,
    tokenizer_hash,
    vocabulary_size,
)

TEXTS = ["the cat sat on the mat, and the cat ate the rat."] * 20
TRICKY = "a </s> b <pad><s><unk> \0 naïve 你好 👩‍👧 \r\n\t the cat"


@pytest.fixture(scope="module", params=["bytes", "bpe:270"])
def tokenizer(request):
    return load_tokenizer(request.param, lambda: iter(TEXTS))


def encode(tokenizer, text):
    tokenizer.backend_tokenizer.encode_special_tokens = True
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_special_ids_are_those_of_opt(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == SPECIAL_TOKENS
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2, 2)


def test_sizes():
    assert vocabulary_size(load_tokenizer("bytes")) == 260
    assert vocabulary_size(load_tokenizer("bpe:270", lambda: iter(TEXTS))) == 270


def test_tokens_stand_for_the_bytes_of_the_text(tokenizer):
    ids = encode(tokenizer, TRICKY)
    assert b"".join(codec_of(tokenizer).token_bytes(ids)) == TRICKY.encode()
    assert tokenizer.decode(ids, skip_special_tokens=True) == TRICKY
    assert min(ids) >= len(SPECIAL_TOKENS), "special tokens that are spelled out in a text are text"


def test_bpe_learns_from_the_texts_and_skips_what_is_not_unicode():
    tokenizer = load_tokenizer("bpe:270", lambda: iter([*TEXTS, "broken \ud800 text"]))
    assert tokenizer_hash(tokenizer) == tokenizer_hash(load_tokenizer("bpe:270", lambda: iter(TEXTS)))
    assert len(encode(tokenizer, " the")) == 1


def test_folder_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(str(tmp_path))
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert encode(loaded, TRICKY) == encode(tokenizer, TRICKY)
    check_same_tokenizer(str(tmp_path), tokenizer, "the data", "the model")


@pytest.mark.parametrize("part", ["model", "processor"])
def test_a_run_or_prepared_data_gives_its_tokenizer(part, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / part)
    assert tokenizer_hash(load_tokenizer(str(tmp_path))) == tokenizer_hash(tokenizer)


def test_a_folder_without_a_tokenizer_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(ValueError, match="there is no tokenizer in this folder"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged|JSON"):
        load_tokenizer(str(tmp_path))


def test_another_tokenizer_is_noticed():
    other = load_tokenizer("bpe:270", lambda: iter(["quite another text"] * 20))
    assert tokenizer_hash(other) != tokenizer_hash(load_tokenizer("bpe:270", lambda: iter(TEXTS)))
    with pytest.raises(ValueError, match="the data and of the model differ"):
        check_same_tokenizer("bytes", other, "the data", "the model")


def test_what_stands_around_the_vocabulary_counts(tokenizer, tmp_path):
    def changed(change):
        other = copy.deepcopy(tokenizer)
        change(other)
        return other

    def set_part(name, value):
        return lambda other: setattr(other.backend_tokenizer, name, value)

    others = [
        changed(set_part("normalizer", normalizers.NFC())),
        changed(set_part("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))),
        changed(lambda other: other.add_tokens(["cat"])),
        changed(lambda other: other.add_special_tokens({"sep_token": "<sep>"})),
    ]
    hashes = [tokenizer_hash(t) for t in [tokenizer, *others]]
    assert len(set(hashes)) == len(hashes)
    for i, other in enumerate(others):
        other.save_pretrained(str(tmp_path / str(i)))
        assert tokenizer_hash(load_tokenizer(str(tmp_path / str(i)))) == tokenizer_hash(other)


def test_the_tokenizer_of_opt_keeps_its_hash_when_saved(tokenizer, tmp_path):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = dict(bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>")
    merges: list = [tuple(merge) for merge in model["merges"]]
    opt = GPT2Tokenizer(vocab=model["vocab"], merges=merges, **special)
    opt.save_pretrained(str(tmp_path))
    assert tokenizer_hash(load_tokenizer(str(tmp_path))) == tokenizer_hash(opt) == tokenizer_hash(tokenizer)


@pytest.mark.parametrize("spec", ["bpe:", "bpe:many", "bpe:100", "bpe:-5"])
def test_impossible_sizes_are_refused(spec):
    with pytest.raises(ValueError, match="N at least 260"):
        load_tokenizer(spec, lambda: iter(TEXTS))


def test_bpe_needs_text():
    with pytest.raises(ValueError, match="no training text"):
        load_tokenizer("bpe:270")


PADDING = {
    "gpt2": "<|endoftext|>",
    "llama3": "<|reserved_special_token_0|>",
    "qwen2": "<|endoftext|>",
    "smollm2": "<|im_end|>",
    "llama2": "<unk>",
    "mistral": "<unk>",
    "gemma": "<pad>",
    "unigram": "<unk>",
}


@pytest.mark.parametrize("name", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_a_missing_pad_token_is_one_that_is_there(name, tmp_path):
    made = make_tokenizer(name)
    size, hashed = vocabulary_size(made), tokenizer_hash(made)
    made.save_pretrained(str(tmp_path / "made"))
    loaded = load_tokenizer(str(tmp_path / "made"))
    assert loaded.pad_token == PADDING[name]
    assert (vocabulary_size(loaded), tokenizer_hash(loaded)) == (size, hashed)
    loaded.save_pretrained(str(tmp_path / "saved"))
    again = load_tokenizer(str(tmp_path / "saved"))
    assert (again.pad_token, tokenizer_hash(again)) == (PADDING[name], hashed)
    assert encode_text(again, TRICKY) == encode_text(made, TRICKY)


def test_a_token_named_pad_comes_first():
    tokenizer = make_tokenizer("llama3")
    tokenizer.add_tokens(["<|finetune_right_pad_id|>"], special_tokens=True)
    assert padding_token(tokenizer) == "<|finetune_right_pad_id|>"


def test_what_opens_a_text(tokenizer):
    assert opening_id(tokenizer) == 2  # OPT's end mark
    assert opening_id(make_tokenizer("llama2")) == 1
    without = make_tokenizer("qwen2")
    assert opening_id(without) == without.eos_token_id


def test_a_tokenizer_without_an_end_mark_is_refused(tmp_path):
    tokenizer = make_tokenizer("llama2")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_loses_text_is_refused_when_it_is_loaded(tmp_path):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot give back every text.*Lowercase"):
        load_tokenizer(str(tmp_path))


def test_settings_of_the_model_that_decide_about_ids_count():
    tokenizer, other = make_tokenizer("llama3"), make_tokenizer("llama3")
    other.backend_tokenizer.model.ignore_merges = False
    assert tokenizer_hash(tokenizer) != tokenizer_hash(other)


def test_pieces_of_a_text_decode_to_the_text(tokenizer):
    for each in (tokenizer, make_tokenizer("llama2")):
        pieces = ["One", " two", "\n three ", "four"]
        assert "".join(decode_ids(each, encode_text(each, piece)) for piece in pieces) == "".join(pieces)


@pytest.mark.parametrize("content", [b"", b"GGUF\x03\x00\x00\x00", b"not a model"])
def test_a_gguf_file_that_cannot_be_read_is_told(content, tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(ValueError, match="no such GGUF file"):
        load_tokenizer(str(path))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf' could not be read: .*package `gguf`"):
        load_tokenizer(str(path))


def test_a_word_of_any_length_is_learned_from_and_ordinary_text_stays_whole():
    dna = "".join("acgt"[i * i * 7 % 13 % 4] for i in range(100_000))
    texts = [f"A gene: {dna}. {' ' * 5000}End_{'_' * 5000}", "Words of an ordinary length. " * 500]
    pieces = [_without_long_words(text) for text in texts]
    assert ["".join(parts) for parts in pieces] == texts
    assert len(pieces[0]) > 50
    assert len(pieces[1]) == 1
    assert max(map(len, pieces[0])) < 2 * LONGEST_WORD
    began = time.perf_counter()
    load_tokenizer("bpe:270", lambda: iter(texts))
    assert time.perf_counter() - began < 2 * 3  # uncut: minutes


def test_a_signal_ends_the_training_of_a_tokenizer():
    seen = threading.Event()

    def texts():
        signal.raise_signal(signal.SIGINT)
        seen.wait(60)
        yield "Words."

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_tokenizer("bpe:300", texts)
        assert not seen.is_set()
    finally:
        seen.set()
        signal.signal(signal.SIGINT, before)


def test_what_reading_the_text_raises_is_raised():
    def texts():
        raise ValueError("no such text")
        yield ""

    with pytest.raises(ValueError, match="no such text"):
        load_tokenizer("bpe:300", texts)
