"""What a stock Trainer of Transformers does with each model: two steps, evaluation, a checkpoint, going on from it."""

import copy
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tiny import make_mtp, make_sllm, make_vae
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from lmbase.modeling.labels import NO_LABEL, check_labels, per_item

TEXTS = ["He said. No, yes.", "A b.", "Once, upon a time.", "Hi."] * 2


def make_sentences_of():
    """The autoencoder learns sentences, without any mark around them."""
    vae = make_vae()
    return vae, vae.processor.tokenizer, [text[:9] for text in TEXTS]


def make_texts_of(model, tokenizer):
    return model, tokenizer, [f"</s>{text}</s>" for text in TEXTS]


def make_heads():
    model = make_mtp()
    model.tokenizer = make_vae().processor.tokenizer
    return make_texts_of(model, model.tokenizer)


def make_graft():
    model = make_sllm()
    return make_texts_of(model, model.processor.tokenizer)


@pytest.fixture(autouse=True)
def memory_is_not_swept(monkeypatch):
    """A Trainer does it at each beginning, which takes longer than the steps here."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


KINDS = {"autoencoder": make_sentences_of, "heads": make_heads, "sllm": make_graft}


def trainer_of(model, tokenizer, texts, folder, **options):
    """Nothing here is ours: rows of ids, and the collator of every causal language model."""
    settings: dict[str, Any] = dict(
        per_device_train_batch_size=2, max_steps=2, learning_rate=1e-2, report_to=[], use_cpu=True
    )
    settings |= dict(save_strategy="no", disable_tqdm=True) | options
    rows = [dict(tokenizer(text)) for text in texts]
    return Trainer(
        model,
        TrainingArguments(str(folder), **settings),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=rows,
        eval_dataset=rows[:3],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_G12_two_steps_a_checkpoint_and_one_step_more(kind, tmp_path):
    model, tokenizer, texts = KINDS[kind]()
    straight = copy.deepcopy(model)
    before = model.get_input_embeddings().weight.detach().clone()
    each = dict(save_strategy="steps", save_steps=1, logging_steps=1, lr_scheduler_type="constant", max_grad_norm=0.0)
    trainer = trainer_of(model, tokenizer, texts, tmp_path / "a", **each)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    assert not torch.equal(model.get_input_embeddings().weight, before)
    # from its checkpoint a fresh model goes on as one that never stopped
    trainer_of(model, tokenizer, texts, tmp_path / "a", max_steps=3, **each).train(resume_from_checkpoint=True)
    trainer_of(straight, tokenizer, texts, tmp_path / "b", max_steps=3, **each).train()
    for name, weight in straight.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, msg=name)
    assert type(model).from_pretrained(tmp_path / "a" / "checkpoint-3").config.vocab_size == 260


OLDER = Version(transformers.__version__) < Version("5.23")


@pytest.mark.skipif(OLDER, reason="the Trainer of 5.3 divides accumulated gradients once more, of any model")
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_step_weigh_by_their_labels(kind, tmp_path):
    """Two batches of different size in a step give the gradient of both in one."""
    weights = []
    for size, accumulated in ((4, 1), (2, 2)):
        model, tokenizer, texts = KINDS[kind]()
        options = dict(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, max_grad_norm=0.0)
        trainer_of(model, tokenizer, texts, tmp_path, max_steps=1, optim="sgd", **options).train()
        weights.append(dict(model.named_parameters()))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_can_be_measured(kind, tmp_path):
    model, tokenizer, texts = KINDS[kind]()
    found = trainer_of(model, tokenizer, texts, tmp_path, per_device_eval_batch_size=2).predict(
        [dict(tokenizer(text)) for text in texts[:3]]
    )
    assert len(found.predictions) == 3
    assert found.metrics["test_loss"] > 0


def test_smoothed_labels_are_shifted_as_those_of_a_plain_model(tmp_path):
    """A Trainer goes by a class's name there, and would have trained each token to predict itself."""
    model = make_mtp(num_future_tokens=1)
    losses = []
    for one in (model, model.to_lm()):
        _, tokenizer, texts = make_texts_of(one, make_vae().processor.tokenizer)
        trainer = trainer_of(one, tokenizer, texts, tmp_path, label_smoothing_factor=0.1)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_mean_becomes_a_share_of_all_items():
    assert per_item(torch.tensor(3.0), 4, None) == 3
    assert per_item(torch.tensor(3.0), 4, 6) == 2


