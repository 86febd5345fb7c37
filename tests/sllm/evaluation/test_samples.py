"""Samples of every kind of model."""

from families import MAKERS, loaded_as
from tiny import make_vae

from sllm.evaluation.samples import RECONSTRUCTED_SENTENCES, show_samples


def test_language_models_continue_and_autoencoders_reconstruct():
    text = "One, two, three. " * 4
    models = [loaded_as(make("llama"), name) for name, make in MAKERS.items()] + [loaded_as(make_vae(), "vae")]
    found = show_samples(models, [text], 5, 4)
    assert [(sample["model"], sample["prompt"]) for sample in found["generations"]] == [
        (name, text[:5]) for name in MAKERS
    ]
    assert {sample["truth"] for sample in found["generations"]} == {text[5:9]}  # G10
    assert all(sample["finish_reason"] in ("stop", "length") for sample in found["generations"])
    assert [pair["model"] for pair in found["reconstructions"]] == ["vae"] * RECONSTRUCTED_SENTENCES
    assert text.startswith("".join(pair["text"] for pair in found["reconstructions"]))
