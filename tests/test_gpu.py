"""On a GPU: training through the recipes in bf16; scores and greedy text equal the CPU's in fp32."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import MEMORY, SLLMS, make_mtp, make_opt, make_sllm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TEXTS = ["It rained. Nobody came, said Ann!", "One sentence", "A. B. C. D. E. F. G. H.", "Größe 3.5 \N{OWL}"]
TRAIN = "--max_steps 4 --batch_size 4 --learning_rate 3e-3 --warmup_steps 1 --log_every 2 --device cuda --dtype bf16"


def sllm(command: str) -> None:
    """As a user types it: a process of its own, because accelerate chooses the device once per process."""
    done = subprocess.run([sys.executable, "-m", "sllm_recipes.cli", *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines() if "loss" in line]


def test_recipes_train_in_bf16_and_what_they_write_is_read_on_the_cpu(tmp_path):
    for split, number in (("train", 40), ("valid", 4), ("test", 4)):
        lines = [json.dumps({"text": f"Text {i} of {split} begins. " * 8}) for i in range(number)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    data = f"--data {tmp_path}/data"
    sllm(f"prepare --data {tmp_path}/*.jsonl --tokenizer bpe:300 --rule punctuation --output_dir {tmp_path}/data")
    sllm(f"train-opt --opt random:tiny {data} --context 64 {TRAIN} --output_dir {tmp_path}/opt")
    sllm(f"pretrain-vae --opt {tmp_path}/opt {data} {TRAIN} --output_dir {tmp_path}/vae")
    graft = f"--vae {tmp_path}/vae --opt {tmp_path}/opt --max_sentences 8"
    sllm(f"finetune-sllm {graft} {data} {TRAIN} --output_dir {tmp_path}/sllm")
    sllm(f"finetune-mtp --opt {tmp_path}/opt {data} --context 64 {TRAIN} --output_dir {tmp_path}/mtp")
    for name in ("opt", "vae", "sllm", "mtp"):
        found = losses(tmp_path / name)
        assert found[-1] < found[0]
        weights = load_file(tmp_path / name / "model" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        record = json.loads((tmp_path / name / "training.json").read_text())
        assert record["made_on"]["hardware"]["gpus"]
    sllm(f"audit --model {tmp_path}/sllm {tmp_path}/opt {tmp_path}/mtp {data} --device cpu")
    for dtype in ("fp32", "bf16"):
        sllm(f"generate --model {tmp_path}/sllm --prompt Text --max_new_tokens 8 --device cuda --dtype {dtype}")


@pytest.fixture(params=sorted(SLLMS))
def pair(request):
    """The same SLLM on the CPU and on the GPU."""
    model = SLLMS[request.param]()
    return model, copy.deepcopy(model).to("cuda")


def test_scores_equal_the_cpus(pair):
    on_cpu, on_gpu = (model.score(TEXTS, contexts=["", "He said. And th", "", "X"]) for model in pair)
    assert on_gpu.nats == pytest.approx(on_cpu.nats, rel=1e-4)
    assert (on_gpu.bytes, on_gpu.tokens) == (on_cpu.bytes, on_cpu.tokens)


def test_greedy_text_equals_the_cpus(pair):
    on_cpu, on_gpu = (model.generate(text=TEXTS, max_new_tokens=24, min_new_tokens=8) for model in pair)
    assert on_gpu.texts == on_cpu.texts
    assert on_gpu.sentence_lengths == on_cpu.sentence_lengths
    assert on_gpu.finish_reason == on_cpu.finish_reason


def test_compiled_steps_write_the_same():
    model = make_sllm(num_future_tokens=3, draft_head_kind="residual", draft_transitions=True, **MEMORY).to("cuda")
    for num_draft in (1, 3):
        options = dict(text=TEXTS, max_new_tokens=24, min_new_tokens=8, num_draft=num_draft)
        plain = model.generate(**options)
        for _ in range(3):  # the third call replays what the second recorded
            found = model.generate(**options, cache_implementation="static")
            assert found.texts == plain.texts
            assert found.sentence_lengths == plain.sentence_lengths


@torch.no_grad()
def test_opts_greedy_text_equals_the_cpus():
    opt = make_opt()
    prompt = torch.tensor([[opt.config.bos_token_id, 40, 41, 42]])
    on_cpu, on_gpu = (
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        for model, ids in ((opt, prompt), (copy.deepcopy(opt).to("cuda"), prompt.to("cuda")))
    )
    assert torch.equal(on_cpu, on_gpu.cpu())


@pytest.mark.parametrize("num_draft", [1, 3, "auto"])
def test_drafted_text_equals_the_cpus(num_draft):
    mtp, prompts = make_mtp(), torch.tensor([[1, 2, 40, 41], [2, 50, 51, 52]])
    drafting = make_sllm(num_future_tokens=3, **MEMORY)
    expected = mtp.generate(prompts, max_new_tokens=16, num_draft=1).sequences
    texts = drafting.generate(text=TEXTS, max_new_tokens=24, num_draft=1).texts
    found = copy.deepcopy(mtp).to("cuda").generate(prompts.to("cuda"), max_new_tokens=16, num_draft=num_draft)
    assert torch.equal(found.sequences.cpu(), expected)
    drafting = drafting.to("cuda")
    assert drafting.generate(text=TEXTS, max_new_tokens=24, num_draft=num_draft).texts == texts
