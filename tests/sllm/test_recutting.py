"""The share of sentences that their own text would not give."""

from tiny import make_processor

from sllm.recutting import recut_share


def test_of_the_written_ones():
    processor = make_processor()
    one, two = processor.encode("He left. She stayed.").sentences()
    ids = one + two
    assert recut_share(processor, [([one, two], 0, ids)]) == 0.0
    parted = [one[:3], one[3:], two]
    assert recut_share(processor, [(parted, 0, ids)]) == 2 / 3
    assert recut_share(processor, [(parted, 2, ids), ([one], 0, one)]) == 0.0
    assert recut_share(processor, [([one], 1, one)]) is None
