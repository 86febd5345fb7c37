"""On which side of the line through token-level models another one lies, by numbers planted."""

import math

import pytest

from lmbase.report.frontier import Measurement, Point, beside_line, best_points, bits_at, curve, told

SIZES = [1000.0, 2000.0, 1500.0, 800.0]
WOBBLE = [0.98, 1.01, 1.0, 1.02]  # documents are not equally hard


def measured(name, bits, speed, more=(1.0, 1.0, 1.0)):
    nats = [bits * math.log(2) * size * w for size, w in zip(SIZES, WOBBLE, strict=True)]
    return Measurement(name, nats, [speed * factor for factor in more])


RIVALS = [measured("whole", 1.0, 100.0), measured("half", 1.2, 200.0), measured("quarter", 1.6, 400.0)]
RIVALS += [measured("worse", 1.3, 150.0)]  # half is better and faster


def test_the_line_is_straight_over_the_logarithm_of_speed_between_the_best():
    line = best_points([rival.point(SIZES) for rival in RIVALS])
    assert [point.name for point in line] == ["whole", "half", "quarter"]
    shared = bits_at(line, 200 * math.sqrt(2))
    assert shared == pytest.approx((line[1].bits + line[2].bits) / 2)
    assert bits_at(line, 200.0) == pytest.approx(line[1].bits)
    assert bits_at(line, 99.9) is None
    assert bits_at(line, 400.1) is None
    points = curve(line)
    assert points[0] == (100.0, pytest.approx(line[0].bits))
    assert points[-1] == (400.0, pytest.approx(line[-1].bits))
    assert all(bits == pytest.approx(bits_at(line, speed)) for speed, bits in points)


def test_equal_points_stand_once_and_one_point_is_a_line_of_no_length():
    twice = [Point("a", 1.0, 2.0), Point("b", 1.0, 2.0), Point("c", 1.0, 3.0)]
    assert [point.name for point in best_points(twice)] == ["a"]
    assert curve(best_points(twice)) == []


@pytest.mark.parametrize(("bits", "verdict", "over"), [(1.05, "beyond", 1.05 / 1.1), (1.15, "behind", 1.15 / 1.1)])
def test_a_planted_point_beyond_the_line_and_one_behind_are_told_apart(bits, verdict, over):
    found = beside_line(measured("sllm", bits, 100 * math.sqrt(2)), RIVALS, SIZES)
    assert found["verdict"] == verdict
    assert found["over_line"] == pytest.approx(over)
    assert found["over_line_low"] <= found["over_line"] <= found["over_line_high"]
    percent = f"{abs(100 * (over - 1)):.1f}% {'fewer' if over < 1 else 'more'}"
    assert percent in told("sllm", found)


def test_a_difference_that_one_round_or_the_documents_do_not_bear_out_is_level():
    """A twentieth below the line, but in one round half as slow again, where the line lies lower."""
    slow_once = measured("sllm", 1.05, 141.4, (1.0, 1.0, 0.75))
    found = beside_line(slow_once, RIVALS, SIZES)
    assert found["verdict"] == "level"
    assert found["over_line"] < 1 < found["over_line_rounds_high"]
    nats = [1.05 * math.log(2) * size * w for size, w in zip(SIZES, (0.7, 1.3, 0.7, 1.0), strict=True)]
    found = beside_line(Measurement("sllm", nats, [141.4] * 3), RIVALS, SIZES)
    assert found["verdict"] == "level"
    assert found["over_line_low"] < 1 < found["over_line_high"]


def test_a_slower_machine_in_one_round_moves_line_and_model_together():
    noise = (1.0, 0.5, 1.5)
    rivals = [measured(r.name, r.point(SIZES).bits, r.speeds[0], noise) for r in RIVALS]
    found = beside_line(measured("sllm", 1.05, 141.4, noise), rivals, SIZES)
    assert found["verdict"] == "beyond"
    assert found["over_line_rounds_low"] == pytest.approx(found["over_line_rounds_high"])


@pytest.mark.parametrize(
    ("bits", "speed", "told_so"),
    [
        (1.9, 500.0, "faster than every token-level point: no line"),
        (1.5, 500.0, "with fewer bits than the fastest"),
        (0.9, 50.0, "with fewer bits than all of them"),
        (1.1, 50.0, "behind whole in both"),
    ],
)
def test_beyond_the_ends_nothing_is_extrapolated(bits, speed, told_so):
    found = beside_line(measured("sllm", bits, speed), RIVALS, SIZES)
    assert list(found) == ["verdict"]
    assert told_so in told("sllm", found)


def test_a_round_beyond_the_ends_counts_where_one_is_better_in_both():
    """In the second round the model is faster than all."""
    fast_once = (1.0, 1.2, 1.0)
    for bits, verdict in ((1.3, "beyond"), (1.7, "level")):
        assert beside_line(measured("sllm", bits, 380.0, fast_once), RIVALS, SIZES)["verdict"] == verdict
    assert beside_line(measured("sllm", 1.1, 101.0, (1.0, 0.9, 1.0)), RIVALS, SIZES)["verdict"] == "behind"


def test_one_round_has_no_verdict():
    one = [Measurement(m.name, m.nats, m.speeds[:1]) for m in [measured("sllm", 1.05, 141.4), *RIVALS]]
    assert "one round is too little" in told("sllm", beside_line(one[0], one[1:], SIZES))


def test_one_document_has_no_verdict():
    one = [Measurement(m.name, m.nats[:1], m.speeds) for m in [measured("sllm", 1.05, 141.4), *RIVALS]]
    found = beside_line(one[0], one[1:], SIZES[:1])
    assert found["over_line"] < 1
    assert "too little" in told("sllm", found)
