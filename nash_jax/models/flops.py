"""Floating-point operations of a model's forward pass, counted from its spec.

Those of matrix products alone, two for a multiplication and an addition, as in appendix B of PaLM (Chowdhery et al.
2022): norms, softmax and activations are left out, and so is what rematerialisation computes again.
"""

import dataclasses

import numpy as np

from nash_jax.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass over some rows.

    Attributes:
      encoder: of the encoder.
      decoder: of the decoder, with the keys and values that it computes of the encoder's output, and the LM head.
    """

    encoder: float
    decoder: float


def forward_flops(spec: ModelSpec, sources: np.ndarray, targets: np.ndarray) -> ForwardFlops:
    """Counts the operations of a teacher-forced forward pass.

    Self-attention counts all pairs of positions, also those that the causal mask hides.

    Args:
      spec: the model; layers may have other sizes each.
      sources: tokens of each source, int [rows].
      targets: tokens of each target, int [rows].

    Example, a T5-small:
      >>> from nash_jax.spec import DecoderLayer, EncoderLayer
      >>> heads = tuple(range(8))
      >>> encoder, decoder = (EncoderLayer(heads, 2048),) * 6, (DecoderLayer(heads, heads, 2048),) * 6
      >>> spec = ModelSpec(32128, d_model=512, head_dim=64, num_heads=8, encoder=encoder, decoder=decoder)
      >>> flops = forward_flops(spec, np.array([128]), np.array([32]))
      >>> f"{flops.encoder:.4g} {flops.decoder:.4g}"
      '5.033e+09 3.33e+09'
    """
    sources, targets = (np.asarray(lengths, np.float64) for lengths in (sources, targets))
    source, target, pairs, own_sources, own_targets = (
        float(x.sum()) for x in (sources, targets, sources * targets, sources**2, targets**2)
    )
    width, products = spec.d_model, 3 if spec.gated else 2
    encoder = decoder = 0.0
    for layer in spec.encoder:
        inner = len(layer.heads) * spec.head_dim_of("encoder")
        encoder += 8 * width * inner * source + 4 * inner * own_sources
        encoder += 2 * products * width * layer.ffn * source
    for step in spec.decoder:
        own, cross = (len(heads) * spec.head_dim_of("decoder") for heads in (step.self_heads, step.cross_heads))
        decoder += 8 * width * own * target + 4 * own * own_targets
        decoder += 4 * width * cross * (target + source) + 4 * cross * pairs
        decoder += 2 * products * width * step.ffn * target
    return ForwardFlops(encoder, decoder + 2 * width * spec.vocab_size * target)
