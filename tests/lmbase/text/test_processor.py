"""Text -> sentences -> ids and back: nothing lost, nothing too long, nothing special."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_processor
from tokenizers import models
from tokenizers import processors as post_processors
from tokenizers_of_kinds import make_tokenizer

from lmbase.text import RULES, segment
from lmbase.text.processor import FILE_NAME, SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer, padding_token

TRAINING = ["the cat sat on the mat, and the cat ate the rat. naïve 你好"] * 20
CAPS = (4, 7, 64)


def bpe(trim_offsets: bool = False):
    tokenizer = load_tokenizer("bpe:290", lambda: iter(TRAINING))
    if trim_offsets:  # as the tokenizers of GPT-2 and OPT come
        tokenizer.backend_tokenizer.post_processor = post_processors.ByteLevel(trim_offsets=True)
    return tokenizer


def padded(name: str):
    tokenizer = make_tokenizer(name)
    tokenizer.pad_token = padding_token(tokenizer)
    return tokenizer


MADE_HERE = {"bytes": load_tokenizer("bytes"), "bpe": bpe(), "gpt2-like": bpe(trim_offsets=True)}
TOKENIZERS = MADE_HERE | {name: padded(name) for name in ("llama3", "smollm2", "llama2", "gemma")}
PROCESSORS = [SentenceProcessor(t, rule, cap) for t in TOKENIZERS.values() for rule in RULES for cap in CAPS]
processors = st.sampled_from(PROCESSORS)
# Free text, and text made of what is hard: marks, white space, wide and combining characters, spelled-out specials.
texts = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["the", " cat", "\u3000\u2003 ", ". ", "\n", "\r\n", "你", "。", "é", "👩‍👧", "\0", "</s>", "<pad>", "3.14"]
    ),
    max_size=30,
).map("".join)


@given(processors, texts)
def test_nothing_is_lost_and_nothing_is_too_long(processor, text):
    encoded = processor.encode(text)
    assert processor.decode(encoded.input_ids) == text
    assert "".join(processor.decode(ids) for ids in encoded.sentences()) == text, "cut between characters only"
    assert sum(encoded.sentence_lengths) == len(encoded.input_ids)
    assert all(1 <= n <= processor.max_sentence_tokens for n in encoded.sentence_lengths)
    assert encoded.sentence_bytes == [len(processor.decode(ids).encode()) for ids in encoded.sentences()]
    assert not set(encoded.input_ids) & processor.codec.special_ids


@given(processors, texts)
def test_ids_of_a_text_are_cut_like_the_text(processor, text):
    encoded = processor.encode(text)
    assert processor.split_ids(encoded.input_ids) == encoded.sentences()


@given(processors, texts)
def test_ids_of_a_tokenizer_alone_are_read_as_their_text(processor, text):
    assert processor.read_ids(processor.codec.encode(text)) == processor.encode(text).sentences()


def test_white_space_that_a_tokenizer_joins_across_sentences_is_parted():
    processor, text = SentenceProcessor(TOKENIZERS["llama3"], "punctuation"), "Hi!\n\nTwo."
    alone = TOKENIZERS["llama3"](text)["input_ids"]
    assert alone != processor.encode(text).input_ids
    assert processor.read_ids(alone) == processor.encode(text).sentences()
    assert [i for sentence in processor.split_ids(alone) for i in sentence] == alone


@given(processors, st.lists(st.integers(6, 250), max_size=60))
def test_cutting_ids_changes_none_of_them(processor, ids):
    sentences = processor.split_ids(ids)
    assert [i for sentence in sentences for i in sentence] == ids
    assert all(1 <= len(sentence) <= processor.max_sentence_tokens for sentence in sentences)


@given(st.lists(texts, max_size=5))
def test_a_batch_is_its_members(batch):
    processor = make_processor()
    assert processor.encode_batch(batch) == [processor.encode(text) for text in batch]


@pytest.mark.parametrize("rule", ["punctuation", "line"])
def test_sentences_are_the_pieces_of_the_rule(rule):
    text = "One, two.\n  Three!\n"
    processor = make_processor(rule, cap=64)
    assert [processor.decode(ids) for ids in processor.encode(text).sentences()] == segment(text, rule)


def test_ids_that_no_text_has_are_cut_at_the_same_places():
    """'the' spelled in three byte tokens: the ids stay, the cut behind the comma is found by counting bytes."""
    processor = SentenceProcessor(TOKENIZERS["bpe"], "punctuation")
    spelled = [TOKENIZERS["bpe"].convert_tokens_to_ids(c) for c in "the,"]
    rest = processor.encode(" the cat").input_ids
    assert processor.split_ids(spelled + rest) == [spelled, rest]


def test_padded_tensors(processor):
    batch = processor(["Ab. Cde.", ""])
    assert batch.input_ids.shape == (2, 2, 5)
    assert batch.sentence_mask.tolist() == [[True, True], [False, False]]
    assert batch.attention_mask.sum(-1).tolist() == [[3, 5], [0, 0]]
    assert (batch.input_ids[~batch.attention_mask] == processor.pad_token_id).all()


@pytest.mark.parametrize(
    ("rule", "text", "end"),
    [
        ("punctuation", "", ""),
        ("punctuation", "Yes. He said", " He said"),
        ("punctuation", "Yes. He left.", ""),
        ("punctuation", "Yes. He ", " He "),  # cut as "Yes.", " He", " ", but only because the text ends here
        ("punctuation", "Yes. ", " "),
        ("punctuation", " ", " "),
        ("punctuation", "x" * 12, ""),  # the cap ends a sentence, and what follows it is a new one
        ("punctuation", "x" * 13, "x"),
        ("punctuation", "x" * 11 + " ", " "),
        ("line", "a = 1\nb = 2.", "\nb = 2."),
        ("line", "a = 1\n", "\n"),
        ("auto", "x = [1, 2]\ny = x[0] + 1\nprint(y, 1).", "\nprint(y, 1)."),
        ("auto", "He left, and she left.", ""),
    ],
)
def test_open_ends(rule, text, end):
    processor = make_processor(rule, cap=64 if rule == "auto" else 12)
    sentences = processor.encode(text).sentences()
    closed, forced = processor.split_open_end(sentences)
    assert processor.decode(forced) == end
    assert processor.decode([i for s in [*closed, forced] for i in s]) == text


@pytest.mark.parametrize("text", ["ab \ud83d cd", "ab \udc00"])
def test_lone_surrogate_is_refused_with_its_offset(processor, text):
    with pytest.raises(ValueError, match="at character 3"):
        processor.encode(text)


def test_tokens_that_all_straddle_characters_are_still_capped():
    """A merge of the last and the first byte of 你 leaves no token after the first that opens a character."""
    tokenizer = load_tokenizer("bytes")
    first, _, last = tokenizer.tokenize("你")
    vocabulary = tokenizer.get_vocab() | {last + first: 260}
    tokenizer.backend_tokenizer.model = models.BPE(vocab=vocabulary, merges=[(last, first)])
    encoded = SentenceProcessor(tokenizer, "punctuation", 4).encode("你" * 10)
    assert max(encoded.sentence_lengths) == 4
    assert tokenizer.decode(encoded.input_ids) == "你" * 10


def test_a_megabyte_without_punctuation_is_cut(processor):
    encoded = processor.encode("x" * 1_000_000)
    assert sum(encoded.sentence_bytes) == 1_000_000


def test_special_ids_in_a_prompt_are_refused(processor):
    with pytest.raises(ValueError, match=r"special tokens \[2\]"):
        processor.split_ids([70, 2, 71])


@pytest.mark.parametrize("settings", [{"rule": "word"}, {"max_sentence_tokens": 3}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SentenceProcessor(TOKENIZERS["bytes"], **settings)


def test_a_tokenizer_without_a_pad_token_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"pad token.*load_tokenizer"):
        SentenceProcessor(make_tokenizer("llama2"))


def test_special_ids_of_tokenizers_with_other_marks():
    """Llama 2 opens texts with another mark than it ends them with; all its special tokens are refused in prompts."""
    processor = SentenceProcessor(TOKENIZERS["llama2"], "punctuation")
    assert (processor.bos_token_id, processor.eos_token_id, processor.pad_token_id) == (1, 2, 0)
    assert (make_processor().bos_token_id, make_processor().eos_token_id) == (2, 2)
    with pytest.raises(ValueError, match=r"special tokens \[1\]"):
        processor.split_ids([1, *processor.encode("the cat").input_ids])


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_processors_of_all_kinds_are_saved_and_loaded(name, tmp_path):
    processor = SentenceProcessor(TOKENIZERS[name], "punctuation", 8)
    processor.save_pretrained(tmp_path)
    loaded = SentenceProcessor.from_pretrained(tmp_path)
    text = "The cat, </s> ▁ the rat.\n  Über 12!"
    assert (loaded.fingerprint, loaded.encode(text)) == (processor.fingerprint, processor.encode(text))
    assert (loaded.pad_token_id, loaded.eos_token_id) == (processor.pad_token_id, processor.eos_token_id)


def test_save_and_load(tmp_path):
    processor = SentenceProcessor(TOKENIZERS["bpe"], "sentence", 9, punkt={"abbrev_types": ["mr"]})
    processor.save_pretrained(tmp_path)
    loaded = SentenceProcessor.from_pretrained(tmp_path)
    assert loaded.fingerprint == processor.fingerprint
    assert (loaded.rule, loaded.max_sentence_tokens, loaded.punkt) == ("sentence", 9, {"abbrev_types": ["mr"]})
    text = "the </s> cat, <pad> the rat"
    loaded.punkt = processor.punkt = None
    assert loaded.encode(text) == processor.encode(text)


def test_the_fingerprint_tells_processors_apart():
    assert len({processor.fingerprint for processor in PROCESSORS}) == (len(TOKENIZERS) - 1) * len(RULES) * len(CAPS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / FILE_NAME).unlink(), "No sentence_processor.json"),
        (lambda folder: (folder / FILE_NAME).write_text("{"), "damaged"),
        (lambda folder: TOKENIZERS["bpe"].save_pretrained(str(folder)), "not the one this processor was saved with"),
        (lambda folder: (folder / FILE_NAME).write_text(json.dumps({"rule": "line"})), "damaged"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    make_processor().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        SentenceProcessor.from_pretrained(tmp_path)


def test_texts_that_can_be_read_once_are_texts():
    """They were gone when they were looked at again, and nothing came back of them."""
    processor, texts = make_processor(), ["One. Two.", "Three."]
    assert processor.encode_batch(text for text in texts) == processor.encode_batch(texts)
