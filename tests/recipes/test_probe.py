"""`sllm probe`."""

import json

from small_runs import make_runs, refused, sllm


def test_a_probe_tells_what_states_are_worth(tmp_path, capsys):
    runs = make_runs(tmp_path)
    sllm(f"probe --model {runs}/sllm --data {runs}/data --output_dir {tmp_path}/out")
    told = capsys.readouterr().out
    assert "states shuffled" in told
    rows = json.loads((tmp_path / "out/metrics.json").read_text())["rows"]
    assert [row["control"] for row in rows] == ["as_it_is", "zero", "shuffled", "another_document", "closed_window"]
    assert "give --model" in refused(f"probe --output_dir {tmp_path}/out", capsys)
    assert "only an SLLM" in refused(f"probe --model {runs}/opt --output_dir {tmp_path}/out", capsys)
