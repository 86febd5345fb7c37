"""The sentence autoencoder: exact likelihood, caches, batches, latents, saving."""

from itertools import pairwise, product

import pytest
import torch
from safetensors import safe_open
from tiny import CAP, WIDTH, make_processor, make_vae
from transformers import AutoConfig, AutoModel

from lmbase.text.padding import pad_tokens
from sentencevae import SentenceVAE, SentenceVAEConfig
from sentencevae.decoder import sentence_targets

EOS, PAD = 2, 1
VARIANTS = [
    {"pooling": "learned", "num_encoder_layers": 2},
    {"pooling": "sum", "num_decoder_layers": 2, "seed": 9},
    {"latent": "gaussian"},
]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda options: next(iter(options.values())))
def variant(request):
    return make_vae(**request.param)


def make_sentences(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sentences of 1 to CAP tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, CAP + 1, (num,), generator=generator).tolist()
    return pad_tokens([torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths], PAD)


def all_sentences(vocabulary: int, cap: int) -> list[list[int]]:
    tokens = [i for i in range(vocabulary) if i != EOS]
    return [list(ids) for length in range(1, cap + 1) for ids in product(tokens, repeat=length)]


# -- targets -----------------------------------------------------------------------------------------------------------


def test_targets_masks_and_end_marks_are_cut_by_one_index():
    """Inputs, targets and mask of a row have its own sentence's length; a full one has no end mark to predict."""
    config = SentenceVAEConfig(max_sentence_tokens=3)
    ids, mask = pad_tokens([[5], [6, 7], [8, 9, 10]], PAD)
    cut = sentence_targets(ids, mask, config)
    assert cut.inputs.tolist() == [[EOS, 5, PAD, PAD], [EOS, 6, 7, PAD], [EOS, 8, 9, 10]]
    predicted = [row[m].tolist() for row, m in zip(cut.targets, cut.mask, strict=True)]
    assert predicted == [[5, EOS], [6, 7, EOS], [8, 9, 10]]
    assert cut.first.tolist() == [[True, False, False, False]] * 3


@torch.no_grad()
def test_probabilities_of_all_sentences_sum_to_1():
    """Four ordinary tokens beside OPT's special ones, sentences of 1 to 3 tokens, any vector."""
    vae = make_vae(vocab_size=8, max_sentence_tokens=3, processor=False)
    ids, mask = pad_tokens(all_sentences(8, 3), PAD)
    cut = sentence_targets(ids, mask, vae.config)
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)).expand(len(ids), -1)
    hidden = vae.decoder(vae.embed_tokens(cut.inputs), vector)
    logits = (hidden @ vae.embed_tokens.weight.T).double()
    logits[:, 0, EOS] = -torch.inf
    nats = -logits.log_softmax(-1).gather(-1, cut.targets[..., None])[..., 0].masked_fill(~cut.mask, 0)
    assert torch.exp(-nats.sum(1)).sum().item() == pytest.approx(1, abs=1e-5)
    assert vae.loss_counts(ids, mask)["token"] == cut.mask.sum()


