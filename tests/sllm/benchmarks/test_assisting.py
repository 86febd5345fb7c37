"""An assistant that is replayed writes the text that it is told, with the drafts that it is told."""

import itertools

import pytest
import torch
from families import loaded_as, make_lm
from tiny import make_opt, make_sllm

from lmbase.modeling.kept_window import KeptWindow
from sllm.benchmarks.assisting import Assist, mixed, time_writing
from sllm.benchmarks.replaying import ReplayedAssistant
from sllm.evaluation.kept_window import keeping


@pytest.mark.parametrize(("counts", "per_forward"), [([0], 1.0), ([0, 2, 2, 0], 2.0), ([3], 4.0)])
def test_a_replayed_assistant_writes_its_text_with_the_guesses_it_is_told(counts, per_forward):
    opt, sllm = make_opt(max_position_embeddings=128), make_sllm(opt=dict(max_position_embeddings=64))
    with torch.no_grad():  # no end marks, as with untrained weights
        sllm.get_input_embeddings().weight[sllm.config.eos_token_id] = 0
    text = [2, *sllm.processor.encode("One, two and three. Four? Yes, five: six and seven! " * 2).input_ids]
    assistant = ReplayedAssistant(sllm, 3, text, mixed(counts))
    written = time_writing(opt, [text[:10]], 80, assistant)
    assert written.ids == [text[:90]]
    assert written.tokens_per_forward == pytest.approx(per_forward, rel=0.1)
    assert written.seconds > 0


def test_every_stretch_of_mixed_counts_has_the_shares_of_the_whole():
    counts = [0] * 600 + [1] * 300 + [4] * 100
    replayed = list(itertools.islice(mixed(counts), 250))
    for start in range(0, 250, 50):
        stretch = replayed[start : start + 50]
        assert [stretch.count(count) for count in (0, 1, 4)] == pytest.approx([30, 15, 5], abs=2)


def test_a_model_that_forgets_takes_no_drafts(monkeypatch):
    kept = keeping(loaded_as(make_lm("llama")), KeptWindow(2))
    pair = {"kept": kept, "sllm": loaded_as(make_sllm())}
    monkeypatch.setattr("sllm.benchmarks.assisting.load_model", pair.get)
    with pytest.raises(ValueError, match=r"keep_window=2.*takes no drafts"):
        _ = Assist(assist_pair=["kept", "sllm"]).pair
