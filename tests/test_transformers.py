"""What Transformers' users expect of every model: pipelines, Auto classes, conventions, adapters."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rooms import ROOT
from tiny import MEMORY, make_lm, make_mtp, make_processor, make_sllm, make_vae, read
from tokenizers_of_kinds import make_tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    TextIteratorStreamer,
    pipeline,
)

from lmbase.hub import local_name
from lmbase.text.codec import codec_of
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import padding_token, vocabulary_size

PROMPTS = ["He said", "A longer one. Yes, it", "Hi!\n\nTwo.", "", "Ende."]


def make_heads(**options):
    model = make_mtp(**options)
    model.tokenizer = make_processor().tokenizer
    return model


def make_opening_padding():
    """One token opens, ends and pads, as GPT-2's does."""
    model = make_mtp(lm=make_lm("gpt2", pad_token_id=2))
    tokenizer = make_processor().tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    model.tokenizer = tokenizer
    return model


def make_of_merges():
    """Llama 3's tokenizer, alone, joins white space across sentences."""
    tokenizer = make_tokenizer("llama3")
    tokenizer.pad_token = padding_token(tokenizer)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    size = dict(vocab_size=vocabulary_size(tokenizer), **ids)
    model = make_sllm(vae=dict(processor=False, max_sentence_tokens=24, **size), opt=size)
    model.processor = SentenceProcessor(tokenizer, "punctuation", 24)
    return model


WRITERS = {
    "sllm": make_sllm,
    "sllm memory": lambda: make_sllm(3, **MEMORY),
    "sllm merges": make_of_merges,
    "heads": make_heads,
    "heads gpt2": make_opening_padding,
}


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = WRITERS[request.param]()
    with torch.no_grad():  # so that texts do not end at once, and nothing that is no text is written
        carried = model.processor.tokenizer if request.param.startswith("sllm") else model.tokenizer
        model.get_input_embeddings().weight[list(codec_of(carried).special_ids)] = 0.0
    model.save_pretrained(folder)
    pipe = pipeline("text-generation", str(folder), trust_remote_code=False)
    return SimpleNamespace(folder=folder, model=model, pipe=pipe)


def whole(text: str) -> str:
    """A last character that is not whole is left out by `generate`, and U+FFFD in what tokenizers decode."""
    return text.rstrip("\ufffd")


# -- pipelines ---------------------------------------------------------------------------------------------------------


# By itself a pipeline of Transformers 5.3 draws from the 50 likeliest tokens.
@pytest.mark.parametrize("way", [dict(do_sample=False), dict(do_sample=True, temperature=0.7, top_k=0, seed=3)])
def test_a_pipeline_writes_what_generate_does(written, way):
    options = dict(max_new_tokens=16, **way)
    for prompt in PROMPTS:
        (found,) = written.pipe(prompt, **options)
        assert found.keys() == {"generated_text"}
        (expected,) = written.model.generate(text=prompt, **options).texts
        assert found["generated_text"].startswith(prompt)
        assert whole(found["generated_text"][len(prompt) :]) == whole(expected)
    assert any(written.model.generate(text=PROMPTS, **options).texts)


def test_an_example_is_a_folder_for_transformers():
    model: Any = AutoModelForCausalLM.from_pretrained(local_name("example:sllm"))
    assert model.processor.rule == "punctuation"


def test_a_batch_in_a_pipeline_is_padded_on_the_left_and_changes_nothing(written):
    options = dict(max_new_tokens=16, do_sample=False, return_full_text=False)
    prompts = PROMPTS[:3]
    found = written.pipe(prompts, batch_size=3, **options)
    assert found == [written.pipe(prompt, **options) for prompt in prompts]


