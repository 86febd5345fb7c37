"""`sllm benchmark` on the runs of a small text: the pipeline, scoring, caches, and an SLLM that assists an OPT."""

import hashlib

import pytest
from small_runs import SEEDS, sllm, story

from lmbase.report.rows import read_metrics
from lmbase.text import RULES
from sllm_data.prepared import PreparedData


@pytest.mark.filterwarnings("ignore:rule .sentence. found no Punkt model")
def test_the_pipeline_is_timed_on_raw_text(runs, capsys):
    command = f"benchmark --subset pipeline --rounds 1 --tokenizer bytes --output_dir {runs}/benchmark-pipeline --data"
    sllm(f"{command} {runs}/text")
    document = read_metrics(runs / "benchmark-pipeline")
    size = {split: sum(len(story(seed).encode()) for seed in seeds) for split, seeds in SEEDS.items()}
    rows = {row.model: row for row in document["rows"]}
    assert set(rows) == {*(f"segment {rule}" for rule in RULES), "tokenise", "prepare"}
    for name, row in rows.items():
        assert row.protocol == "pipeline"
        assert row.bytes == (sum(size.values()) if name == "prepare" else size["train"])
        assert row.extra["megabytes_per_second"] > 0
    assert document["corpus"]["sha256"] == PreparedData.load(runs / "data").hash
    assert {path.name for path in (runs / "benchmark-pipeline").glob("[!.]*")} == {"metrics.json", "table.md"}
    with pytest.raises(SystemExit):
        sllm(f"{command} {runs}/data")
    assert "raw text" in capsys.readouterr().err


def test_scoring_is_timed_on_the_test_split(runs):
    sllm(
        f"benchmark --subset evaluate --size tiny --rounds 1 --window_tokens 40 --window_sentences 6 --device cpu "
        f"--score_megabytes 0.0005 --data {runs}/data --output_dir {runs}/benchmark-evaluate"
    )
    rows = read_metrics(runs / "benchmark-evaluate")["rows"]
    assert [(row.model, (row.protocol or "").split(": ")[1]) for row in rows] == [
        ("OPT tiny", "full window"),
        ("SLLM tiny", "full window"),
        ("SLLM tiny", "full window, equal context"),
    ]
    for row in rows:
        assert (row.protocol or "").startswith("evaluate 40 tokens, 6 sentences")
        assert row.dtype == "fp32"
        assert 500 <= (row.bytes or 0) < 600  # cut behind a sentence
        assert row.extra["seconds_per_megabyte"] > 0
        assert row.extra["threads"] >= 1
    assert rows[0].extra["speed_ratio"] == 1


def test_drafts_are_taken_from_an_sllm_with_heads(runs, capsys):
    for name in ("sllm", "opt"):
        with pytest.raises(SystemExit):
            sllm(f"benchmark --subset generate --size tiny --quick --data {runs}/data --drafts_from {runs}/{name}")
        assert "an SLLM with drafting heads is needed" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:rule .sentence. found no Punkt model")
def test_the_cache_is_counted_for_every_rule(runs):
    sllm(
        f"benchmark --subset cache --size tiny small --data {runs}/text --tokenizer bytes --vocab_size 512 "
        f"--output_dir {runs}/benchmark-cache"
    )
    document = read_metrics(runs / "benchmark-cache")
    opt, *by_rule = (row for row in document["rows"] if row.model.endswith("tiny"))
    assert [row.extra["rule"] for row in by_rule] == [rule for rule in RULES if rule != "learned"]
    for row in by_rule:
        assert row.kv_bytes_per_token * row.extra["tokens_per_position"] == pytest.approx(opt.kv_bytes_per_token)
    texts = [story(seed).encode() + b"\0" for seed in SEEDS["test"]]
    assert document["corpus"]["sha256"] == hashlib.sha256(b"".join(texts)).hexdigest()


def assist(runs, words: str) -> None:
    lists = {"--prompt_tokens": "24", "--num_guesses": "1 3"}
    words += "".join(f" {key} {values}" for key, values in lists.items() if key not in words)
    sllm(
        f"benchmark --subset assist --data {runs}/data --new_tokens 40 --rounds 1 "
        f"--vocab_size 64 --dtype fp32 --device cpu --output_dir {runs}/benchmark-assist {words}"
    )


def test_an_assistant_is_measured_and_replayed_at_other_sizes(runs, monkeypatch):
    monkeypatch.setattr("sllm.benchmarks.assisting.NUM_PROMPTS", 4)
    assist(runs, f"--assist_pair {runs}/opt-tuned {runs}/sllm --size small tiny")
    document = read_metrics(runs / "benchmark-assist")
    alone, *trained = document["rows"][:3]
    assert alone.model == "opt-tuned"
    assert [row.model for row in trained] == ["opt-tuned, sllm drafts 1", "opt-tuned, sllm drafts 3"]
    for row in trained:
        assert row.extra["equal_texts"] == row.extra["prompts"] == 4
        assert row.extra["speed_ratio"] == pytest.approx(row.tokens_per_second / alone.tokens_per_second)
    assert len([name for name in trained[1].extra if name.startswith("acceptance_")]) == 3
    baseline, *replayed = document["rows"][3:]
    assert baseline.model == "OPT small"
    assert [row.model for row in replayed] == ["OPT small, SLLM tiny drafts 1", "OPT small, SLLM tiny drafts 3"]
    for row, source in zip(replayed, trained, strict=True):
        assert row.protocol == "assist 24+40, acceptance of opt-tuned, sllm"
        assert row.extra["tokens_per_forward"] == pytest.approx(source.extra["tokens_per_forward"], rel=0.15)
    assert document["corpus"]["sha256"] == PreparedData.load(runs / "data").hash


def test_drawn_text_is_assisted_too(runs, monkeypatch):
    monkeypatch.setattr("sllm.benchmarks.assisting.NUM_PROMPTS", 4)
    assist(runs, f"--assist_pair {runs}/opt-tuned {runs}/sllm --size tiny tiny --temperature 0.8 --num_guesses 2")
    rows = read_metrics(runs / "benchmark-assist")["rows"]
    assert rows[1].protocol == "assist 24+40, temperature 0.8"
    assert rows[1].extra["equal_texts"] == 4  # the same draws
    assert rows[1].extra["tokens_per_forward"] < 2  # six steps of training do not make a guesser


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--size small tiny", "assist_pair=None"),
        ("--assist_pair {runs}/sllm {runs}/opt --size small tiny", "These are an SLLM and a plain token-level model"),
        ("--assist_pair {runs}/opt --size small tiny", "two are needed"),
        ("--assist_pair {runs}/opt {runs}/sllm --size small", "that of the model that is assisted"),
        ("--assist_pair {runs}/opt {runs}/sllm --size small tiny --prompt_tokens 2020", "the last token none"),
        ("--assist_pair {runs}/opt {runs}/sllm --size small tiny --num_guesses 39", "Write more"),
    ],
)
def test_what_cannot_assist_is_told(runs, words, told, capsys):
    with pytest.raises(SystemExit):
        assist(runs, words.format(runs=runs))
    assert told in capsys.readouterr().err
