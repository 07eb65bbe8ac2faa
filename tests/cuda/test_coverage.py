"""The ONNX backend suite through the CUDA target: a share of all cases compiles, and one of each family of operators runs."""

from __future__ import annotations

import re

import pytest
from emulated import needs_gxx
from onnx_coverage import compile_cases, present, run_cases

STEP = 32  # each so manieth case is compiled
# One case of each kind of thing that only some models do: sizes from data, control flow, Python's operators, few bits, sequences.
RUN = ["test_nonzero_example", "test_compress_0", "test_unique_sorted_with_axis", "test_nonmaxsuppression_two_classes", "test_top_k_same_values", "test_loop11", "test_loop13_seq", "test_loop16_seq_none", "test_if", "test_scan9_sum", "test_string_concat_broadcasting", "test_sequence_insert_at_front", "test_optional_get_element_tensor", "test_split_to_sequence_1", "test_tfidfvectorizer_tf_only_bigrams_skip0", "test_label_encoder_string_int", "test_cast_FLOAT_to_FLOAT8E5M2FNUZ", "test_cast_FLOAT4E2M1_to_FLOAT", "test_cast_INT4_to_FLOAT", "test_qlinearmatmul_3D_int8_float32", "test_dynamicquantizelinear", "test_dequantizelinear_e4m3fn", "test_matmulinteger", "test_qlinearconv", "test_gru_batchwise", "test_lstm_with_peepholes", "test_simple_rnn_with_initial_bias", "test_dft_axis", "test_stft", "test_ai_onnx_ml_tree_ensemble_set_membership", "test_einsum_batch_matmul", "test_scatternd_add", "test_scatter_elements_with_duplicate_indices", "test_gathernd_example_int32_batch_dim1", "test_resize_upsample_sizes_cubic", "test_roialign_aligned_true", "test_gridsample_bicubic", "test_deform_conv_with_mask_bias", "test_attention_4d_gqa_causal", "test_maxunpool_export_with_output_shape", "test_convtranspose_group_2", "test_col2im_pads", "test_lrn", "test_mvn", "test_det_nd", "test_blackmanwindow", "test_reversesequence_time"]  # fmt: skip


def test_a_share_of_all_cases_compiles() -> None:
    names = [n for n in present("node")[::STEP] if not re.search("affine_grid_3d_align_corners", n)]  # the importer refuses it
    found = compile_cases("node", names)
    assert not found.refused and len(found.compiled) == len(names) > 50


@needs_gxx
@pytest.mark.parametrize("part", range(2))
def test_one_of_each_family_runs(part: int) -> None:
    names = [n for n in RUN if n in set(present("node"))]
    assert len(names) >= len(RUN) - 2  # names differ between versions of onnx
    found = compile_cases("node", names[part::2])
    assert not found.refused
    run_cases("node", found)
    assert not found.wrong