# -- batches -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_batch_is_its_members(variant):
    """200 sentences fall into several buckets of like length: order and losses stay those of the sentences alone."""
    ids, mask = make_sentences(200)
    output = variant(ids, mask)
    vectors, states = variant.encode_states(ids, mask)
    torch.testing.assert_close(output.sentence_embeds, vectors)
    assert (states[~mask] == 0).all()
    alone = [variant(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(mask.sum(1).tolist())]
    torch.testing.assert_close(vectors, torch.cat([a.sentence_embeds for a in alone]), atol=1e-4, rtol=1e-4)
    for name, total in output.losses.items():
        torch.testing.assert_close(total, sum(a.losses[name] for a in alone), atol=1e-2, rtol=1e-5)
    assert output.correct == sum(a.correct for a in alone)


def test_mean_loss_is_the_sum_over_the_count(variant):
    ids, mask = make_sentences(10)
    output, counts, weights = variant(ids, mask), variant.loss_counts(ids, mask), variant.loss_weights
    expected = sum(weights[name] * output.losses[name] / counts[name] for name in counts)
    torch.testing.assert_close(output.loss, expected)
    assert counts.keys() == weights.keys() == output.losses.keys()


@torch.no_grad()
def test_sum_pooling_adds_up_token_states(vae):
    plain = make_vae(pooling="sum")
    ids, mask = make_sentences(6)
    vectors, states = plain.encode_states(ids, mask)
    torch.testing.assert_close(vectors, plain.encoder.pool_norm(states.sum(1)))
    vectors, states = vae.encode_states(ids, mask)
    assert not torch.allclose(vectors, vae.encoder.pool_norm(states.sum(1)), atol=0.1)


def test_gradients_reach_every_parameter(variant):
    variant.train()
    ids, mask = make_sentences(40)
    variant(ids, mask).loss.backward()
    variant.eval()
    missing = [name for name, p in variant.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    variant.zero_grad()


def test_focal_loss_is_for_training_only():
    vae = make_vae(focal_gamma=2.0)
    ids, mask = make_sentences(10)
    exact = vae(ids, mask)
    torch.testing.assert_close(exact.losses, make_vae()(ids, mask).losses)
    assert vae.train()(ids, mask).losses["token"] < 0.9999 * exact.losses["token"]


# -- decoding ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_steps_with_a_cache_equal_all_positions_at_once(variant):
    ids, mask = make_sentences(5)
    inputs = variant.embed_tokens(sentence_targets(ids, mask, variant.config).inputs)
    vectors = variant.encode(ids, mask)
    expected = variant.decoder(inputs, vectors)
    state = variant.decoder.start(vectors)
    borders = [0, 1, 4, 5, inputs.shape[1]]  # one position at a time and several
    steps = [variant.decoder.step(inputs[:, a:b], state) for a, b in pairwise(borders)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_is_causal(variant):
    """Another token at position 3 leaves the states that predict tokens 0 to 3 bit-equal."""
    ids, mask = pad_tokens([list(range(10, 18))], PAD)
    vector = variant.encode(ids, mask)
    changed = ids.clone()
    changed[0, 3] = 99
    first, second = (variant.decoder(variant.embed_tokens(x), vector) for x in (ids, changed))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])


@torch.no_grad()
def test_free_running_decoding_equals_recomputing_from_scratch(variant):
    ids, mask = make_sentences(8)
    vectors = variant.encode(ids, mask)
    written = variant.decode(vectors)
    for vector, row in zip(vectors, written, strict=True):
        again: list[int] = []
        while len(again) < CAP:
            hidden = variant.decoder(variant.embed_tokens(torch.tensor([[EOS, *again]])), vector[None])[0, -1]
            logits = hidden @ variant.embed_tokens.weight.T
            if not again:
                logits[EOS] = -torch.inf
            if (token := int(logits.argmax())) == EOS:
                break
            again.append(token)
        assert row == again
    assert {len(row) for row in written} - {CAP}, "some end before the cap"


@torch.no_grad()
@pytest.mark.parametrize("wish", [1.0, -1.0])
def test_a_written_sentence_is_never_empty_and_never_too_long(wish):
    """A decoder that wants nothing but end marks writes one token, one that wants none the cap."""
    vae = make_vae()
    vae.decoder.norm.weight.zero_()
    vae.decoder.norm.bias.fill_(1.0)
    vae.embed_tokens.weight[EOS] = wish * 10
    assert [len(row) for row in vae.decode(torch.randn(3, WIDTH))] == [1 if wish > 0 else CAP] * 3


# -- text --------------------------------------------------------------------------------------------------------------

TEXTS = ["He left, and then she left.", "", "A rather long clause without a mark", "</s><pad> 你好。"]


def test_reconstruct_does_not_depend_on_the_batch(variant):
    together = variant.reconstruct(TEXTS)
    assert together == variant.reconstruct(TEXTS, batch_size=1) == [variant.reconstruct([t])[0] for t in TEXTS]
    assert together[1] == ""


def test_reconstruct_writes_each_sentence_from_its_vector(vae):
    sentences = vae.processor.encode(TEXTS[0]).sentences()
    assert len(sentences) > 1
    written = [vae.decode(vae.encode(*pad_tokens([ids], PAD)))[0] for ids in sentences]
    assert vae.reconstruct(TEXTS[:1]) == [vae.processor.decode([i for ids in written for i in ids])]


def test_encode_text_reads_each_text_as_one_sentence(vae):
    vectors = vae.encode_text(["He left.", "You, too!"])
    rows = [vae.processor.encode(text).input_ids for text in ("He left.", "You, too!")]
    expected = vae.encode(*pad_tokens(rows, PAD))
    torch.testing.assert_close(vectors, expected)
    assert vae.encode_text([]).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has 0 tokens"), ("thirteen char", "has 13 tokens"), ("a\ud800", "at character 1")],
)
def test_encode_text_refuses_what_is_no_sentence(vae, text, message):
    with pytest.raises(ValueError, match=message):
        vae.encode_text([text])


