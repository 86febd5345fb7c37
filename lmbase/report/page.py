"""What the templates of a report show: the verdict, its figures, texts side by side, and the rest in folded sections.

The HTML page has styles and charts inline, no script, and fetches nothing.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lmbase.durations import duration
from lmbase.report.cards import Card, Section, Tints, line_card
from lmbase.report.charts import Series, histogram, point_chart
from lmbase.report.collect import Curve, Report
from lmbase.report.columns import filled_columns, header, meanings
from lmbase.report.details import detail_sections
from lmbase.report.differences import mark_differences
from lmbase.report.figure import AXES, speed_points
from lmbase.report.formats import size
from lmbase.report.rows import Row
from lmbase.report.sections import cost_table, figure_tables, groups_of, histograms, statistics_table
from lmbase.report.story import Story, find_story


def page_values(report: Report) -> dict[str, Any]:
    """What `report.html` is filled with; a section without content is left out."""
    tints, story = Tints(), find_story(*report.tables)
    for name in [*(row.model for row in report.rows), *(curve.name for curve in report.curves)]:
        tints[name]  # the first model of the table has the first colour
    prompts = list(side_by_side(report.generations))
    documents = {name: {**document, "rows": None} for name, document in report.metrics.items()}
    return dict(
        title=report.title,
        facts=_facts(report),
        verdict=story.sentences if story else [],
        key=story.table() if story else None,
        frontier=_frontier(report.rows, tints),
        lead=_lead(prompts, story),
        sections=[section for section in _sections(report, tints) if section.cards or section.tables],
        prompts=prompts,
        reconstructions=[_compared(sample) for sample in report.reconstructions],
        meanings=meanings(dict.fromkeys(name for row in report.rows for name in filled_columns([row]))),
        provenance={
            name: {key: known[key] for key in known if known[key] not in (None, {}, "")}
            for name, known in documents.items()
        },
        left_out=report.left_out,
    )


def figures_json(report: Report) -> str:
    """The same figures for programs. What is not a finite number is null."""
    story = find_story(*report.tables)
    content = {"verdict": story.sentences if story else [], **dataclasses.asdict(report)}
    for document in content["metrics"].values():
        document["rows"] = [{**row, **row.pop("extra")} for row in document["rows"]]
    return json.dumps(_finite(content), indent=1) + "\n"


def _finite(item: Any) -> Any:
    if isinstance(item, dict):
        return {str(key): _finite(one) for key, one in item.items()}
    if isinstance(item, list | tuple):
        return [_finite(one) for one in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def _facts(report: Report) -> list[str]:
    comparable = [row for row in report.rows if row.comparable]
    models, num_bytes = len({row.model for row in comparable}), max((row.bytes or 0 for row in comparable), default=0)
    seconds = sum(cost.seconds for cost in report.costs)
    facts = [
        f"{models} model{'s' * (models > 1)}" if models else "",
        f"{size(num_bytes)} of unseen text scored" if num_bytes else "",
        f"{duration(seconds)} of work" if seconds else "",
    ]
    machines = [document["hardware"] for document in report.metrics.values() if document.get("hardware")]
    cores = {", ".join([*m.get("gpus", []), f"{m.get('cpu')}, {m.get('cores')} cores"]) for m in machines}
    return [*filter(None, facts), *sorted(cores)]


def _frontier(rows: Sequence[Row], tints: Tints) -> list[Card]:
    """Quality against speed, for the text and protocol of most models; nothing where no two stand side by side."""
    groups: dict[tuple, list[Row]] = {}
    for row in filter(lambda row: row.comparable, rows):
        groups.setdefault((row.text, row.protocol), []).append(row)
    points = max(map(speed_points, groups.values()), key=len, default={})
    if len(points) < 2:
        return []
    named = [(name, x, y, tints[name]) for name, (x, y) in points.items()]
    return [Card("Quality against speed", point_chart(named, *AXES), "better is right and below")]


def side_by_side(generations: Sequence[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """For each prompt the text's own continuation and what models wrote, equal texts once: {"prompt", "truth",
    "texts": [(models, text, finish_reason)]}."""
    by_prompt: dict[str, list[dict[str, str]]] = {}
    for sample in generations:
        by_prompt.setdefault(sample["prompt"], []).append(sample)
    for prompt, samples in by_prompt.items():
        texts: dict[tuple[str, str], list[str]] = {}
        for sample in samples:
            texts.setdefault((sample["text"], sample.get("finish_reason") or ""), []).append(sample.get("model") or "")
        truth = next((sample["truth"] for sample in samples if sample.get("truth")), "")
        yield {"prompt": prompt, "truth": truth, "texts": [(names, *key) for key, names in texts.items()]}


def _lead(prompts: Sequence[dict[str, Any]], story: Story | None) -> list[dict[str, Any]]:
    """The first two prompts with what the story's models made of them; without a story, the first prompt."""
    if story is None:
        return list(prompts[:1])
    names = [row.model for row in (story.baseline, story.subject) if row]
    kept = ({**p, "texts": [text for text in p["texts"] if set(names) & set(text[0])]} for p in prompts)
    return [p for p in kept if p["texts"]][:2] or list(prompts[:1])


