"""A model's folder holds what turns text into ids, and a model refuses another model's."""

from pathlib import Path

import pytest
import torch
from tiny import make_mtp, make_opt, make_processor, make_sllm, make_vae
from tokenizers_of_kinds import make_tokenizer
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from lmbase.files import write_folder
from lmbase.modeling.folders import quiet_loading
from lmbase.modeling.text_model import ProcessorMixin, TokenizerMixin
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer, tokenizer_hash
from multitoken import MultiTokenLM
from sllm import SLLM


class WithTokenizer(TokenizerMixin, LlamaForCausalLM):
    pass


class WithProcessor(ProcessorMixin, LlamaForCausalLM):
    pass


def config(**options) -> LlamaConfig:
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ids = dict(vocab_size=260, pad_token_id=1, bos_token_id=2, eos_token_id=2)
    return LlamaConfig(**sizes | ids | dict(max_sentence_tokens=12) | options)


def test_a_tokenizer_is_saved_and_loaded_with_the_weights(tmp_path: Path) -> None:
    model = WithTokenizer(config())
    model.tokenizer = load_tokenizer("bytes")
    model.save_pretrained(tmp_path)
    loaded = WithTokenizer.from_pretrained(tmp_path)
    assert tokenizer_hash(loaded.tokenizer) == tokenizer_hash(model.tokenizer)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    loaded, info = WithTokenizer.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.has_tokenizer
    assert not info["missing_keys"]


def test_a_processor_is_saved_and_loaded_with_the_weights(tmp_path: Path) -> None:
    model = WithProcessor(config())
    model.processor = make_processor("line")
    model.save_pretrained(tmp_path)
    assert WithProcessor.from_pretrained(tmp_path).processor.fingerprint == model.processor.fingerprint
    # a processor has a tokenizer, so that a model that carries only that can read the folder
    assert WithTokenizer.from_pretrained(tmp_path).has_tokenizer


@pytest.mark.parametrize(("kind", "what"), [(WithTokenizer, "tokenizer"), (WithProcessor, "processor")])
def test_a_model_without_any_is_saved_and_says_what_it_lacks(kind, what: str, tmp_path: Path) -> None:
    kind(config()).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path)
    assert not getattr(model, f"has_{what}")
    with pytest.raises(ValueError, match=f"no {what}, so it cannot read text"):
        getattr(model, what)


def test_weights_come_from_safetensors_only(tmp_path: Path) -> None:
    model = WithTokenizer(config())
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        WithTokenizer.from_pretrained(tmp_path)


def test_weights_of_another_name_need_the_variant(tmp_path: Path) -> None:
    WithTokenizer(config()).save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match=r"another name, model\.fp16\.safetensors: give the variant"):
        WithTokenizer.from_pretrained(tmp_path)
    assert WithTokenizer.from_pretrained(tmp_path, variant="fp16").dtype == torch.float32


def test_arguments_that_nobody_knows_are_named_and_no_damage_is_told(tmp_path: Path) -> None:
    WithTokenizer(config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"from_pretrained does not know 'max_sentense'") as told:
        WithTokenizer.from_pretrained(tmp_path, max_sentense=3)
    assert "damaged" not in str(told.value)


@pytest.mark.parametrize("place", ["disk", "cpu"])
def test_a_model_lies_on_one_device(place: str, tmp_path: Path) -> None:
    """What lies elsewhere is there only while it is read, and other parts read the vocabulary's table."""
    model = make_mtp()
    model.save_pretrained(tmp_path)
    given = dict.fromkeys([name for name, _ in model.named_children()], "cpu") | {"trunk": place}
    if place == "cpu":
        assert MultiTokenLM.from_pretrained(tmp_path, device_map=given).device.type == "cpu"
        return
    with pytest.raises(ValueError, match="onto cpu and disk, and it runs on one device only"):
        MultiTokenLM.from_pretrained(tmp_path, device_map=given, offload_folder=tmp_path / "offloaded")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vocab_size=100), "260 ids and the model 100 rows"),
        (dict(pad_token_id=0), "pad id is 1 and the model's 0"),
        (dict(eos_token_id=0), "eos id is 2 and the model's 0"),
    ],
)
def test_another_models_tokenizer_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WithTokenizer(config(**options)).tokenizer = load_tokenizer("bytes")
    with pytest.raises(ValueError, match=message):
        WithProcessor(config(**options)).processor = make_processor()


def test_longer_sentences_than_the_model_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 64 tokens and the model reads 12"):
        WithProcessor(config()).processor = SentenceProcessor(load_tokenizer("bytes"))


def test_a_model_without_a_pad_id_takes_any(tmp_path: Path) -> None:
    """Llama 2 has none, and its tokenizer gets one when it is loaded."""
    make_tokenizer("llama2").save_pretrained(str(tmp_path))
    model = WithTokenizer(config(vocab_size=400, pad_token_id=None))
    model.tokenizer = load_tokenizer(str(tmp_path))
    assert model.tokenizer.pad_token_id == 0


