"""Prepared data in words: how splits came about, what is in them, and what was left out and why."""

from sllm_data.corpora import SkipLog
from sllm_data.prepared import PreparedData

MANY_CAPPED = 0.1  # share of sentences that reach max_sentence_tokens from which a remedy is named


def describe(data: PreparedData) -> str:
    """What is in prepared data, as lines of text."""
    lines = [f"{data.folder}: {data.name} (SHA-256 {data.hash[:8]})"]
    if data.splits_are:
        lines.append(f"  splits: {data.splits_are}")
    skipped = SkipLog()
    for split, counts in data.statistics.items():
        lines += _described(split, counts, data.processor.max_sentence_tokens)
        skipped.update(counts["skipped"])
    return "\n".join([*lines, *(f"  left out {line}" for line in skipped.lines())])


def _described(split: str, counts: dict, cap: int) -> list[str]:
    if not counts["documents"]:
        return [f"  {split}: no text"]
    mean = counts["tokens"] / counts["sentences"]
    ratio = counts["piecewise_to_whole_tokens"]
    capped = sum(counts["tokens_per_sentence"][cap:]) / counts["sentences"]
    rules = ", ".join(f"{rule} {number}" for rule, number in counts["rules"].items())
    lines = [
        f"  {split}: {counts['documents']:,} documents, {counts['bytes']:,} bytes, "
        f"{counts['sentences']:,} sentences ({capped:.1%} at the cap of {cap}), {counts['tokens']:,} tokens "
        f"({mean:.1f} per sentence, {ratio:.3f} times those of whole documents; {rules})"
    ]
    if capped > MANY_CAPPED:
        lines.append(
            f"  {split}: {capped:.0%} of the sentences reach the cap, which cuts longer ones in two: give "
            "more --max_sentence_tokens, a tokenizer of longer tokens (bpe:N, not bytes) or another --rule"
        )
    if counts.get("also_in_train"):
        lines.append(f"  {split}: {counts['also_in_train']:,} of the documents are in train, too: their scores flatter")
    return lines