def test_pipelines_take_configurations_streamers_and_ask_for_ids(written):
    config = GenerationConfig(max_new_tokens=9, do_sample=False)
    streamer = TextIteratorStreamer(written.pipe.tokenizer, skip_prompt=True)
    (text,) = written.pipe("He said", generation_config=config, streamer=streamer, return_full_text=False)
    assert "".join(streamer).strip() == text["generated_text"].strip()
    (ids,) = written.pipe("He said", generation_config=config, return_tensors=True)
    given = written.pipe.tokenizer("He said")["input_ids"]
    assert ids["generated_token_ids"][: len(given)] == given
    assert (
        written.pipe.tokenizer.decode(ids["generated_token_ids"][len(given) :], skip_special_tokens=True)
        == (text["generated_text"])
    )


def test_a_chat_needs_a_template(written):
    chat = [{"role": "user", "content": "Why?"}]
    with pytest.raises(ValueError, match="chat_template"):
        written.pipe(chat, max_new_tokens=5)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (found,) = written.pipe(
        chat, max_new_tokens=5, do_sample=False, tokenizer_encode_kwargs=dict(chat_template=template)
    )
    assert found["generated_text"][0] == chat[0]
    assert found["generated_text"][1]["role"] == "assistant"


def test_without_a_prompt_a_text_begins(written):
    texts = [written.model.generate(max_new_tokens=9).texts, written.model.generate(text="", max_new_tokens=9).texts]
    assert texts[0] == texts[1]


def test_features_of_a_text_are_its_vector(tmp_path):
    vae = make_vae()
    vae.save_pretrained(tmp_path)
    found = pipeline("feature-extraction", str(tmp_path))(["He said", "A yes"])
    torch.testing.assert_close(torch.tensor(found)[:, 0], vae.encode_text(["He said", "A yes"]))


def test_features_of_a_text_are_the_states_behind_its_sentences(tmp_path):
    """They were its loss, a single number."""
    model = make_sllm()
    model.save_pretrained(tmp_path)
    (found,) = pipeline("feature-extraction", str(tmp_path))("He said. A yes.")
    assert torch.tensor(found).shape == (3, model.config.hidden_size)
    torch.testing.assert_close(torch.tensor(found)[-1], model.prefill(**read(model, ["He said. A yes."])).states[0, -1])


# -- conventions -------------------------------------------------------------------------------------------------------

MODELS = {"sllm": WRITERS["sllm memory"], "heads": make_heads, "autoencoder": make_vae}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def batch(side: str = "right", texts=("He said.", "A yes")):
    tokenizer = make_processor().tokenizer
    tokenizer.padding_side = side
    return tokenizer(list(texts), padding=True, return_tensors="pt")


@torch.no_grad()
def states(model, rows) -> torch.Tensor:
    """What a model says of real tokens or texts, padding apart."""
    output = model(**rows)
    if "logits" in output:
        return torch.cat(
            [of_text[mask.bool()] for of_text, mask in zip(output.logits, rows["attention_mask"], strict=True)]
        )
    return output.states if "states" in output else output.sentence_embeds


def test_G12_auto_classes_know_each_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, type(model.config))
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert isinstance(AutoModel.from_config(config), type(model))
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("He said")["input_ids"]
        == batch(texts=["He said"])["input_ids"][0].tolist()
    )
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(AutoTokenizer.from_pretrained(tmp_path))
    if model.can_generate():
        assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), type(model))
        assert isinstance(AutoModelForCausalLM.from_config(config), type(model))


def test_shards_placement_dtype_and_kernels(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="16KB")
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    expected = states(model, batch())
    for options in (dict(), dict(device_map="cpu")):
        torch.testing.assert_close(states(AutoModel.from_pretrained(tmp_path, **options), batch()), expected)
    for kernel in ("sdpa", "eager"):
        loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=kernel)
        used = {part.config._attn_implementation for part in loaded.modules() if hasattr(part, "config")}
        assert all(name.startswith(kernel) for name in used)
        torch.testing.assert_close(states(loaded, batch()), expected, rtol=1e-4, atol=1e-5)
    half = AutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(states(half, batch()).float(), expected, rtol=0.1, atol=0.1 * expected.std().item())


