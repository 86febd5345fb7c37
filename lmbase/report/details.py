"""What an evaluation wrote beside its table (`sllm.evaluation.details`), read and drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lmbase.report.cards import Card, Section, Tints, line_card
from lmbase.report.charts import Series, colour, histogram, part_legend, point_map, stacked_bars
from lmbase.report.formats import short_count
from lmbase.report.tables import Table

FILE_NAME = "details.json"
LEAST_BYTES = 100  # at a place of a text, below which its figure is chance
PARTS = ("trunk", "encoder", "decoder", "vocabulary", "drafts")  # of a model, in the order of their bars
PLACES = {
    "in_sentence": ("position in the sentence", "token of the sentence"),
    "in_text": ("sentence number", "sentence of the text"),
}


@dataclass
class Drafts:
    """Counts at each place of a draft."""

    offered: list[int]
    accepted: list[int]


@dataclass
class Vectors:
    """Sentences as points (x, y, tokens, text) of a plane that holds `share` of their spread."""

    model: str
    share: float
    points: list[tuple[float, float, int, str]]


@dataclass
class Details:
    """Each part by model or by rule; empty where it was not measured."""

    places: dict[str, dict[str, list[tuple[float, float]]]] = field(
        default_factory=dict
    )  # place -> model -> nats, bytes
    cost: dict[str, dict[str, float]] = field(default_factory=dict)  # model -> part -> FLOPs per token
    drafts: dict[str, Drafts] = field(default_factory=dict)
    vectors: Vectors | None = None
    tokens_per_sentence: dict[str, list[int]] = field(default_factory=dict)  # rule -> sentences by their tokens


def read_details(path: Path) -> Details:
    """Raises ValueError for a file of another shape."""
    try:
        return TypeAdapter(Details).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def detail_sections(details: Details, tints: Tints) -> list[Section]:
    """What there is of them, as parts of a page."""
    lines = ((place, of_models) for place, of_models in details.places.items() if place in PLACES)
    return [
        Section(
            "Where in a text the bits go",
            [card for place, of_models in lines for card in _places(place, of_models, tints)],
            "The same openings of texts, token by token, for every model: lower is better. An end mark counts with the "
            f"token before it. Places with fewer than {LEAST_BYTES} bytes are left out.",
        ),
        _cost(details.cost),
        Section(
            "Drafts accepted by position",
            _drafts(details.drafts, tints),
            "In greedy writing with drafts as long as they go: the share of drafts in which this token was right, "
            "given that those before it were.",
        ),
        Section("Sentence vectors", _map(details.vectors)),
        Section(
            "Tokens per sentence, by rule of cutting",
            [
                Card(rule, histogram([*enumerate(counts)][1:], "tokens in a sentence", "sentences"))
                for rule, counts in details.tokens_per_sentence.items()
                if sum(counts[1:]) > 0
            ],
            "The same text, cut by each rule: the longer the sentences, the less often the trunk runs.",
        ),
    ]


def _places(place: str, of_models: Mapping[str, list[tuple[float, float]]], tints: Tints) -> list[Card]:
    lines = []
    for model, sums in of_models.items():
        found = [(k, nats / math.log(2) / size) for k, (nats, size) in enumerate(sums, 1) if size >= LEAST_BYTES]
        lines.append(Series(model, [(float(k), y) for k, y in found], tints[model]))
    heading, x_label = PLACES[place]
    return line_card(f"Bits per byte by {heading}", lines, x_label, "bits per byte")


def _cost(cost: Mapping[str, Mapping[str, float]]) -> Section:
    names = sorted({part for parts in cost.values() for part in parts}, key=lambda part: (*PARTS, part).index(part))
    bars = {model: {part: parts.get(part, 0.0) for part in names} for model, parts in cost.items()}
    heading = "FLOPs per token of text"
    lines = [
        [model, *(short_count(flops) if flops else "–" for flops in parts.values())] for model, parts in bars.items()
    ]
    return Section(
        "What a token costs",
        [Card(heading, stacked_bars(bars, short_count), legend=part_legend(bars))] if bars else [],
        "Of a forward pass, by formula. A sentence-level model's trunk works once a sentence; drafts are what further "
        "heads take where they guess.",
        [Table(["model", *names], lines, numeric={*range(1, len(names) + 1)}, caption=heading)] if bars else [],
    )


def _drafts(drafts: Mapping[str, Drafts], tints: Tints) -> list[Card]:
    lines = []
    for model, counts in drafts.items():
        pairs = zip(counts.offered, counts.accepted, strict=False)
        points = [(float(k), right / of) for k, (of, right) in enumerate(pairs, start=1) if of]
        lines.append(Series(model, points, tints[model], marked=True))
    return line_card("Share accepted", lines, "token of the draft", "share accepted", shares=True)


def _map(vectors: Vectors | None) -> list[Card]:
    """A dot for each sentence, coloured by its length."""
    if vectors is None or not vectors.points:
        return []
    lengths = sorted(tokens for *_, tokens, _ in vectors.points)
    borders = sorted({lengths[len(lengths) * part // 4] for part in (1, 2, 3)})
    points = [(x, y, sum(n > b for b in borders), f"{text.strip()} ({n} tokens)") for x, y, n, text in vectors.points]
    starts, ends = [lengths[0], *(b + 1 for b in borders)], [*borders, lengths[-1]]
    legend = [
        (colour(i), f"{a} to {b} tokens", "") for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a <= b
    ]
    note = f"{len(points)} sentences, in the plane that holds {vectors.share:.0%} of their spread (PCA)"
    return [Card(f"Vectors of {vectors.model}", point_map(points), note, legend)]
