"""The report as one HTML page: styles and charts inline, no script, nothing fetched; light or dark as the system is."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

from lmbase.report.charts import Series, bar_chart, colour, histogram, line_chart
from lmbase.report.collect import (
    COST_HEADERS,
    Curve,
    Report,
    clean,
    cost_rows,
    histograms,
    mark_differences,
    statistics_table,
    table_columns,
    tables,
)
from lmbase.report.formats import duration, number, size
from lmbase.report.rows import Row, best_cells, cell, header, is_number_column, value
from lmbase.report.style import STYLE

BARS = ("bits_per_byte", "tokens_per_second", "kv_bytes_per_token", "reconstruction_exact_match")


def render_html(report: Report) -> str:
    """The whole page. Every text from a file is escaped; a section without content is left out."""
    sections = [
        *(_figures(heading, rows) for heading, rows in tables(report.rows)),
        _training(report.curves),
        _data(report),
        _generations(report),
        _reconstructions(report),
        _cost(report),
        _provenance(report),
    ]
    return page(report.title, [_summary(report), *sections])


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML page of these parts; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(title)}</h1>\n" + "\n".join(filter(None, parts)) + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: object) -> str:
    return html.escape(clean(str(text)))


def section(heading: str, body: str, note: str = "") -> str:
    """A heading in HTML and what stands below it."""
    note = f'<p class="muted">{note}</p>' if note else ""
    return f"<section>\n<h2>{heading}</h2>{note}\n{body}\n</section>"


def _summary(report: Report) -> str:
    facts = []
    models = list(dict.fromkeys(row.model for row in report.rows if row.comparable))
    if models:
        facts.append(f"{len(models)} model{'s' * (len(models) > 1)}")
    num_bytes = max((row.bytes or 0 for row in report.rows if row.comparable), default=0)
    if num_bytes:
        facts.append(f"{size(num_bytes)} of unseen text scored")
    seconds = sum(cost.seconds for cost in report.costs)
    if seconds:
        facts.append(f"{duration(seconds)} of work")
    machines = {_machine(document["hardware"]) for document in report.metrics.values() if document.get("hardware")}
    facts += sorted(machines)
    return f'<p class="muted">{" · ".join(map(_text, facts))}</p>'


def _machine(hardware: dict) -> str:
    cores = f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
    return ", ".join([*hardware.get("gpus", []), cores])


# --- figures ----------------------------------------------------------------------------------------------------------


def _figures(heading: str, rows: Sequence[Row]) -> str:
    columns, shared = table_columns(rows)
    best = best_cells(rows, columns)
    numeric = {name for name in columns if is_number_column(rows, name)}
    head = "".join(f"<th{_n(name in numeric)}>{_text(header(name))}</th>" for name in columns)
    body = []
    for index, row in enumerate(rows):
        cells = []
        for name in columns:
            styles = [
                "n" if name in numeric else "",
                "first" if name == "model" else "",
                "best" if (index, name) in best else "",
            ]
            cells.append(f'<td class="{" ".join(filter(None, styles))}">{_text(cell(row, name))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<div class="card scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>'
    note = ", ".join(f"{name} {text}" for name, text in shared.items())
    note = f'<p class="muted small">All rows: {_text(note)}.</p>' if note else ""
    return section(heading, f'<div class="stack">{_bars(rows)}{table}</div>{note}')


def _bars(rows: Sequence[Row]) -> str:
    """One chart per figure, corpus and protocol, where there are two models or more to lay beside each other."""
    models = list(dict.fromkeys(row.model for row in rows))
    comparable = [row for row in rows if row.comparable]
    name_data, name_protocol = (len({value(row, name) for row in comparable}) > 1 for name in ("data", "protocol"))
    charts = []
    for name in BARS:
        groups: dict[tuple[str | None, str | None], list[Row]] = {}
        for row in comparable:
            if value(row, name) is not None:
                groups.setdefault((row.data, row.protocol), []).append(row)
        for (data, protocol), group in groups.items():
            if len(group) < 2:
                continue
            bars = [(clean(row.model), float(value(row, name)), models.index(row.model)) for row in group]
            shown = {float(value(row, name)): cell(row, name) for row in group}
            where = " · ".join(filter(None, (protocol if name_protocol else "", data if name_data else "")))
            note = f'<span class="muted small">{_text(where)}</span>' if where else ""
            charts.append(card(_text(header(name)) + f" {note}", bar_chart(bars, shown.__getitem__)))
    return f'<div class="cards">{"".join(charts)}</div>' if charts else ""


def card(heading: str, *parts: str) -> str:
    """A framed part of a section; heading and parts are HTML."""
    return f'<div class="card"><h3>{heading}</h3>{"".join(parts)}</div>'


def _n(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


# --- training and data ------------------------------------------------------------------------------------------------


def _training(curves: Sequence[Curve]) -> str:
    cards = []
    for key in dict.fromkeys(key for curve in curves for key in curve.evaluations):
        lines = []
        for index, curve in enumerate(curves):
            if key in curve.evaluations:
                points = [(curve.tokens_at.get(step, step), y) for step, y in curve.evaluations[key]]
                lines.append((index, Series(clean(curve.name), points, marked=True)))
        by_tokens = all(step in curve.tokens_at for curve in curves for step, _ in curve.evaluations.get(key, []))
        if not by_tokens:
            lines = [(index, Series(line.name, curves[index].evaluations[key], marked=True)) for index, line in lines]
        unit = "tokens of text seen" if by_tokens else "step"
        name = _text(header(key))
        cards.append(chart_card(f"{name} <span class='muted small'>evaluation</span>", lines, unit, header(key)))
    for curve in curves:
        lines = [(index, Series(clean(key), points)) for index, (key, points) in enumerate(curve.losses.items())]
        cards.append(
            chart_card(f"{_text(curve.name)} <span class='muted small'>training</span>", lines, "step", "loss")
        )
    cards = [card for card in cards if card]
    return section("Training", f'<div class="cards">{"".join(cards)}</div>') if cards else ""


def chart_card(heading: str, lines: Sequence[tuple[int, Series]], x_label: str, y_label: str) -> str:
    """A line chart with its legend, which names each line's last value; lines have a colour's number each."""
    chart = line_chart([line for _, line in lines], x_label, clean(y_label), tints=[tint for tint, _ in lines])
    if not chart:
        return ""
    legend = "".join(
        f'<span><i style="background:{colour(tint)}"></i>{_text(line.name.replace("_", " "))} '
        f"<b>{number(line.points[-1][1])}</b></span>"
        for tint, line in lines
        if line.points
    )
    return card(heading, f'<div class="legend">{legend}</div>', chart)


def _data(report: Report) -> str:
    parts = []
    for name, statistics in report.statistics.items():
        lines = statistics_table(statistics)
        if not lines:
            continue
        parts.append(card(_text(statistics.get("name") or name), _plain_table(lines[0], lines[1:])))
        charts = [
            card(f"Tokens per sentence, {_text(split)}", histogram(points, "tokens in a sentence", "sentences"))
            for split, points in list(histograms(statistics))[:2]  # train, and one to see whether it looks alike
        ]
        parts.append(f'<div class="cards">{"".join(charts)}</div>')
    return section("Data", f'<div class="stack">{"".join(parts)}</div>') if parts else ""


def _plain_table(head: Iterable[str], rows: Sequence[Sequence[str]], *, sum_row: bool = False) -> str:
    headers = "".join(f"<th{_n(index > 0)}>{_text(name)}</th>" for index, name in enumerate(head))
    lines = []
    for row_number, row in enumerate(rows):
        cells = "".join(f'<td class="{"n" if index else "first"}">{_text(text)}</td>' for index, text in enumerate(row))
        is_sum = sum_row and row_number == len(rows) - 1
        lines.append(f'<tr class="sum">{cells}</tr>' if is_sum else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><tr>{headers}</tr>{"".join(lines)}</table></div>'


# --- text -------------------------------------------------------------------------------------------------------------


def _generations(report: Report) -> str:
    samples = []
    for sample in report.generations:
        reason = (
            f'<span class="tag">ended by {_text(sample["finish_reason"])}</span>' if sample.get("finish_reason") else ""
        )
        samples.append(
            f'<div class="sample"><div class="head"><h3>{_text(sample.get("model", ""))}</h3>{reason}</div>'
            f'<p class="text" dir="auto"><span class="prompt">{_text(sample["prompt"])}</span>'
            f"{_text(sample['text'])}</p></div>"
        )
    note = "The prompt is grey; what follows it was generated."
    return section("Generated text", f'<div class="card">{"".join(samples)}</div>', note) if samples else ""


def _reconstructions(report: Report) -> str:
    samples = []
    for sample in report.reconstructions:
        text, copy = sample["text"], sample["reconstruction"]
        tag = '<span class="tag exact">exact</span>' if text == copy else ""
        head = f'<div class="head"><h3>{_text(sample.get("model", ""))}</h3>{tag}</div>'
        before, after = mark_differences(text, copy)
        rows = [("text", before, "lost")] + ([("decoded", after, "new")] if text != copy else [])
        pairs = "".join(
            f'<span>{label}</span><p class="text" dir="auto">{_marked(parts, kind)}</p>' for label, parts, kind in rows
        )
        samples.append(f'<div class="sample">{head}<div class="pair">{pairs}</div></div>')
    exact = sum(sample["text"] == sample["reconstruction"] for sample in report.reconstructions)
    note = (
        f"{exact} of {len(samples)} shown came back exactly. Marked are the words that "
        '<mark class="lost">were lost</mark> and those that <mark class="new">took their place</mark>.'
    )
    return section("Reconstructions", f'<div class="card">{"".join(samples)}</div>', note) if samples else ""


def _marked(parts: Sequence[tuple[str, bool]], kind: str) -> str:
    """White space at the front of a marked stretch stays outside the mark, where it would look like a smudge."""
    out = []
    for text, differs in parts:
        bare = text.lstrip()
        if differs and bare:
            out.append(f'{_text(text[: len(text) - len(bare)])}<mark class="{kind}">{_text(bare)}</mark>')
        else:
            out.append(f'<mark class="{kind}">{_text(text)}</mark>' if differs else _text(text))
    return "".join(out)


# --- cost and provenance ----------------------------------------------------------------------------------------------


def _cost(report: Report) -> str:
    rows = cost_rows(report)
    return section("What it cost", card("", _plain_table(COST_HEADERS, rows, sum_row=len(rows) > 1))) if rows else ""


def _provenance(report: Report) -> str:
    parts = []
    for name, document in report.metrics.items():
        known = {key: document[key] for key in document if key != "rows" and document[key] not in (None, {}, "")}
        if known:
            shown = json.dumps(known, indent=2, ensure_ascii=False)
            parts.append(f"<details><summary>{_text(name)}</summary><pre>{_text(shown)}</pre></details>")
    if report.left_out:
        listed = "".join(f"<li>{_text(reason)}</li>" for reason in report.left_out)
        parts.append(f"<h3>Left out, because they could not be read</h3><ul>{listed}</ul>")
    return section("How it was made", f'<div class="card">{"".join(parts)}</div>') if parts else ""