def _sections(report: Report, tints: Tints) -> Iterator[Section]:
    for heading, rows in groups_of(report.rows).items():
        yield Section(heading, tables=figure_tables(heading, rows))
    for name, details in report.details.items():
        for section in detail_sections(details, tints):
            section.heading += f" ({name})" if len(report.details) > 1 else ""
            yield section
    yield Section("Training", [*_evaluations(report.curves, tints), *_losses(report.curves)])
    for name, statistics in report.statistics.items():
        try:
            yield from _of_data(statistics.get("name") or name, statistics)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            report.left_out.append(f"statistics.json of {name} is damaged: {error!r}")
    yield Section("What it cost", tables=[*filter(None, [cost_table(report)])])


def _of_data(name: str, statistics: dict[str, Any]) -> Iterator[Section]:
    table = statistics_table(statistics, f"What {name} holds")
    cards = [
        Card(f"Tokens per sentence, {split}", histogram(points, "tokens in a sentence", "sentences"))
        for split, points in [*histograms(statistics)][:1]
    ]
    if table:
        yield Section(f"Data: {name}", cards, tables=[table])


def _evaluations(curves: Sequence[Curve], tints: Tints) -> Iterator[Card]:
    """One chart for each evaluated figure, over tokens where every run counted them. Language models are laid beside
    each other by bits per byte alone: what is per own token means something else in each kind of them."""
    by_bytes = "bits_per_byte"
    for key in dict.fromkeys(key for curve in curves for key in curve.evaluations):
        having = [c for c in curves if key in c.evaluations and (key == by_bytes or by_bytes not in c.evaluations)]
        if not having:
            continue
        by_tokens = all(step in curve.tokens_at for curve in having for step, _ in curve.evaluations[key])
        lines = []
        for curve in having:
            points = [(curve.tokens_at[step] if by_tokens else step, y) for step, y in curve.evaluations[key]]
            lines.append(Series(curve.name, points, tints[curve.name], marked=True))
        unit = "tokens of text seen" if by_tokens else "step"
        yield from line_card(header(key), lines, unit, header(key), "evaluation")


def _losses(curves: Sequence[Curve]) -> Iterator[Card]:
    for curve in curves:
        lines = [Series(key, points, index) for index, (key, points) in enumerate(curve.losses.items())]
        yield from line_card(curve.name, lines, "step", "loss", "training")


def _compared(sample: dict[str, str]) -> dict[str, Any]:
    """A reconstruction beside its text, both as they are and as stretches that are marked or not."""
    before, after = mark_differences(sample["text"], sample["reconstruction"])
    exact = sample["text"] == sample["reconstruction"]
    return {"model": "", **sample, "exact": exact, "before": list(_marks(before)), "after": list(_marks(after))}


def _marks(parts: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """White space at the front of a marked stretch stays outside the mark, where it would look like a smudge."""
    for text, differs in parts:
        bare = text.lstrip()
        if differs and bare:
            yield text[: len(text) - len(bare)], False
        yield bare if differs and bare else text, differs
