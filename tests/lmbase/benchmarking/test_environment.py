"""What a run was made on is told, and no host and no path."""

import json

import torch

from lmbase.benchmarking.environment import environment


def test_the_environment_is_told_without_places():
    document = environment()
    assert list(document) == ["git_revision", "versions", "hardware"]
    assert document["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in document["versions"]["torch"]
    assert document["hardware"]["cores"] >= 1
    assert document["hardware"]["cpu"]
    assert "/home" not in json.dumps(document)
