"""Plain models that a compiled step of one row writes."""

import pytest
from families import loaded_as, make_lm
from transformers import CompileConfig, GenerationConfig

from lmbase.modeling.packed import KINDS
from multitoken import MultiTokenLM
from sllm.evaluation.loaded import Writing
from sllm.evaluation.row_steps import with_row_steps


@pytest.mark.parametrize("weights", ["dtype", *KINDS])
def test_compiled_steps_write_what_a_plain_model_writes(weights):
    """On a CPU these are a multi-token model's."""
    captured = CompileConfig(backend="eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    static = dict(cache_implementation="static", compile_config=captured)
    loaded = loaded_as(make_lm("llama", max_position_embeddings=24, hidden_size=32, num_attention_heads=2))
    if weights != "dtype":
        loaded.pack(weights, compiled=True)
    for draw in ({}, dict(do_sample=True, top_k=5)):
        expected = loaded.write("Hello", Writing(40, seed=3, settings=draw))
        assert loaded.write("Hello", Writing(40, seed=3, settings=draw | static)) == expected
    assert with_row_steps(loaded.model, loaded.tokenizer, GenerationConfig(**static)) is not None
    with pytest.raises(ValueError, match="num_draft=2"):
        loaded.write("Hello", Writing(4, num_draft=2, settings=static))


@pytest.mark.parametrize("weights", KINDS)
def test_weights_that_were_packed_for_no_compiled_steps_are_written_with_as_they_are(weights):
    static = dict(cache_implementation="static", compile_config=CompileConfig(backend="eager"))
    loaded = loaded_as(make_lm("llama", hidden_size=32, num_attention_heads=2))
    loaded.pack(weights)
    assert with_row_steps(loaded.model, loaded.tokenizer, GenerationConfig(**static)) is None
    assert loaded.write("Hello", Writing(8, settings=static)) == loaded.write("Hello", Writing(8))
    with pytest.raises(ValueError, match=f"LlamaForCausalLM holds weights in {weights}"):
        MultiTokenLM.from_lm(loaded.model)