def test_a_batch_is_its_rows_wherever_padding_stands(model):
    texts = ("He said.", "A yes")
    alone = torch.cat([states(model, batch(texts=[text])).flatten(0, -2) for text in texts])
    for side in ("right", "left"):
        if side == "left" and not model.can_generate():
            with pytest.raises(ValueError, match="padding_side"):
                states(model, batch(side))
            continue
        torch.testing.assert_close(states(model, batch(side)).flatten(0, -2), alone, rtol=1e-4, atol=1e-5)


def test_a_larger_vocabulary_is_saved_and_loaded(model, tmp_path):
    expected = states(model, batch())
    table = model.resize_token_embeddings(300, mean_resizing=False)
    assert table is model.get_input_embeddings()
    assert model.config.vocab_size == len(table.weight) == 300
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(states(AutoModel.from_pretrained(tmp_path), batch())[..., :260], expected)


def test_one_table_reads_and_writes(model):
    """It is one parameter, so that nothing has to be tied, and there is no head beside it."""
    assert model.get_output_embeddings() is None
    assert not type(model)._tied_weights_keys
    weights = [id(weight) for _, weight in model.named_parameters(remove_duplicate=False)]
    assert len(weights) == len(set(weights))
    assert model.num_parameters() == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["sllm", "heads"])
def test_G12_activations_can_be_computed_again(kind):
    model = MODELS[kind]().train()
    rows = batch() | dict(labels=batch()["input_ids"].masked_fill(batch()["attention_mask"] == 0, -100))
    first = next(model.trunk.parameters())
    expected = torch.autograd.grad(model(**rows).loss, first, allow_unused=True)
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(torch.autograd.grad(model(**rows).loss, first, allow_unused=True), expected)
    with pytest.raises(ValueError, match="does not support"):
        make_vae().gradient_checkpointing_enable()


