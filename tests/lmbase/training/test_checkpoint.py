"""A folder is whole or absent; damage is found and named; training state goes through safetensors unchanged."""

import errno
import json

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from lmbase.files import verify_folder, write_folder
from lmbase.training.checkpoint import (
    list_checkpoints,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    newest_checkpoint,
    optimizer_tensors,
    prune_checkpoints,
)


def put(text):
    def write(folder):
        (folder / "a.txt").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.bin").write_bytes(b"\x00" * 100)

    return write


def put_checkpoint(folder, step):
    def write(target):
        put("hello")(target)
        state = {"step": step, "num_items": 3, "tokens": 0, "seconds": 0.0, "losses": {}}
        (target / "state.json").write_text(json.dumps(state))

    write_folder(folder / f"step_{step:08d}", write)


def test_a_written_folder_verifies_and_lists_its_files(tmp_path):
    write_folder(tmp_path / "out" / "model", put("hello"))
    verify_folder(tmp_path / "out" / "model")
    manifest = json.loads((tmp_path / "out" / "model" / "manifest.json").read_text())
    assert manifest["a.txt"]["bytes"] == 5
    assert set(manifest) == {"a.txt", "inner/b.bin"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path):
    def fail(folder):
        (folder / "a.txt").write_text("new")
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "model", put("old"))
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "model", fail)
    verify_folder(tmp_path / "model")
    assert (tmp_path / "model" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_an_os_error_whoever_notices_it(tmp_path):
    def fail(folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left") as error:
        write_folder(tmp_path / "model", fail)
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "model", put("old"))
    write_folder(tmp_path / "model", lambda folder: (folder / "c.txt").write_text("new"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["c.txt", "manifest.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a.txt").write_text("hallo"), "a.txt is damaged"),
        (lambda folder: (folder / "inner" / "b.bin").write_bytes(b"\x00" * 60), "b.bin has 60 bytes instead of 100"),
        (lambda folder: (folder / "a.txt").unlink(), "a.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "not written completely"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not written completely"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "not written completely"),
    ],
)
def test_damage_is_named_and_the_newest_whole_checkpoint_is_taken(tmp_path, damage, message):
    for step in (10, 20, 30):
        put_checkpoint(tmp_path, step)
    damage(tmp_path / "step_00000030")
    path, faults = newest_checkpoint(tmp_path)
    assert path == tmp_path / "step_00000020"
    assert len(faults) == 1
    assert message in faults[0]


def test_unfinished_writes_are_no_checkpoints(tmp_path):
    (tmp_path / ".step_00000010.abc.partial").mkdir()
    (tmp_path / "notes").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "absent") == (None, [])


def test_pruning_keeps_the_newest(tmp_path):
    for step in (9, 10, 100):
        put_checkpoint(tmp_path, step)
    prune_checkpoints(tmp_path, 2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [10, 100]


def test_E1_no_whole_checkpoint_goes_before_a_newer_one_verifies(tmp_path):
    for step in (8, 10):
        put_checkpoint(tmp_path, step)
    (tmp_path / "step_00000010" / "a.txt").write_text("hallo")
    prune_checkpoints(tmp_path, 1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [8]  # the damaged one is no checkpoint
    put_checkpoint(tmp_path, 9)
    (tmp_path / "step_00000009" / "manifest.json").unlink()
    prune_checkpoints(tmp_path, 1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [8]
    (tmp_path / "step_00000008" / "a.txt").unlink()
    prune_checkpoints(tmp_path, 1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [8]  # nothing verifies, so nothing is deleted


@pytest.mark.parametrize(
    "state",
    ["[1]", "{}", "[" * 100_000, '{"step": 1000000000, "num_items": 3, "tokens": 0, "seconds": 0, "losses": {}}'],
)
def test_E11_a_state_that_is_none_is_passed_over(tmp_path, state):
    put_checkpoint(tmp_path, 10)
    write_folder(tmp_path / "step_00000020", lambda folder: (folder / "state.json").write_text(state))
    path, faults = newest_checkpoint(tmp_path)
    assert path == tmp_path / "step_00000010"
    assert "state.json is damaged" in faults[0]


class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.embed = nn.Embedding(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 6, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(6.0), persistent=False)

    def forward(self, ids):
        return self.out(self.norm(self.embed(ids)))


def trained(seed):
    torch.manual_seed(seed)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.arange(6)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_model_and_optimizer_state_is_restored_bit_for_bit():
    (model, optimizer), (other, other_optimizer) = trained(0), trained(1)
    assert set(model_tensors(model)) == {
        "embed.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip
    load_model_tensors(other, {name: tensor.clone() for name, tensor in model_tensors(model).items()})
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    load_optimizer_tensors(other, other_optimizer, state)
    assert other.out.weight is other.embed.weight
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        net(torch.arange(6)).square().sum().backward()
        opt.step()
    for name, tensor in model_tensors(model).items():
        assert torch.equal(tensor, model_tensors(other)[name]), name


def test_state_of_another_model_is_refused():
    model, optimizer = trained(0)
    with pytest.raises(ValueError, match="another model"):
        load_model_tensors(Tied(width=8), model_tensors(model))
    with pytest.raises(ValueError, match=r"embed\.weight"):
        load_model_tensors(nn.Linear(2, 2), model_tensors(model))
    linear = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="optimizer"):
        load_optimizer_tensors(linear, torch.optim.AdamW(linear.parameters()), optimizer_tensors(model, optimizer))