@pytest.mark.parametrize("make", [make_sllm, make_vae])
def test_of_several_processes_one_writes_what_a_model_carries(make, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "model.safetensors"}
    model.save_pretrained(tmp_path, is_main_process=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path in before} == before


def test_tokens_may_be_added_before_it_is_saved(tmp_path: Path) -> None:
    model = WithProcessor(config(vocab_size=300))
    model.processor = make_processor("line")
    before = model.processor.fingerprint
    model.processor.tokenizer.add_tokens(["<call>"])
    model.save_pretrained(tmp_path)
    assert WithProcessor.from_pretrained(tmp_path).processor.fingerprint == model.processor.fingerprint != before


def test_a_folder_of_ours_is_written_over_whole(tmp_path: Path) -> None:
    """Its manifest is that of other files; who changes a file himself is told what to do."""
    model = WithTokenizer(config())
    model.tokenizer = load_tokenizer("bytes")
    write_folder(tmp_path / "model", model.save_pretrained)
    other = WithTokenizer(config(hidden_size=16))
    other.tokenizer = model.tokenizer
    other.save_pretrained(tmp_path / "model")
    assert WithTokenizer.from_pretrained(tmp_path / "model").config.hidden_size == 16
    write_folder(tmp_path / "again", model.save_pretrained)
    (tmp_path / "again" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Who changed it on purpose deletes manifest\.json"):
        WithTokenizer.from_pretrained(tmp_path / "again")


def test_what_is_uploaded_is_all_of_it(tmp_path: Path, monkeypatch) -> None:
    model = WithTokenizer(config())
    model.tokenizer = load_tokenizer("bytes")
    pushed = {}

    def push(self, repo_id, **options):
        pushed[repo_id] = {path.name for path in (tmp_path / "mine").iterdir()}, options

    monkeypatch.setattr(WithTokenizer, "push_to_hub", push)
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True)
    files, options = pushed["mine"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert options == {"private": True}


@pytest.mark.parametrize("make", [make_mtp, make_sllm, make_vae])
def test_a_vocabulary_may_grow_but_not_fall_below_the_tokenizers(make) -> None:
    model = make()
    if isinstance(model, MultiTokenLM):
        model.tokenizer = make_processor().tokenizer
    with pytest.raises(ValueError, match=r"resize_token_embeddings\(200\): the model's tokenizer has 260 ids"):
        model.resize_token_embeddings(200)
    assert model.resize_token_embeddings(272, mean_resizing=False).num_embeddings == 272


@pytest.mark.parametrize("make", [make_mtp, make_sllm, make_vae])
@pytest.mark.parametrize("door", ["own", "auto"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(use_safetensors=False), "use_safetensors=False: pickled weights"),
        (dict(device_map="meta"), "device_map='meta' loads no weights"),
        (dict(variant="fp16"), r"has its weights in model\.safetensors.*leave out what names them \(variant"),
        (dict(output_hidden_states=True), "output_hidden_states=True: forward"),
        (dict(output_attentions=True), "output_attentions=True: forward"),
        (dict(device_map="cuda:99"), r"onto the device that was asked for \(.*CUDA.*\): name one that is here"),
    ],
    ids=str,
)
def test_options_that_cannot_be_carried_out_are_told(make, door, options, told, tmp_path: Path) -> None:
    """They were passed over, or said to be a damaged file."""
    model = make()
    model.save_pretrained(tmp_path)
    loader = type(model) if door == "own" else AutoModel
    with pytest.raises(ValueError, match=told):
        loader.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: invalid device ordinal"])
def test_a_device_that_is_full_or_not_there_is_no_damage(said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{said[:9]}.*device_map='cpu'") as told, quiet_loading(str(tmp_path)):
        raise RuntimeError(said)
    assert "damaged" not in str(told.value)


@pytest.mark.parametrize("make", [make_mtp, make_sllm, make_vae])
def test_what_was_passed_over_or_ended_in_a_traceback_is_told(make, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config is of class OPTConfig, and a .* is built of a .*: leave it out"):
        type(model).from_pretrained(tmp_path, config=make_opt().config)
    with pytest.raises(ValueError, match="has no output embeddings to be set"):
        model.set_output_embeddings(torch.nn.Linear(16, 260))
    with pytest.raises(ValueError, match=r"config\.json' is a file: name a folder"):
        model.save_pretrained(tmp_path / "config.json")


def test_a_vocabulary_in_fewer_bits_does_not_grow() -> None:
    """The table of eight bits stayed as it was, so that the new words could not be written."""
    for model in (make_mtp(opt=dict(hidden_size=32)), make_sllm(vae=dict(hidden_size=32), opt=dict(hidden_size=32))):
        model.write_in("int8")
        with pytest.raises(ValueError, match="holds weights in int8"):
            model.resize_token_embeddings(300)


def test_a_width_that_follows_from_the_parts_cannot_be_set(tmp_path: Path) -> None:
    make_sllm().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'hidden_size' follows from configurations inside"):
        SLLM.from_pretrained(tmp_path, hidden_size=32)


def test_a_package_that_an_option_needs_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded so: Using it needs bits"), quiet_loading(str(tmp_path)):
        raise ImportError("Using it needs bits")
