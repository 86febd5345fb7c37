"""GGUF files as trunks: the weights are those that were written, and what cannot be read is told in one sentence."""

import re

import pytest
import torch
import transformers
from tiny import make_lm
from transformers import modeling_gguf_pytorch_utils

from lmbase.modeling.pretrained import load_lm, own_tokenizer, read_config
from lmbase.text.tokenizers import load_tokenizer, vocabulary_size

gguf = pytest.importorskip("gguf")

from tiny_gguf import write_gguf  # noqa: E402  # needs gguf, too

IDS = torch.tensor([[2, 10, 11, 12, 13], [2, 20, 21, 22, 23]])


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("bpe:270", lambda: iter(["the cat sat on the mat. the dog. é"] * 20))


@pytest.fixture
def source(tokenizer):
    return make_lm("llama", vocab_size=vocabulary_size(tokenizer), tie_word_embeddings=False)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_file_holds_the_model_that_was_written(tied, tmp_path):
    lm, path = make_lm("llama", tie_word_embeddings=tied), tmp_path / "tiny.gguf"
    write_gguf(path, lm)
    for spec in (path, tmp_path):  # the only one in its folder
        loaded = load_lm(str(spec))
        assert torch.equal(loaded(IDS).logits, lm(IDS).logits)
        assert loaded.config.tie_word_embeddings == tied
        names = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
        for name in names:
            assert getattr(read_config(str(spec)), name) == getattr(lm.config, name)


@torch.no_grad()
def test_quantised_weights_become_ordinary_ones(source, tmp_path):
    """Close to those that were quantised, and of a dtype that trains."""
    write_gguf(tmp_path / "tiny.gguf", source, kind=gguf.GGMLQuantizationType.Q8_0)
    loaded = load_lm(str(tmp_path / "tiny.gguf"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    theirs = dict(loaded.named_parameters())
    for name, weight in source.named_parameters():
        assert (theirs[name] - weight).abs().max() <= weight.abs().max() / 127
    assert not torch.equal(loaded(IDS).logits, source(IDS).logits)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(load_lm(str(tmp_path / "again"))(IDS).logits, loaded(IDS).logits)


def test_versions_of_transformers_that_always_dequantise_serve(source, tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf", source)
    monkeypatch.delattr(transformers, "GgufConfig", raising=False)
    assert torch.equal(load_lm(str(tmp_path))(IDS).logits, source(IDS).logits)


def test_the_tokenizer_lies_in_the_file(source, tokenizer, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", source, tokenizer)
    for spec in (tmp_path, tmp_path / "tiny.gguf"):
        where, text = own_tokenizer(str(spec)), "the cat é."
        assert where is not None
        found = load_tokenizer(where)
        assert found.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
        assert (found.pad_token_id, found.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


# -- what cannot be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: b"no such thing" * 99,
        lambda data: b"",
    ],
    ids=["cut short", "cut in its head", "another file", "empty"],
)
def test_damaged_files_are_told_by_name(damage, as_folder, source, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, source)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"The GGUF file {re.escape(repr(str(path)))} cannot be read") as error:
        load_lm(str(tmp_path if as_folder else path))
    assert "\n" not in str(error.value)


def test_unknown_architectures_and_missing_files_are_told(source, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, source, architecture="rwkv6")
    with pytest.raises(ValueError, match=r"tiny\.gguf' cannot be read .*architecture rwkv6"):
        load_lm(str(path))
    write_gguf(path, source, architecture="phi3")  # Transformers reads it, but nobody here knows its parts
    with pytest.raises(ValueError, match=r"tiny\.gguf' is of the family 'phi3'"):
        load_lm(str(path))
    path.unlink()
    with pytest.raises(ValueError, match=r"tiny\.gguf': there is no such file"):
        load_lm(str(path))


def test_a_missing_package_is_told(source, tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf", source)
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "is_gguf_available", lambda *_: False)
    with pytest.raises(ValueError, match="pip install gguf"):
        load_lm(str(tmp_path))


def test_of_several_files_one_has_to_be_named(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds 2 GGUF files: name one, .*a\.gguf"):
        load_lm(str(tmp_path))
