"""peft on models of every kind: an adapter counts as it does once it is merged, or is refused."""

import pytest
import torch
from tiny import make_mtp, make_own, make_processor, make_sllm, make_vae

peft = pytest.importorskip("peft")


def make_own_graft():
    model = make_own(lm=dict(tie_word_embeddings=False))
    model.processor = make_processor()
    return model


TABLES = {
    "sentences": (make_sllm, "embed_tokens"),
    "own layers": (make_own_graft, "lm_head"),
    "heads": (make_mtp, "embed_tokens"),
    "heads with matrices of their own": (lambda: make_mtp(own_unembeddings=True), "unembeddings.0"),
    "autoencoder": (make_vae, "embed_tokens"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_an_adapter_on_a_matrix_of_the_vocabulary_is_refused(kind):
    """It was not multiplied with, and once merged it was: the model that had been trained was another."""
    make, name = TABLES[kind]
    model, ids = make(), torch.tensor([[20, 30, 40]])
    rows: dict = dict(input_ids=ids, labels=ids)
    expected = model(**rows).loss
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"An adapter hangs on a matrix of the vocabulary.*modules_to_save"):
        adapted(**rows)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(**rows).loss, expected)
    merged = adapted.merge_and_unload()
    assert not torch.isclose(merged(**rows).loss, expected)


@pytest.mark.parametrize("kind", TABLES)
def test_a_matrix_of_the_vocabulary_may_be_trained_beside_adapters(kind):
    make, name = TABLES[kind]
    model, ids = make(), torch.tensor([[20, 30, 40]])
    settings = peft.LoraConfig(r=2, target_modules=r".*q_proj", modules_to_save=[name], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings).train()
    adapted(ids, labels=ids).loss.backward()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight -= weight.grad
    found = adapted.eval()(ids, labels=ids).loss
    torch.testing.assert_close(adapted.merge_and_unload()(ids, labels=ids).loss, found)
