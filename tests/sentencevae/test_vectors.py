"""The encoder in sentence-transformers: the vectors are those of `encode_text`, whatever stands beside a text."""

import json

import numpy as np
import pytest
import torch
from tiny import make_sllm, make_vae

pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer

from sentencevae import SentenceVAE
from sentencevae.vectors import SentenceVectors

TEXTS = ["Yes, so.", "", "Na\u00efve.", "He left.", "One! Two? 3.", "\U0001f989"]


@pytest.fixture(params=["deterministic", "gaussian"])
def folder(request, tmp_path):
    make_vae(latent=request.param).save_pretrained(tmp_path / "vae" / "model")
    return tmp_path / "vae" / "model"


def opened(folder) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", local_files_only=True)


def test_a_saved_autoencoder_opens_and_gives_its_vectors(folder):
    vae = SentenceVAE.from_pretrained(folder)
    found = opened(folder).encode(TEXTS)
    assert found.shape == (len(TEXTS), vae.config.hidden_size)
    for text, vector in zip(TEXTS, found, strict=True):
        sentences = [vae.processor.decode(ids) for ids in vae.processor.encode(text).sentences()]
        expected = vae.encode_text(sentences).mean(0) if sentences else torch.zeros(vae.config.hidden_size)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_order_and_batches_do_not_matter(folder):
    model = opened(folder)
    expected = model.encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS[::-1], batch_size=2)[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS[0]), expected[0], atol=1e-5)
    assert not model.encode(["", ""]).any()
    assert len(model.encode([])) == 0


def test_lengths_are_one_where_asked_and_an_empty_text_stays_zero(folder):
    lengths = np.linalg.norm(opened(folder).encode(TEXTS, normalize_embeddings=True), axis=1)
    np.testing.assert_allclose(lengths, [float(text != "") for text in TEXTS], atol=1e-5)


def test_a_long_text_is_encoded_in_parts(folder, monkeypatch):
    model = opened(folder)
    text = "He left. She stayed! " * 50
    whole = model.encode(text)
    monkeypatch.setattr("sentencevae.vectors.ENCODED", 7)
    np.testing.assert_allclose(model.encode(text), whole, atol=1e-5)


def test_what_is_saved_is_an_autoencoder_that_opens_again(folder, tmp_path):
    """Also of modules that were put together by hand, for which nobody trusts anything."""
    model = SentenceTransformer(modules=[SentenceVectors.load(str(folder.parent))], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_array_equal(opened(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS))
    SentenceVAE.from_pretrained(tmp_path / "saved")


def test_the_encoder_of_an_sllm_is_saved_and_opened(tmp_path):
    sllm = make_sllm()
    sllm.autoencoder.processor = sllm.processor
    sllm.autoencoder.save_pretrained(tmp_path)
    expected = sllm.autoencoder.encode_text("He left.")[0]
    np.testing.assert_allclose(opened(tmp_path).encode("He left."), expected, atol=1e-5)


def test_dtype_and_prompts_are_those_asked_for(folder):
    model = SentenceTransformer(
        str(folder), trust_remote_code=True, device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    assert model.encode("Yes.", convert_to_tensor=True).dtype == torch.bfloat16
    model = opened(folder)
    np.testing.assert_allclose(model.encode("left.", prompt="He "), model.encode("He left."), atol=1e-5)


def test_what_is_no_text_is_told(folder):
    model = opened(folder)
    with pytest.raises(ValueError, match="Lone surrogate"):
        model.encode(["a\ud800"])
    with pytest.raises(ValueError, match="give a text or a list of texts"):
        model.encode([("a", "b")])


def test_no_code_of_the_folder_is_run(folder, tmp_path):
    """sentence-transformers wants to be trusted with a class of another package; the folder itself stays data."""
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder), device="cpu")
    (folder / "vectors.py").write_text("raise RuntimeError('run')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "vectors.Model"}}))
    assert type(opened(folder)[0]) is SentenceVectors


def test_gradients_reach_the_encoder():
    module = SentenceVectors(make_vae())
    module(module.preprocess(["One. Two."]))["sentence_embedding"].square().sum().backward()
    assert all(weight.grad is not None for weight in module.vae.encoder.parameters())
