"""What a training step costs in floating-point operations, and how many a GPU does at most."""

import re

import torch
from transformers import PreTrainedConfig

# Dense, in bfloat16 (T4: float16, it has no other), from NVIDIA's data sheets. Most of these
# print twice that, "with sparsity": the figure in the remark.
PEAK_FLOPS = (
    (r"H[12]00 (NVL|.*NVL)", 835e12),  # H100 NVL and H200 NVL: 1,671
    (r"H100 PCIe", 756e12),  # H100, column PCIe: 1,513
    (r"H[12]00", 989e12),  # H100 and H200, column SXM: 1,979
    (r"A100", 312e12),  # 312 without sparsity
    (r"L4", 121e12),  # 242
    (r"T4", 65e12),  # 65 without sparsity
    # Ada architecture white paper, appendix A: 165.2 with float32 accumulation
    (r"RTX 4090(?! D)", 165e12),
)


def flops_per_token(config: PreTrainedConfig, *, n_tokens: float) -> float:
    """Return the operations that one token of a training step needs, forward and backward.

    With hidden size H, feed-forward size I, n tokens in the text and r relative positions, one
    layer's forward pass takes `8 H^2` (query, key, value and output projections), `4 H I`
    (feed-forward), `4 n H` (scores, and values weighted by them) and, in DeBERTa, `2 r H` for
    each of c2p and p2c. r is the number of distances that occur: at most `2 n - 1`, and no more
    than there are embeddings. A multiplication and its addition count as two; the backward pass
    takes twice the forward. Left out: what is no product of matrices, the head, the convolution
    of deberta-v2-xlarge, and the projection of the r positions, which a batch does once a layer
    (2 % of a batch of 4,000 tokens).

    Parameters
    ----------
    config : of BERT's family or of DeBERTa-v2 and v3
    n_tokens : in the text; for texts of unlike length their mean weighted by tokens, sum of
        squares over sum

    Source
    ------
    Chowdhery et al. 2022, "PaLM", appendix B (model FLOPs utilisation); c2p and p2c from He et
    al. 2021, "DeBERTa", eq. 4.
    """
    hidden = config.hidden_size
    forward = 8.0 * hidden**2 + 4 * hidden * config.intermediate_size + 4 * n_tokens * hidden
    if getattr(config, "relative_attention", False):
        spans = (config.position_buckets, config.max_relative_positions)
        span = next((span for span in spans if span > 0), config.max_position_embeddings)
        n_terms = sum(term in config.pos_att_type for term in ("c2p", "p2c"))
        forward += n_terms * 2 * min(2 * n_tokens - 1, 2 * span) * hidden
    return 3 * config.num_hidden_layers * forward


def peak_flops(device: torch.device | str) -> float | None:
    """Return the half-precision operations a second of a GPU's tensor cores; None if unknown."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for pattern, flops in PEAK_FLOPS:
        if re.search(rf"(?<![A-Z0-9]){pattern}(?![A-Z0-9])", name):
            return flops
    return None
