"""Arguments that networks and heads are built with: no others are taken from a file, which could ask for anything.

timm's own factory also takes arguments that fetch and open: an address of weights, a path of a checkpoint, a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from acmix.errors import UsageError
from acmix.near import did_you_mean

# what the constructors of our networks and of timm 1.0's are told, but for the channels of images, classes and images'
# sizes, which have settings
NETWORKS_NAMED = """
aa_layer aa_stem_only abs_win_pos_embed act_layer always_partition attention attention_size attn attn_act_layer
attn_block attn_block_token_only attn_drop_rate attn_groups attn_head_dim_reduction attn_layer attn_mlp attn_mlp_ratio
attn_only_layer_scale attn_pool_mlp_ratio attn_pool_num_heads attn_ratio attn_stage attn_type attn_types attn_upsample
aux_logits avg_down b base_dim base_dims base_width basic bias bidirectional block block_cfg block_cls block_config
block_layer block_layers block_layers_token block_reduce_first block_type bn_size bottle_ratio bottleneck_width_ratio
cardinality ch_div channel_attention channel_attn_v2 channel_multiplier channels channels_last class_token
cls_attn_layers cls_ratio conv_bias conv_block conv_init conv_kernels conv_layer conv_mlp conv_ratio conv_stages cpe_act
crop_scale crpe_window d2_scales deepen_factor depth depth_list depth_mult depth_token_only depths dim dim_mul dims
distillation distilled down_kernel_size down_op down_ops down_pad down_patch_size down_stride downsample
downsample_block downsample_expand_ratios downsample_kernel_size downsample_norm downsample_padding downsample_ratio
downsamples drop drop_block_rate drop_block_size drop_rate dropout dw_act_layer dynamic_img_pad dynamic_img_size
embed_dim embed_dims embed_layer embed_norm embed_norm_layer enable_patch_interpolator encoder_pool eta expand_groups
expand_ratio expansion_ratio extra_norm_period extra_norm_stage fc_act_layer fc_norm feature_dim feature_location ffn
ffn_ratio final_chs final_norm first_stride fix_init fix_stem focal_levels focal_windows fork_feat fused_conv
fused_downsample global_att_blocks global_attn_indexes global_block_counts global_pool global_pos_size group groups
growth_rate growth_rates head head_bias head_dim head_hidden_size head_init_scale head_mul head_norm head_norm_first
head_widths heads hidden_dim hidden_size hidden_sizes img_scale in_dim in_features inc_sec init_channels init_values
initial_chs inner_dim inplanes input_3x3 input_norm_layer intermediate_size is_downsample_block k_r k_sec kernel_size
kernel_sizes kernels key_dim layer_scale layer_scale_init_value layer_scale_init_values layers layerscale_value legacy
levels linear lkc_use_act local_conv_size local_mbconv_norm local_up_to_layer locality_strength ls_init_value
mask_unit_attn mask_unit_size mbconv_expand_ratio memory_efficient merge_size mix_block_ratio mlp_act mlp_bias mlp_block
mlp_block_token_only mlp_layer mlp_ratio mlp_ratio_token_only mlp_ratios msfa_indices msfa_output_resolution multi_conv
n_div named_blocks neck_chans nlhb no_embed_class norm_eps norm_layer norm_layer_cl norm_layers normalize_modulator
num_blocks num_blocks_list num_features num_heads num_heads_inner num_heads_outer num_init_features num_kv_heads
num_levels num_reg_tokens num_rnn_layers num_vit out_chs out_features outlook_attention output_norm output_stride
pad_type padding parallel_depth partial_dim patch_drop_rate patch_kernel patch_layer patch_norm patch_padding patch_size
patch_sizes patch_stride path pconv_fw_type pool_include_prefix pool_size pool_type pooling_kernel_size pooling_scale
pos_drop_rate pos_embed pos_embed_align_corners pos_embed_antialias pos_embed_ar_preserving pos_embed_grid_size
pos_embed_interp_mode pos_embed_use_grid_sample pos_embs position_embedding_size post_layers pre_norm preact
pretrained_window_sizes proj_bias proj_drop_rate proj_norm_layer proj_type q_pool q_stride qk_dim qk_norm qkv_bias
qkv_fused rates reduction reductions ref_feat_shape reg_tokens rel_pos_dim rel_pos_type reparam replace_stem_pool
repmixer_kernel_size res_scale_init_values return_interm_layers rnn_layer rope_grid_indexing rope_grid_offset
rope_jitter_coords rope_mrope_section rope_rescale_coords rope_rotate_half rope_shift_coords rope_temperature rope_theta
rope_type round_chs_fn scale scale_attn_inner scale_attn_norm scale_mlp scale_mlp_norm se_downsamples se_from_exp
se_layer se_ratio sep_pos_embed sequential_attn serial_depths shared_rel_pos shortcut_root sizes small small_kernels
spatial_conv sr_ratios ssd_expand stages standardize state_dim stem_bias stem_chs stem_conv stem_expand_ratio
stem_hidden_dim stem_kernel_size stem_mid_norm stem_norm stem_size stem_stride stem_type stem_use_scale_branch
stem_width strict_img_size stride strides swiglu_align_to swiglu_mlp token_mixers tokens_norm transformer_depths
transformer_drop_path transition_compression_ratio types use_abs_pos use_abs_pos_emb use_aux_head use_clipped_linears
use_conv use_expand_proj use_fc_norm use_grn use_lab use_layer_scale use_mix_token use_mlp_head use_msfa
use_overlap_down use_pos_emb use_pos_embed use_post_norm use_post_norm_in_modulation use_post_transformer_norm
use_pre_transformer_norm use_rel_pos use_rel_pos_bias use_rope use_rot_pos_emb use_shared_rel_pos_bias v2 version
vit_stem weight_init widen_factor width width_factor width_list width_mult widths window_ratio window_size window_sizes
window_spec with_fc wss zero_init_last zero_init_residual
"""
# those of the heads; see `acmix.create_detector` and `acmix.create_segmenter`
HEADS_NAMED = """
anchor_scale auxiliary_channels auxiliary_weight channels detections dropout extra hidden out_norms pools proposals
pyramid_channels samples score_threshold
"""
NETWORKS, HEADS = frozenset(NETWORKS_NAMED.split()), frozenset(HEADS_NAMED.split())
# how deep a value may lie in lists
DEPTH = 3


class Arguments(Protocol):
    """What holds arguments by name; the sections `model` and `task` of a configuration do."""

    @property
    def args(self) -> dict[str, Any] | None: ...


class Settings(Protocol):
    """`acmix.config.Config` is such."""

    @property
    def model(self) -> Arguments: ...
    @property
    def task(self) -> Arguments: ...


def check_architecture(settings: Settings, where: str) -> None:
    """Refuses arguments that are none of an architecture, and values that are no plain ones.

    Args:
        settings: of a network, as a file holds them, or as one is to hold them.
        where: the file, or what asks.

    Raises:
        UsageError: names the first of them.
    """
    of_sections: tuple[tuple[str, Mapping[str, Any], frozenset[str]], ...] = (
        ("model", settings.model.args or {}, NETWORKS),
        ("task", settings.task.args or {}, HEADS),
    )
    for section, given, known in of_sections:
        for name, value in given.items():
            if name not in known:
                hint = did_you_mean(name, sorted(known)) or "only sizes and kinds of layers are"
                raise UsageError(f"{where}: {section}.args.{name} is not taken from a file; {hint}")
            if not is_plain(value):
                raise UsageError(f"{where}: {section}.args.{name} is a {type(value).__name__}; expected plain values")


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is a number, a word, yes or no, nothing, or a list of such."""
    if isinstance(value, (list, tuple)):
        return depth < DEPTH and all(is_plain(each, depth + 1) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
