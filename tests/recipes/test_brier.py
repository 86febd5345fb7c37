"""`sllm brier`."""

import json

from small_runs import refused, sllm


def test_models_with_a_likelihood_and_without_are_judged_side_by_side(runs, tmp_path, capsys):
    few = "--max_steps 2 --batch_size 2 --learning_rate 1e-3 --log_every 1 --device cpu --dtype fp32 --eval_every 2"
    data = f"--data {runs}/data"
    sllm(f"pretrain-vae --lm {runs}/opt --latent gaussian {data} {few} --output_dir {tmp_path}/soft")
    graft = f"--vae {tmp_path}/soft --lm {runs}/opt --max_sentences 16 {data} {few}"
    sllm(f"finetune-sllm {graft} --next_vector energy --freeze_autoencoder true --output_dir {tmp_path}/drawn")
    assert "bits_per_byte" not in capsys.readouterr().out
    judged = f"--places 12 --context 16 --texts 2 --new_tokens 40 {data} --output_dir {tmp_path}/out"
    sllm(f"brier --model {runs}/opt {runs}/sllm {tmp_path}/drawn {judged}")
    rows = {row["model"]: row for row in json.loads((tmp_path / "out/metrics.json").read_text())["rows"]}
    assert set(rows) == {"copy", "opt", "sllm", "drawn"}
    for row in rows.values():
        assert row["places"] == 12
        assert row["brier_1_low"] <= row["brier_1"] <= row["brier_1_high"]
        assert 0 <= row["repeated_32"] <= row["repeated_4"] <= 1
        assert row["bits_per_byte"] is None
    assert set(json.loads((tmp_path / "out/samples.json").read_text())) == set(rows)
    sllm(f"generate --model {tmp_path}/drawn --prompt The --max_new_tokens 4 --vector_temperature 0.5 --seed 1")
    out = f"--output_dir {tmp_path}/no"
    for recipe in ("evaluate --speed false --samples 0", "frontier"):
        message = refused(f"{recipe} --model {runs}/opt {tmp_path}/drawn {data} {out}", capsys)
        assert "drawn: next_vector='energy'" in message
        assert "no score and no bits per byte" in message
        assert not (tmp_path / "no").exists()  # before the other was scored
    assert "is for SLLMs" in refused(f"generate --model {runs}/opt --prompt A --vector_temperature 0.5", capsys)
    assert "give --model" in refused(f"brier {out}", capsys)
    assert "the same name" in refused(f"brier --model {runs}/opt {runs}/opt {data} {out}", capsys)
    assert "vector_temperature=1.5" in refused(f"brier --model {tmp_path}/drawn {data} --temperature 1.5 {out}", capsys)
    hot = refused(f"brier --model {runs}/opt {runs}/sllm {data} --temperature 1e9 {out}", capsys)
    assert "temperature=1000000000.0: give a number" in hot  # by a plain model, too
    assert not (tmp_path / "no").exists()
    assert "lower --context" in refused(f"brier --model {runs}/opt {data} --new_tokens 9999 {out}", capsys)
    told = refused(f"brier --model {runs}/opt {data} --context 1 --new_tokens 9999 {out}", capsys)
    assert "read whole" in told  # whatever the context is
    assert "lower --context" not in told
    sllm(f"brier --model {runs}/opt {data} --new_tokens 9999 --texts 0 --places 2 --output_dir {tmp_path}/short")
