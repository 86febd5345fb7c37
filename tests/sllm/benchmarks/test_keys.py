"""Groups of keys: what they make of what is given."""

import pytest

from sllm.benchmarks.keys import ModelKeys, RawTextKeys


def test_a_build_for_each_size_with_the_keys_of_all():
    builds = ModelKeys(size=["tiny", "llama-tiny"], vocab_size=512, num_memory_tokens=4, seed=3).builds()
    assert [build.size for build in builds] == ["tiny", "llama-tiny"]
    assert {(build.vocab_size, build.num_memory_tokens, build.seed) for build in builds} == {(512, 4, 3)}


def test_raw_text_is_cut_to_size(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("One, two. " * 1000)
    corpus = RawTextKeys(data=str(tmp_path), text_megabytes=0.001).raw_text()
    assert 0 < len("".join(corpus.texts("test"))) <= 10_000


def test_prepared_data_are_no_raw_text(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="give the raw text"):
        RawTextKeys(data=str(tmp_path)).raw_text()