@pytest.mark.parametrize(
    "asked",
    [
        dict(position_ids=torch.arange(9).expand(2, 9)),
        dict(past_key_values=DynamicCache()),
        dict(logits_to_keep=1),
        dict(inputs_embeds=torch.zeros(2, 9, 16)),
        dict(output_hidden_states=True),
        dict(lables=torch.zeros(2, 9, dtype=torch.long)),
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_forward_does_not_read_is_refused_and_what_changes_nothing_is_not(model, asked):
    """In silence rows with positions of their own would be read as one text, and a wrong name as no labels."""
    neutral = dict(position_ids=None, output_attentions=False, logits_to_keep=0, use_cache=True)
    assert model(**batch(), **neutral).keys() == model(**batch()).keys()
    with pytest.raises(ValueError, match=f"does not know {next(iter(asked))}: it reads whole rows"):
        model(**batch(), **asked)


@torch.no_grad()
def test_outputs_come_as_tuples_where_asked_for(model):
    first, expected = model(**batch(), return_dict=False)[0], model(**batch()).to_tuple()[0]
    torch.testing.assert_close(first, expected)


# -- labels ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_head_has_the_loss_and_the_logits_of_the_plain_model(opt, side):
    model, rows = make_mtp(num_future_tokens=1, lm=opt), batch(side)
    model.load_state_dict(type(model).from_lm(opt, 1).state_dict())
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    labels[:, 3] = -100
    plain = opt(**rows, labels=labels if side == "right" else None)
    found = model(**rows, labels=labels)
    real = rows["attention_mask"].bool()
    torch.testing.assert_close(found.logits[real], plain.logits[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(**rows).logits[real], plain.logits[real], rtol=1e-4, atol=1e-5)
    if side == "right":
        torch.testing.assert_close(found.loss, plain.loss)


def test_a_head_learns_labels_as_far_ahead_as_it_looks(mtp):
    """Head i at position t predicts label t+i, however labels are left out, and transitions know the token before."""
    ids = torch.tensor([[10, 11, 12, 13, 14, 15]])
    labels = torch.tensor([[10, -100, 12, -100, 14, 15]])
    found = mtp(ids, labels=labels).losses
    states = dict(mtp._all_states(SimpleNamespace(input_ids=ids, attention_mask=None), 3))
    for i, name in enumerate(("token", "head_2", "head_3"), start=1):
        log_p = (mtp.finish(states[i]) @ mtp.unembedding(i).T).log_softmax(-1)[0]
        wanted = [(t, labels[0, t + i]) for t in range(6 - i) if labels[0, t + i] != -100]
        torch.testing.assert_close(found[name], -torch.stack([log_p[t, label] for t, label in wanted]).sum())
    assert make_mtp(draft_transitions=True)(ids, labels=labels).loss.isfinite()


@torch.no_grad()
@pytest.mark.parametrize("left", [3, 1, 0])
def test_no_head_predicts_from_padding(mtp, left):
    """Those behind the first look over the border of padding and text."""
    ids = torch.tensor([[2, 10, 11, 12, 13, 2]])
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, 3 - left))
    padded = torch.nn.functional.pad(ids, (left, 3 - left), value=1)
    labels = torch.where(mask.bool(), padded, -100)
    found, expected = mtp(padded, attention_mask=mask, labels=labels), mtp(ids, labels=ids)
    torch.testing.assert_close(found.losses, expected.losses)
    torch.testing.assert_close(found.loss, expected.loss)


def test_rows_longer_than_the_positions_are_told(mtp):
    with pytest.raises(ValueError, match="Rows of 33 ids, and the model has 32 positions"):
        mtp(torch.full((1, 33), 10))


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sllm", "heads"])
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_lora_of_the_trunk_trains_merges_and_loads(kind, task, tmp_path):
    peft = pytest.importorskip("peft")
    model, rows = MODELS[kind](), batch(texts=["</s>He said.</s>"])
    model.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=2, target_modules=r"trunk\..*\.(q_proj|v_proj)", task_type=task)
    adapted = peft.get_peft_model(model, settings).train()
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.Adam(trained, lr=0.05), []
    for _ in range(3):
        losses.append(adapted(**rows, labels=rows["input_ids"]).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    adapted.eval().save_pretrained(tmp_path / "adapter")
    expected = states(adapted, rows)
    base = type(model).from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(states(again, rows), expected)
    assert adapted.generate(text="He", max_new_tokens=5).texts == again.generate(text="He", max_new_tokens=5).texts
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        states(type(model).from_pretrained(tmp_path / "merged"), rows), expected, rtol=1e-4, atol=1e-4
    )


def test_the_page_on_adapters_runs(tmp_path, monkeypatch):
    """Its other snippets are run by tests/test_docs.py, peft or not."""
    pytest.importorskip("peft")
    (snippet,) = re.findall(r"^```py\n(.*?)^```", (ROOT / "docs" / "transformers.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    found = {"model": make_sllm()}
    exec(snippet, found)
    assert AutoModel.from_pretrained(tmp_path / "runs" / "merged").num_parameters() == make_sllm().num_parameters()


# -- Transformers' rules for modelling files ---------------------------------------------------------------------------

# Rules that are about the library's own repository, or that hold here in another form.
NOT_HERE = {
    "TRF010": "a configuration checks its types itself, and tells all faults at once",
    "TRF018": "layers here have initialisers of their own",
    "TRF023": "ffn_dim is in the folders of earlier versions",
    "TRF027": "asserts are for what cannot be",
    "TRF028": "one licence for the project",
    "TRF041": "branches are explained by the configuration's fields",
    "TRF051": "blocks of any family are called from outside, with the mask that their attention takes",
    "TRF057": "docstrings are written by hand",
}


def test_the_lint_rules_of_modelling_files_hold():
    pytest.importorskip("mlinter")
    words = [sys.executable, "-m", "mlinter", "--no-cache", "--no-progress", "sllm", "multitoken", "sentencevae"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stderr
    assert "TRF" in found, "the linter read our files, and told what is excepted here"
    assert set(re.findall(r"TRF\d+(?=:)", found)) <= set(NOT_HERE)
