"""Which GPUs a user's words name."""

import pytest

from lmbase.benchmarking.accelerators import LISTED, listed, parse_gpus


@pytest.mark.parametrize(
    ("words", "kind", "number"),
    [
        (["h100", "x8"], "h100", 8),
        (["8xH100"], "h100", 8),
        (["NVIDIA", "RTX", "4090", "x2"], "rtx4090", 2),
        (["4090"], "rtx4090", 1),
        (["a100-40GB"], "a100-40", 1),
        (["A100", "80GB", "x", "4"], "a100-80", 4),
        (["MI300X"], "mi300x", 1),
        (["mi300x", "x2"], "mi300x", 2),
        (["L40S"], "l40s", 1),
    ],
)
def test_a_kind_and_a_number(words, kind, number):
    found, count = parse_gpus(words)
    assert (listed(found).name, count) == (kind, number)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["h100", "x0"], "at least one"),
        (["h100", "x-2"], "at least one"),
        (["2xh100", "x4"], "two numbers"),
        (["x8"], "which GPU"),
        ([], "which GPU"),
        (["a100"], "a100-40 or a100-80"),
        (["h10"], "h100"),
        (["tpu"], "--tflops"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(words, told):
    with pytest.raises(ValueError, match=told):
        listed(parse_gpus(words)[0])


def test_every_line_has_its_source_and_rates_in_order():
    for gpu in LISTED.values():
        assert gpu.source.startswith("https://")
        assert (gpu.bf16 or gpu.fp32) >= gpu.fp32 > 0
        assert gpu.rate(True) >= gpu.rate(False) == 1e12 * gpu.fp32