@torch.no_grad()
def test_text_methods_ignore_training_and_leave_it_on():
    vae = make_vae(latent="gaussian", dropout=0.5)
    methods = (
        lambda: vae.encode_text(["He left."]).tolist(),
        lambda: vae.reconstruct(TEXTS),
        lambda: vae.interpolate("He left.", "You, too!"),
        lambda: vae.sample(5, seed=0),
    )
    expected = [method() for method in methods]
    vae.train()
    vae.encoder.eval()
    assert [method() for method in methods] == expected
    with pytest.raises(ValueError, match="0 tokens"):
        vae.encode_text([""])
    assert (vae.training, vae.decoder.training, vae.encoder.training) == (True, True, False)


def test_text_needs_a_processor():
    with pytest.raises(ValueError, match="no processor"):
        make_vae(processor=False).reconstruct(["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 100}, "260 ids and the model 100 rows"),
        ({"max_sentence_tokens": 8}, "up to 12 tokens and the model reads 8"),
        ({"pad_token_id": 0}, "another model's tokenizer"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(options, message):
    vae = make_vae(processor=False, **options)
    with pytest.raises(ValueError, match=message):
        vae.processor = make_processor()


def test_interpolation_begins_and_ends_with_the_reconstructions(variant):
    a, b = "He left.", "You, too!"
    written = variant.interpolate(a, b, steps=4)
    assert len(written) == 4
    ends = variant.decode(variant.encode_text([a, b]))
    assert [written[0], written[-1]] == [variant.processor.decode(ids) for ids in ends]
    with pytest.raises(ValueError, match="steps=1"):
        variant.interpolate(a, b, steps=1)


# -- Gaussian latent ---------------------------------------------------------------------------------------------------


def test_the_gaussian_latent_is_drawn_in_training_and_is_its_mean_else():
    vae = make_vae(latent="gaussian")
    ids, mask = make_sentences(20)
    assert torch.equal(vae.encode(ids, mask), vae.encode(ids, mask))
    mean = vae.encode(ids, mask)
    vae.train()
    torch.manual_seed(0)
    draws = torch.stack([vae.encode(ids, mask) for _ in range(300)])
    assert draws.std(0).min() > 0
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / 300**0.5).all()


def test_kl_is_that_of_torch_and_free_bits_are_its_floor():
    ids, mask = make_sentences(20)

    def kl(**options):
        return make_vae(latent="gaussian", **options)(ids, mask).losses["kl"]

    vae = make_vae(latent="gaussian")
    pooled, _ = vae.encoder(vae.embed_tokens(ids), mask)
    mean, log_var = vae.to_gaussian(pooled).chunk(2, dim=-1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl(free_bits=0.0), expected)
    assert expected > 0
    assert kl(free_bits=100.0) == 20 * WIDTH * 100


def test_a_recipe_can_warm_the_kl_up():
    vae = make_vae(latent="gaussian", kl_weight=0.5)
    assert vae.loss_weights == {"token": 1.0, "kl": 0.5}
    vae.kl_scale = 0.1
    assert vae.loss_weights["kl"] == pytest.approx(0.05)
    assert make_vae().loss_weights == {"token": 1.0}


def test_samples_repeat_with_a_seed():
    vae = make_vae(latent="gaussian")
    first, again, other = (vae.sample(5, seed=seed) for seed in (0, 0, 1))
    assert vae.sample(2, seed=0) == first[:2]  # D2: a draw depends on the seed and its number only
    assert len(first) == 5
    assert first == again != other
    with pytest.raises(ValueError, match="gaussian"):
        make_vae().sample()


# -- configuration, saving ---------------------------------------------------------------------------------------------


def test_every_broken_rule_is_named_at_once():
    with pytest.raises(ValueError) as error:
        SentenceVAE(SentenceVAEConfig(num_encoder_layers=5, num_attention_heads=7, pooling="max", latent="none"))
    assert all(word in str(error.value) for word in ("num_encoder_layers=5", "=7", "'max'", "'none'"))


@torch.no_grad()
@pytest.mark.parametrize("load", [SentenceVAE.from_pretrained, AutoModel.from_pretrained])
def test_save_and_load(variant, tmp_path, load):
    variant.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    ids, mask = make_sentences(5)
    torch.testing.assert_close(loaded(ids, mask).losses, variant(ids, mask).losses, rtol=0, atol=0)
    assert loaded.reconstruct(TEXTS) == variant.reconstruct(TEXTS)
    assert loaded.processor.fingerprint == variant.processor.fingerprint
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SentenceVAEConfig)
    assert not loaded.training


def test_loading_options_reach_the_processor(vae, tmp_path):
    """Subfolders, loading information; weights are never read from a pickle."""
    vae.save_pretrained(tmp_path / "inner")
    loaded, info = SentenceVAE.from_pretrained(tmp_path, subfolder="inner", output_loading_info=True)
    assert loaded.processor.fingerprint == vae.processor.fingerprint
    assert not info["missing_keys"]
    (tmp_path / "inner" / "model.safetensors").unlink()
    torch.save(vae.state_dict(), tmp_path / "inner" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        SentenceVAE.from_pretrained(tmp_path / "inner", use_safetensors=False)


def test_a_revision_of_the_hub_brings_its_own_processor(vae, tmp_path):
    """Two revisions in a download cache that differ in the rule."""
    cache = tmp_path / "models--someone--vae"
    (cache / "refs").mkdir(parents=True)
    for revision, rule in (("main", "punctuation"), ("other", "line")):
        commit = str(len(rule) % 10) * 40
        (cache / "refs" / revision).write_text(commit)
        vae.save_pretrained(cache / "snapshots" / commit)
        make_processor(rule).save_pretrained(cache / "snapshots" / commit)
    for revision, rule in (("main", "punctuation"), ("other", "line")):
        options: dict = dict(cache_dir=tmp_path, revision=revision, local_files_only=True)
        assert SentenceVAE.from_pretrained("someone/vae", **options).processor.rule == rule


def test_there_is_one_vocabulary_table(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    assert sum(260 in shape for shape in shapes) == 1
    assert sum(torch.Size(shape).numel() for shape in shapes) == vae.num_parameters()


def test_it_learns_to_write_its_sentences_again():
    torch.manual_seed(0)
    vae = make_vae(init_std=0.02)
    texts = ["He left.", "She stayed.", "They, too,", "and so on"]
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    ids, mask = pad_tokens([vae.processor.encode(t).input_ids for t in texts], PAD)
    for _ in range(120):
        optimizer.zero_grad()
        vae(ids, mask).loss.backward()
        optimizer.step()
    assert [vae.processor.decode(row) for row in vae.decode(vae.encode_text(texts))] == texts
