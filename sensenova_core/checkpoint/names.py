"""Parameter names: ours (two experts side by side) -> the published checkpoints' (experts interleaved by suffix).

Rules: docs/model.md. A path component that ends in `_mot_gen` marks the generation expert.
"""

_SUFFIX = "_mot_gen"

# Ours -> theirs, by prefix; everything below a prefix keeps its name.
_PREFIXES = {
    "understanding.vision.": "vision_model.embeddings.",
    "understanding.embed_tokens.": "language_model.model.embed_tokens.",
    "understanding.lm_head.": "language_model.lm_head.",
    "generation.vision.": f"fm_modules.vision_model{_SUFFIX}.embeddings.",
    "generation.timestep_embedder.": "fm_modules.timestep_embedder.",
    "generation.noise_scale_embedder.": "fm_modules.noise_scale_embedder.",
    "generation.head.": "fm_modules.fm_head.",
}
OUTPUT_HEAD = "language_model.lm_head.weight"  # which writes text; files made for drawing alone lack it
_DECODERS = {"understanding.decoder.": "", "generation.decoder.": _SUFFIX}


def checkpoint_name(parameter: str) -> str:
    """The published name of one of `SenseNovaU1.named_parameters()`.

    >>> checkpoint_name("generation.decoder.layers.3.self_attn.q_proj.weight")
    'language_model.model.layers.3.self_attn.q_proj_mot_gen.weight'
    """
    for ours, theirs in _PREFIXES.items():
        if parameter.startswith(ours):
            return theirs + parameter[len(ours) :]
    for ours, suffix in _DECODERS.items():
        if parameter.startswith(ours):
            return "language_model.model." + _mark(parameter[len(ours) :], suffix)
    raise KeyError(parameter)


def _mark(path: str, suffix: str) -> str:
    """Put the expert's suffix on the component that the published names put it on."""
    parts = path.split(".")
    marked = 0 if parts[0] == "norm" else 2  # "norm" itself, else what follows "layers.N"
    if parts[marked] == "self_attn":
        marked += 1
    parts[marked] += suffix
    return ".".join(parts)
