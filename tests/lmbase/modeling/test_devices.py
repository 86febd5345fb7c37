"""Devices are chosen or refused with what there is; weights go where they are sent."""

import pytest
import torch
from torch import nn

from lmbase.modeling.devices import choose_device, moved


@pytest.fixture
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("without_a_gpu")
class TestWithoutAGpu:
    def test_auto_is_the_processor(self):
        assert choose_device("auto") == choose_device("cpu") == "cpu"

    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", ""])
    def test_what_is_not_here_is_refused_with_what_is(self, name):
        with pytest.raises(ValueError, match=rf"device = '{name}', but here there is only 'cpu'; known are auto, cpu"):
            choose_device(name)


def test_with_a_gpu_it_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    with pytest.raises(ValueError, match="'cuda:2'"):
        choose_device("cuda:2")


def test_moved_changes_what_it_is_told_to():
    model = nn.Linear(2, 2)
    assert moved(model) is model
    assert moved(model, "cpu").weight.dtype == torch.float32
    assert moved(model, dtype=torch.bfloat16).weight.dtype == torch.bfloat16
