"""Write tables (CSV) and logs of a made-up shop, to try rules of cutting and models on text that is no prose.

    python data/build_records.py runs/records           # csv.txt and logs.txt, about 200 kB each

The same seed writes the same files. Names, articles and levels are drawn unevenly, times rise, totals are right: so
some of each line can be foretold from the lines before it, and some cannot.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from lmbase.files import write_text

NAMES = [
    "Ann Lee",
    "Bob Cole",
    "Cyd Frey",
    "Dora Voss",
    "Eli Park",
    "Finn Roy",
    "Gus Hale",
    "Ida Moss",
    "Jan Kerr",
    "Kim Dahl",
]
CITIES = ["Paris", "Oslo", "Lima", "Cairo", "Kyoto", "Perth", "Quito", "Turin"]
ARTICLES = {"tea": 3.5, "coffee": 7.25, "lamp": 24.0, "chair": 59.9, "pen": 1.2, "notebook": 2.8, "clock": 18.75}
PARTS = ["cart", "auth", "stock", "mail", "search"]
EVENTS = [
    ("INFO", "request {number} from 10.0.{a}.{b} answered in {ms} ms"),
    ("INFO", "user {user} logged in from 10.0.{a}.{b}"),
    ("INFO", "order {number} of {user} was paid"),
    ("DEBUG", "cache hit for key item:{number}"),
    ("WARNING", "retry {a} of request {number}: timed out after {ms} ms"),
    ("ERROR", "connection to database db-{a} was refused"),
]


def skewed(rng: random.Random, items: Sequence) -> object:
    """The first items oftener than the last."""
    return items[min(int(rng.expovariate(3 / len(items))), len(items) - 1)]


def table(rng: random.Random) -> Iterator[str]:
    yield "order,date,customer,city,article,price,number,total"
    day, home = datetime(2024, 1, 2), {name: rng.choice(CITIES) for name in NAMES}
    for order in range(10_001, 10**9):
        day += timedelta(days=rng.random() < 0.2)
        name, article, number = skewed(rng, NAMES), skewed(rng, list(ARTICLES)), 1 + int(rng.expovariate(0.7))
        price = ARTICLES[str(article)]
        city = home[str(name)]
        yield f"{order},{day:%Y-%m-%d},{name},{city},{article},{price:.2f},{number},{price * number:.2f}"


def log(rng: random.Random) -> Iterator[str]:
    now, number = datetime(2024, 5, 1, 8), 4_000
    while True:
        now += timedelta(milliseconds=int(rng.expovariate(0.002)))
        number += rng.random() < 0.6
        level, event = skewed(rng, EVENTS)  # type: ignore[misc]
        user = str(skewed(rng, NAMES)).lower().replace(" ", ".")
        numbers = dict(number=number, user=user, a=rng.randrange(4), b=rng.randrange(256), ms=rng.randrange(3, 900))
        yield f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03d} {level} [{skewed(rng, PARTS)}] " + event.format(
            **numbers
        )


def first(lines: Iterator[str], size: int) -> str:
    """So many characters of lines, or a line more."""
    found: list[str] = []
    while size > 0:
        found.append(next(lines) + "\n")
        size -= len(found[-1])
    return "".join(found)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--size", type=int, default=200_000, help="characters of each file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, lines in (("csv", table), ("logs", log)):
        text = first(lines(random.Random(arguments.seed)), arguments.size)
        write_text(arguments.output_dir / f"{name}.txt", text)


if __name__ == "__main__":
    main()
