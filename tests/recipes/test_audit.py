"""`sllm audit` as a user types it: every model is audited, and told."""

import pytest
from families import MAKERS
from small_runs import refused, sllm


@pytest.mark.parametrize("data", ["text", "data"])
def test_audit_passes(runs, capsys, data):
    sllm(f"audit --model {runs}/sllm {runs}/opt --data {runs}/{data} --device cpu")
    assert capsys.readouterr().out.count("passed") == 2


def test_all_models_are_audited_though_one_fails(runs, capsys):
    with pytest.raises(SystemExit) as stopped:
        sllm(f"audit --model {runs}/vae {runs}/opt --data {runs}/data --device cpu")
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert "vae: NOT passed" in printed.out
    assert "opt: passed" in printed.out
    assert "autoencoder" in printed.err


def test_every_kind_is_audited(kinds, capsys):
    models = " ".join(f"{kinds}/{name}" for name in MAKERS)
    sllm(f"audit --model {models} --data {kinds}/test.txt --device cpu")
    assert capsys.readouterr().out.count(": passed") == len(MAKERS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Nothing to audit: give --model"),
        ("--model {}/plain --data {}/no-such.txt", "no-such.txt"),
        ("--model {}/no-such --data {}/test.txt", "no-such"),
    ],
)
def test_mistakes_end_with_a_message(kinds, words, told, capsys):
    assert told in refused(f"audit {words.replace('{}', str(kinds))} --device cpu", capsys)
