"""Folders of every kind, mutated at random: never loaded as something else, and told in one sentence."""

from mutations import KINDS, try_mutations
from soak import times


def test_E4_E5_E10_E11_mutated_folders_are_refused_or_whole(tmp_path):
    tally = try_mutations(tmp_path, times(500, 10_000), seed=0)
    assert tally.wrong == []
    assert tally.tracebacks == []
    assert set(tally.told) == set(KINDS)


def test_mutations_are_found_to_be_loaded_where_nothing_is_verified(tmp_path, monkeypatch):
    monkeypatch.setattr("lmbase.files.verify_folder", lambda folder: None)
    assert try_mutations(tmp_path, 60, seed=0).wrong
