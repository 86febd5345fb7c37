"""Autoencoders that several files test: both ways of pooling and both latents."""

import pytest
from tiny import make_vae

VARIANTS = [
    {"pooling": "learned", "num_encoder_layers": 2},
    {"pooling": "sum", "num_decoder_layers": 2, "seed": 9},
    {"latent": "gaussian"},
]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda options: next(iter(options.values())))
def variant(request):
    return make_vae(**request.param)
