"""The entries of both lists of what went wrong with people's files and machines, and the tests of what is right.

The lists are of 85 cases drawn from public reports: tables (A to H), slides, features and running (A to C).
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

TABLES: dict[str, tuple[str, ...]] = {
    "A1 the id column is found by rule, not by counting": (
        "importing/test_expression_ids.py::test_each_case_gets_its_own_values",
        "importing/test_expression_ids.py::test_ambiguous_tables_are_refused_and_the_cure_works",
        "importing/test_any_writer.py::test_expression",
    ),
    "A2 a numeric column is not the id": (
        "importing/test_expression_ids.py::test_each_case_gets_its_own_values",
        "importing/test_expression_ids.py::test_a_stated_column_must_hold_the_cases",
    ),
    "A3 the sample's column decides the type": (
        "importing/test_expression_ids.py::test_each_case_gets_its_own_values",
        "importing/test_labels_as_found.py::test_a_column_of_samples_counts_as_the_ids_do",
        "importing/test_labels_as_found.py::test_a_column_of_sample_types_counts_as_a_barcode_does",
    ),
    "A annotation is no patient; the kept replicate is named": (
        "importing/test_expression_ids.py::test_columns_of_annotation_are_not_patients",
        "importing/test_expression_ids.py::test_the_kept_one_of_several_samples_is_named",
    ),
    "B1-B7 gene sets of every shape": (
        "importing/test_gene_set_shapes.py::test_each_shape_gives_the_same_sets",
        "importing/test_gene_set_shapes.py::test_the_inputs_that_people_had",
        "importing/test_gene_set_shapes.py::test_archives_and_workbooks",
        "importing/test_gene_set_shapes.py::test_other_shapes_are_refused_by_name",
        "importing/test_gene_set_shapes.py::test_the_cures_work",
    ),
    "C line ends, and warnings before a message": (
        "importing/test_table_formats.py::test_tables_are_read_however_they_were_saved",
        "importing/test_table_formats.py::test_genes_in_rows",
        "importing/test_table_formats.py::test_a_table_of_missing_values_is_refused_without_warnings",
    ),
    "D the order of rows decides nothing": (
        "importing/test_labels_as_found.py::test_a_case_is_redacted_if_any_of_its_rows_is",
        "importing/test_expression_ids.py::test_the_order_of_rows_of_a_gene_decides_nothing",
        "importing/test_labels_as_found.py::test_a_problem_of_the_outcome_names_the_file_of_the_user",
    ),
    "E one notion of missing": (
        "importing/test_table_formats.py::test_missing_is_the_same_for_all_readers",
        "importing/test_table_formats.py::test_what_is_not_missing",
        "importing/test_table_formats.py::test_further_spellings_are_stated",
    ),
    "F what emptied a cohort": (
        "importing/test_labels_as_found.py::test_what_emptied_a_cohort_is_said_with_its_cure",
        "importing/test_xena.py::test_a_cohort_of_blood_samples",
    ),
    "F repeated splits": ("importing/test_splits.py::test_splits_drawn_anew_are_repeats_on_request",),
    "F headers and comments that start with #": (
        "importing/test_table_formats.py::test_tables_are_read_however_they_were_saved",
        "importing/test_table_formats.py::test_genes_in_rows",
    ),
    "F R's header, Firehose's second header": (
        "importing/test_table_formats.py::test_tables_are_read_however_they_were_saved",
        "importing/test_expression_tables.py::test_a_header_without_a_name_for_the_row_names_is_said",
        "importing/test_table_formats.py::test_several_kinds_of_values_below_the_header_are_refused",
        "importing/test_table_formats.py::test_one_fault_of_all_rows_is_said_once",
    ),
    "F other files and folders are named": (
        "importing/test_table_formats.py::test_other_files_are_named",
        "importing/test_table_formats.py::test_a_tar_archive_and_a_folder_are_named",
        "importing/test_splits.py::test_a_file_is_not_its_folder",
        "importing/test_labels_as_found.py::test_added_columns_are_named",
    ),
    "F folds that survq makes": (
        "data/test_folds.py::test_made_folds_satisfy_a_study_or_the_message_says_what_would_do",
        "data/test_folds.py::test_other_folds_are_drawn_where_the_first_are_unusable",
    ),
    "F options, and years": (
        "importing/test_labels_as_found.py::test_options_that_are_refused",
        "importing/test_labels_as_found.py::test_stated_columns",
    ),
    "G hints that fire": (
        "importing/test_labels_as_found.py::test_reversed_coding_and_days_are_asked_about",
        "importing/test_expression_ids.py::test_genes_that_a_spreadsheet_made_dates_are_named",
        "importing/test_expression_ids.py::test_symbols_are_no_dates",
    ),
    "G what is not needed stops nothing": (
        "importing/test_labels_as_found.py::test_what_an_outcome_does_not_need_does_not_refuse_it",
        "importing/test_labels_as_found.py::test_an_unclear_age_is_unknown",
    ),
    "G 1_2.5 is no number": ("importing/test_table_formats.py::test_what_is_no_number_is_refused",),
    "H time from two columns": ("importing/test_labels_as_found.py::test_time_from_the_two_columns_of_gdc",),
    "H stated columns of cases and samples": (
        "importing/test_expression_ids.py::test_ambiguous_tables_are_refused_and_the_cure_works",
        "importing/test_expression_ids.py::test_a_stated_column_counts_whatever_its_name",
    ),
    "H progression-free survival": ("importing/test_labels_as_found.py::test_progression_free_survival_of_cbioportal",),
    "H genes with missing values": (
        "importing/test_expression_import.py::test_a_missing_value_is_reported_with_gene_and_case",
        "importing/test_expression_import.py::test_unknown_values_become_the_means_of_training_cases_on_request",
    ),
}

SLIDES_AND_RAY: dict[str, tuple[str, ...]] = {
    "A1 half a slide": (
        "importing/test_half_written.py::test_half_a_slide_is_refused",
        "importing/test_half_written.py::test_a_missing_tensor_shows_an_interrupted_run_of_clam",
        "importing/test_half_written.py::test_moving_the_companion_away_is_a_cure",
    ),
    "A2 normal tissue and frozen sections": (
        "importing/test_feature_folder.py::test_normal_tissue_and_frozen_sections_are_skipped_unless_asked_for",
        "slides/test_extract.py::test_normal_tissue_and_frozen_sections_are_not_extracted_unless_asked_for",
        "data/test_barcodes.py::test_one_rule_of_sample_types",
        "importing/test_slide_names.py::test_sample_types_and_slide_types_can_be_chosen",
    ),
    "A3 a wrong scale": (
        "slides/test_slide.py::test_the_stated_pixel_size_is_used_if_plausible_else_the_magnification",
        "slides/test_slide.py::test_the_pixel_size_that_the_user_gives_is_used",
        "slides/test_extract.py::test_the_pixel_size_that_the_user_gives_is_used_and_recorded",
        "data/test_patch_sizes.py::test_a_scale_that_cannot_be_right_is_named",
    ),
    "A4 mixed physical sizes of patches": (
        "importing/test_feature_folder.py::test_patches_of_another_physical_size_are_refused",
        "importing/test_feature_folder.py::test_tiles_of_stamp_of_another_size_are_refused",
        "data/test_patch_sizes.py::test_other_sizes_are_named",
    ),
    "A5 the same bag twice": (
        "data/test_equal_bags.py::test_of_copies_of_one_case_the_first_stays",
        "data/test_equal_bags.py::test_of_copies_under_several_cases_none_stays",
        "data/test_equal_bags.py::test_check_names_equal_bags",
        "slides/test_extract.py::test_one_slide_under_two_names_is_refused_before_it_is_read",
    ),
    "A6 red and orange pen": (
        "slides/test_tissue.py::test_a_line_of_ink_adds_no_patches",
        "slides/test_tissue.py::test_the_edges_of_thin_ink_lines_are_not_tissue",
    ),
    "A7 linked folders": (
        "importing/test_folders.py::test_linked_folders_are_followed_once",
        "importing/test_folders.py::test_a_linked_file_that_is_gone_is_named",
    ),
    "A8 composed letters, other formats, blank bags": (
        "importing/test_composed_letters.py::test_ids_in_either_spelling_are_joined",
        "importing/test_folders.py::test_composed_and_decomposed_letters_are_equal",
        "importing/test_folders.py::test_slides_that_are_not_read_are_named",
        "importing/test_folders.py::test_features_that_are_not_read_are_named",
        "data/test_equal_bags.py::test_blank_patches_are_named_by_a_deep_check",
        "importing/test_malformed_features.py::test_malformed_files_are_refused_with_a_fix",
    ),
    "B1 names that are not UTF-8": (
        "importing/test_folders.py::test_names_that_are_not_utf8_are_refused_where_they_come_in",
        "importing/test_folders.py::test_the_command_ends_with_a_sentence",
        "importing/test_folders.py::test_ids_that_no_store_can_hold_are_refused",
    ),
    "B2 a terminal that cannot print": (
        "test_output.py::test_letters_that_an_encoding_lacks_are_replaced",
        "test_output.py::test_a_log_on_a_full_disk_loses_its_lines_only",
    ),
    "B3 what Ray raises while it starts": (
        "test_ray_start.py::test_what_is_no_address_of_a_cluster",
        "test_ray_start.py::test_a_dead_cluster_is_known_at_once",
        "test_ray_start.py::test_what_does_not_answer_as_a_cluster_is_given_up",
        "test_ray_start.py::test_a_folder_in_which_ray_cannot_write",
        "test_ray_start.py::test_a_folder_without_space",
        "test_ray_start.py::test_the_path_of_ray_is_too_long_for_sockets",
        "test_ray_start.py::test_what_ray_raises_becomes_one_sentence",
    ),
    "B4 RAY_ADDRESS=local": ("test_ray_start.py::test_what_is_no_address_of_a_cluster",),
    "C Slurm and taskset": (
        "test_ray_start.py::test_the_cpus_are_those_of_the_process",
        "test_ray_start.py::test_the_cpus_and_the_memory_are_those_of_the_slurm_job",
        "test_ray_start.py::test_the_quota_of_a_container",
    ),
    "C a cure for each cause in the feature reader": (
        "importing/test_feature_layouts.py::test_tensors_with_gradients_are_read",
        "importing/test_feature_layouts.py::test_other_names_of_features_are_known",
        "importing/test_feature_layouts.py::test_axes_of_length_one_are_dropped",
        "importing/test_feature_layouts.py::test_the_order_of_bytes_changes_nothing",
        "importing/test_malformed_features.py::test_malformed_files_are_refused_with_a_fix",
    ),
    "C wrapped weights and pointers of LFS": (
        "slides/test_encoder.py::test_wrapped_weights_are_found",
        "slides/test_encoder.py::test_weights_of_another_model_are_refused",
    ),
    "C inside a thread; | head; signals": (
        "test_output.py::test_a_reader_that_has_gone_is_not_missed",
        "test_output.py::test_nobody_reads_the_help_to_its_end",
        "test_output.py::test_signals_end_a_program_in_order",
    ),
    "C Ray's memory monitor kills": (
        "distributed/test_faults.py::test_a_run_whose_process_always_dies_fails_and_the_others_finish",
    ),
    "C an import of nothing": ("importing/test_import_of_nothing.py::test_an_import_of_nothing_fails",),
    "C reasons of libraries are whole": ("data/test_location.py::test_a_reason_is_whole_and_its_cure_fits",),
    "C an error line of Ray's C++ at every extraction": (
        "test_output.py::test_known_lines_are_left_out_of_stderr_and_no_others",
        "distributed/test_extraction.py::test_a_killed_and_restarted_extraction_gives_the_same_store",
    ),
    "C stopped while Ray starts": (
        "test_ray_start.py::test_a_signal_while_ray_starts_ends_the_program_with_a_sentence",
        "faults/test_start_stopped.py::test_a_stop_while_ray_starts_is_said",
    ),
    "C stopped while Ray runs": (
        "distributed/test_studies.py::test_a_stopped_study_states_how_to_resume",
        "distributed/test_faults.py::test_signals_in_a_row_lose_nothing",
    ),
}


@pytest.mark.parametrize("entry", [*TABLES, *SLIDES_AND_RAY])
def test_the_tests_of_an_entry_exist(entry):
    for test in (TABLES | SLIDES_AND_RAY)[entry]:
        file, name = test.split("::")
        functions = [node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")]
        assert name in functions, test
