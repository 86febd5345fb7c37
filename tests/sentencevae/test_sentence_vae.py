"""The autoencoder as users meet it: text methods, its processor, saving and loading."""

import pytest
import torch
from tiny import make_processor, make_sentences, make_vae
from transformers import AutoConfig, AutoModel

from lmbase.text.padding import pad_tokens
from sentencevae import SentenceVAE, SentenceVAEConfig

PAD = 1
TEXTS = ["He left, and then she left.", "", "A rather long clause without a mark", "</s><pad> 你好。"]


@torch.no_grad()
def test_text_methods_ignore_training_and_leave_it_on():
    vae = make_vae(latent="gaussian", dropout=0.5)
    methods = (
        lambda: vae.encode_text(["He left."]).tolist(),
        lambda: vae.reconstruct(TEXTS),
        lambda: vae.interpolate("He left.", "You, too!"),
        lambda: vae.sample(5, seed=0),
    )
    expected = [method() for method in methods]
    vae.train()
    vae.encoder.eval()
    assert [method() for method in methods] == expected
    with pytest.raises(ValueError, match="0 tokens"):
        vae.encode_text([""])
    assert (vae.training, vae.decoder.training, vae.encoder.training) == (True, True, False)


def test_text_needs_a_processor():
    with pytest.raises(ValueError, match="no processor"):
        make_vae(processor=False).reconstruct(["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 100}, "260 ids and the model 100 rows"),
        ({"max_sentence_tokens": 8}, "up to 12 tokens and the model reads 8"),
        ({"pad_token_id": 0}, "another model's tokenizer"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(options, message):
    vae = make_vae(processor=False, **options)
    with pytest.raises(ValueError, match=message):
        vae.processor = make_processor()


@torch.no_grad()
@pytest.mark.parametrize("load", [SentenceVAE.from_pretrained, AutoModel.from_pretrained])
def test_save_and_load(variant, tmp_path, load):
    variant.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    ids, mask = make_sentences(5)
    torch.testing.assert_close(loaded(ids, mask).losses, variant(ids, mask).losses, rtol=0, atol=0)
    assert loaded.reconstruct(TEXTS) == variant.reconstruct(TEXTS)
    assert loaded.processor.fingerprint == variant.processor.fingerprint
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SentenceVAEConfig)
    assert not loaded.training


def test_loading_options_reach_the_processor(vae, tmp_path):
    """Subfolders, loading information; weights are never read from a pickle."""
    vae.save_pretrained(tmp_path / "inner")
    loaded, info = SentenceVAE.from_pretrained(tmp_path, subfolder="inner", output_loading_info=True)
    assert loaded.processor.fingerprint == vae.processor.fingerprint
    assert not info["missing_keys"]
    (tmp_path / "inner" / "model.safetensors").unlink()
    torch.save(vae.state_dict(), tmp_path / "inner" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        SentenceVAE.from_pretrained(tmp_path / "inner", use_safetensors=False)


def test_a_revision_of_the_hub_brings_its_own_processor(vae, tmp_path):
    """Two revisions in a download cache that differ in the rule."""
    cache = tmp_path / "models--someone--vae"
    (cache / "refs").mkdir(parents=True)
    for revision, rule in (("main", "punctuation"), ("other", "line")):
        commit = str(len(rule) % 10) * 40
        (cache / "refs" / revision).write_text(commit)
        vae.save_pretrained(cache / "snapshots" / commit)
        make_processor(rule).save_pretrained(cache / "snapshots" / commit)
    for revision, rule in (("main", "punctuation"), ("other", "line")):
        options: dict = dict(cache_dir=tmp_path, revision=revision, local_files_only=True)
        assert SentenceVAE.from_pretrained("someone/vae", **options).processor.rule == rule


def test_it_learns_to_write_its_sentences_again():
    torch.manual_seed(0)
    vae = make_vae(init_std=0.02)
    texts = ["He left.", "She stayed.", "They, too,", "and so on"]
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    ids, mask = pad_tokens([vae.processor.encode(t).input_ids for t in texts], PAD)
    for _ in range(120):
        optimizer.zero_grad()
        vae(ids, mask).loss.backward()
        optimizer.step()
    assert [vae.processor.decode(row) for row in vae.decode(vae.encode_text(texts))] == texts
