"""A run's folder is continued with the same configuration and the same data only."""

import pytest
from toy_training import toy_train


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    toy_train(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 -> 0\.02") as error:
        toy_train(tmp_path, max_steps=2, learning_rate=0.02, log_every=1)
    assert "log_every" not in str(error.value)
    toy_train(tmp_path, max_steps=2, log_every=1, micro_batch_size=1)
    with pytest.raises(ValueError, match="60 items, the data now has 59"):
        toy_train(tmp_path, max_steps=2, num_items=59)


def test_a_run_is_not_continued_on_other_text(tmp_path):
    toy_train(tmp_path / "known", data_hash="0a" * 32)
    with pytest.raises(ValueError, match=r"0a0a0a0a, now 0b0b0b0b.*another output_dir"):
        toy_train(tmp_path / "known", data_hash="0b" * 32)
    toy_train(tmp_path / "known", data_hash="0a" * 32)
    toy_train(tmp_path / "unknown")
    toy_train(tmp_path / "unknown", data_hash="0a" * 32)


def test_a_run_that_never_began_claims_no_folder(tmp_path):
    def broken(items):
        raise ValueError("no such shard")

    with pytest.raises(ValueError, match="no such shard"):
        toy_train(tmp_path, make_batch=broken)
    _, result = toy_train(tmp_path, learning_rate=0.02)
    assert result.steps == 12
