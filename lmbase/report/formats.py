"""Numbers as people read them, for tables, charts and reports."""

import math
import re


def number(item: float) -> str:
    """Four significant digits, more where the whole part has more; thousands grouped: 0.01234, 12.34, 123.4, 12,345."""
    if not math.isfinite(item):  # the last loss of a run that diverged
        return str(item)
    if isinstance(item, int) or abs(item) >= 10_000:
        return f"{item:,.0f}"
    if item == 0 or abs(item) < 1e-4:
        return f"{item:.3g}"
    return f"{item:,.{max(0, 3 - math.floor(math.log10(abs(item))))}f}"


def with_unit(item: float, units: str) -> tuple[float, str]:
    """The number in the largest of these units (thousands, millions, ...) of which it has at least one."""
    power = 0
    while power < len(units) and abs(item) >= 999.5:  # 999,999 is 1.00M, not 1000k
        item, power = item / 1000, power + 1
    return item, units[power - 1] if power else ""


def short_count(item: float) -> str:
    """A count with three digits and a unit: 950, 7.10M, 1.61B."""
    scaled, unit = with_unit(item, "kMB")
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}" if unit else f"{item:.0f}"


def size(num_bytes: float) -> str:
    """Bytes with three digits and a decimal unit: 950 B, 1.93 MB."""
    scaled, unit = with_unit(num_bytes, "kMG")
    return f"{scaled:.3g} {unit}B" if unit else f"{num_bytes:.0f} B"


def clean(text: str) -> str:
    """Text that UTF-8, HTML and SVG can hold: control characters become visible signs, lone surrogates U+FFFD."""
    signs = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
    signs |= dict.fromkeys((0xFFFE, 0xFFFF), 0xFFFD)  # which XML forbids
    return re.sub("[\ud800-\udfff]", "\ufffd", text.translate(signs))
