"""The multi-token model as users meet it: text in and out, scores, saving and loading."""

import pytest
import torch
from learned import PROMPTS, new_ids
from tiny import make_mtp
from transformers import AutoConfig, AutoModel

from lmbase.modeling.token_lm import TokenLM, score_tokens
from lmbase.text.tokenizers import load_tokenizer
from multitoken import MultiTokenLM

IDS = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 1, 1]])


class Streamer:
    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_text_in_text_out_and_streamed():
    model = make_mtp()
    model.tokenizer = load_tokenizer("bytes")
    streamer = Streamer()
    output = model.generate(text="He left.", max_new_tokens=9, num_draft=3, streamer=streamer)
    assert output.texts == [model.tokenizer.decode(output.sequences[0, 9:])]
    assert [i for part in streamer.parts for i in part] == output.sequences[0].tolist()
    assert streamer.ended
    several = model.generate(text=["He left.", "Why?"], max_new_tokens=9)
    assert several.texts[0] == output.texts[0]
    tensor = model.generate(text="He left.", max_new_tokens=9, return_dict_in_generate=False)
    assert torch.equal(tensor, output.sequences)


def test_transformers_word_for_drafting(counter):
    for use_mtp, accepted in ((True, True), (False, False)):
        _, output = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20, use_mtp=use_mtp)
        assert bool(output.statistics.offered) == accepted


def test_text_needs_a_tokenizer(counter):
    with pytest.raises(ValueError, match="no tokenizer"):
        counter.generate(text="a")


@torch.no_grad()
def test_scores_are_those_of_the_plain_opt(mtp):
    texts = ["He left.", "", "Much later, she came back."]
    tokenizer = mtp.tokenizer = load_tokenizer("bytes")
    expected = score_tokens(TokenLM(mtp.to_lm()), tokenizer, texts)
    assert mtp.score(texts).nats == pytest.approx([sum(wanted.token) for wanted in expected], rel=1e-4)


@torch.no_grad()
def test_saved_and_loaded_is_the_same(mtp, tmp_path):
    mtp.tokenizer = load_tokenizer("bytes")
    mtp.save_pretrained(tmp_path)
    for loaded in (MultiTokenLM.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert torch.equal(loaded.logits(IDS), mtp.logits(IDS))
        assert loaded.tokenizer.get_vocab() == mtp.tokenizer.get_vocab()
    assert AutoConfig.from_pretrained(tmp_path).num_future_tokens == 3