def test_labels_that_leave_out_text_are_refused():
    ids = torch.tensor([[2, 10, 11, 2, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    labels = ids.masked_fill(ids < 3, NO_LABEL)  # as collators do where padding and end are one token
    config = make_vae().config
    check_labels(None, ids, mask, config)
    check_labels(labels, ids, mask, config)
    for given in (mask, None):
        with pytest.raises(ValueError, match="labels are -100 at tokens of text"):
            check_labels(labels.masked_fill(ids == 10, NO_LABEL), ids, given, config)


def test_labels_that_are_others_than_the_ids_are_refused():
    """They would be passed over, and shifted ones, or those of another text, trained as if they were the ids."""
    ids, config = torch.tensor([[2, 10, 11, 2, 1]]), make_vae().config
    mask = ids != 1
    check_labels(torch.tensor([[-100, 10, 11, -100, 0]]), ids, mask, config)
    with pytest.raises(ValueError, match="are others"):
        check_labels(ids.roll(-1, 1), ids, mask, config)


ROWS = torch.tensor([[20, 30, 40], [25, 35, 1]])
READ = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(input_ids=[[20, 30]]), "input_ids is a list: give a"),
        (dict(input_ids=ROWS[0]), r"input_ids is of shape \(3,\)"),
        (dict(input_ids=ROWS[:0]), r"input_ids is of shape \(0, 3\)"),
        (dict(input_ids=ROWS.float()), "type torch.float32"),
        (dict(input_ids=ROWS + 240), "input_ids holds 260, and the vocabulary has ids 0 to 259"),
        (dict(input_ids=ROWS - 30), "input_ids holds -10"),
        (dict(attention_mask=READ[:, :2]), r"attention_mask \(2, 2\) and input_ids \(2, 3\) differ"),
        (dict(attention_mask=READ[:, None]), r"attention_mask \(2, 1, 3\)"),
        (dict(attention_mask=READ.tolist()), r"attention_mask \(a list\)"),
        (dict(attention_mask=READ - 1.0), "attention_mask holds -1.0"),
        (dict(labels=ROWS[:, :1]), r"labels \(2, 1\) and input_ids \(2, 3\) differ"),
        (dict(labels=ROWS + 240), "labels holds 260"),
        (dict(labels=ROWS.float()), "labels are of shape"),
    ],
    ids=str,
)
def test_what_is_no_row_of_ids_is_told_by_every_forward(kind, given, told):
    """A mask of fewer columns was stretched, and gave the logits of another text."""
    model, _, _ = KINDS[kind]()
    with pytest.raises(ValueError, match=told):
        model(**dict(input_ids=ROWS, attention_mask=READ) | given)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["autoencoder", "sllm"])
def test_ids_that_are_masked_may_be_anything(kind):
    model, _, _ = KINDS[kind]()
    expected = model(ROWS, READ).loss
    torch.testing.assert_close(model(ROWS.masked_fill(READ == 0, -100), READ).loss, expected)


@pytest.mark.parametrize("kind", ["autoencoder", "sllm"])
def test_a_loss_of_logits_is_refused_where_there_are_none(kind, tmp_path):
    """A Trainer with smoothed labels said KeyError: 'logits'."""
    model, tokenizer, texts = KINDS[kind]()
    with pytest.raises(ValueError, match="has no logits, of which a Trainer makes the loss with label_smoothing"):
        trainer_of(model, tokenizer, texts, tmp_path, label_smoothing_factor=0.1).train()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_on_embeddings_is_for_training_only(kind, tmp_path):
    """NEFTune's hook on the table wants rows of a batch."""
    losses = []
    for alpha in (None, 50.0):
        model, tokenizer, texts = KINDS[kind]()
        trainer = trainer_of(model, tokenizer, texts, tmp_path, neftune_noise_alpha=alpha, learning_rate=0.0)
        losses.append((trainer.train().training_loss, trainer.evaluate()["eval_loss"]))
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] == losses[1][1]
