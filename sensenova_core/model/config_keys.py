"""Keys of a `config.json` that change the computation and are not read, and those that are known to change nothing.

What is in neither list, nor read, may be of a model that this engine does not know: it is refused by name.
"""

from typing import Any


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Switches with the only value this engine implements. A config that sets another is refused by the switch's name.
TOP_SWITCHES: dict[str, Any] = {
    "model_type": "neo_chat",
    "downsample_ratio": 0.5,
    "template": "neo1_0",
    "tie_word_embeddings": False,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "extra_num_layers_post": 0,
    "concat_time_token_num": 0,
    "use_adaLN": False,
    "fm_head_layers": 2,
}
DECODER_SWITCHES: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
VISION_SWITCHES: dict[str, Any] = {"model_type": "neo_vision", "downsample_ratio": 0.5}

# What transformers writes into any config, for training, for text or for its own use.
_TRANSFORMERS = _keys("""
    architectures attn_implementation auto_map dtype id2label initializer_range label2id name_or_path output_attentions
    output_hidden_states problem_type pruned_heads quantization_config return_dict tf_legacy_loss tokenizer_class
    torch_dtype torchscript transformers_version use_bfloat16 use_cache attention_dropout chunk_size_feed_forward
    bos_token_id eos_token_id pad_token_id sep_token_id begin_suppress_tokens do_sample early_stopping
    diversity_penalty exponential_decay_length_penalty length_penalty max_length min_length num_beam_groups num_beams
    num_return_sequences repetition_penalty temperature top_k top_p typical_p
""")
TOP_KEYS = _keys(
    """
    llm_config vision_config use_pixel_head max_pixels min_pixels patch_size add_noise_scale_embedding
    noise_scale noise_scale_base_image_seq_len noise_scale_max_value noise_scale_mode
    P_mean P_std base_image_seq_len base_shift fm_head_dim fm_head_mlp_ratio max_image_seq_len max_shift
    sensenova_u1_min_version t_eps time_schedule time_shift_type timestep_shift
    """
).union(TOP_SWITCHES, _TRANSFORMERS)
DECODER_KEYS = _keys(
    """
    model_type num_hidden_layers hidden_size num_attention_heads num_key_value_heads head_dim intermediate_size
    vocab_size rms_norm_eps rope_theta rope_theta_hw rope_scaling rope_parameters layer_types max_position_embeddings
    num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob mlp_only_layers decoder_sparse_step
    gen_num_experts gen_num_experts_per_tok gen_moe_intermediate_size
    max_position_embeddings_hw max_window_layers output_router_logits router_aux_loss_coef sliding_window
    """
).union(DECODER_SWITCHES, _TRANSFORMERS)
VISION_KEYS = _keys(
    """
    hidden_size num_channels patch_size rope_theta_vision
    llm_hidden_size max_pixels max_position_embeddings_vision min_pixels
    """
).union(VISION_SWITCHES, _TRANSFORMERS)
