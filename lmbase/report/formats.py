"""Numbers as people read them, for tables, charts and reports."""

from __future__ import annotations

import math


def number(item: float) -> str:
    """Four significant digits, more where the whole part has more; thousands grouped: 0.01234, 12.34, 123.4, 12,345."""
    if isinstance(item, int) or abs(item) >= 10_000:
        return f"{item:,.0f}"
    if item == 0 or abs(item) < 1e-4:
        return f"{item:.3g}"
    return f"{item:,.{max(0, 3 - math.floor(math.log10(abs(item))))}f}"


def short_count(item: float) -> str:
    """A count with three digits and a unit: 950, 7.10M, 1.61B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(item) >= size * 0.9995:  # 999,999 is 1.00M, not 1000k
            scaled = item / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{item:.0f}"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Bytes with three digits and a decimal unit: 950 B, 1.93 MB."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(num_bytes) >= scale * 0.9995:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"
