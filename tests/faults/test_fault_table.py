"""The faults F1 to F28 of the reliability design, and the tests of what is promised for each."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

TABLE: dict[str, tuple[str, ...]] = {
    "F1 worker killed": (
        "distributed/test_faults.py::test_a_run_with_a_killed_train_worker_ends_with_the_same_bits",
        "distributed/test_ray_runs.py::test_a_trial_with_a_killed_process_is_retried_and_ends_with_the_same_bits",
    ),
    "F2 driver killed": (
        "distributed/test_studies.py::test_a_study_killed_three_times_ends_with_the_same_table",
        "faults/test_killed_drivers.py::test_ten_kills_at_random_moments_change_no_table",
        "training/test_results.py::test_a_killed_writer_leaves_complete_records_or_none",
    ),
    "F3 driver of a search killed": (
        "tuning/test_search.py::test_the_result_does_not_depend_on_order_parallelism_and_kills",
        "faults/test_killed_drivers.py::test_ten_kills_at_random_moments_change_no_table",
    ),
    "F4 driver killed before the first result": (
        "distributed/test_studies.py::test_a_study_killed_three_times_ends_with_the_same_table",
    ),
    "F5 node lost": (
        "cluster/test_given_machines.py::test_a_lost_host_costs_time_only",
        "faults/test_nodes.py::test_a_lost_node_costs_time_only",
    ),
    "F6 head lost": (
        "cluster/test_given_machines.py::test_a_lost_head_is_continued_by_the_same_command",
        "faults/test_nodes.py::test_a_lost_head_is_continued_by_the_same_command_on_a_new_cluster",
    ),
    "F7 disk full": (
        "faults/test_machine_faults.py::test_a_full_disk_is_named_with_its_free_bytes_and_the_same_command_resumes",
        "faults/test_machine_faults.py::test_what_cannot_be_written_is_named_and_leaves_nothing",
        "training/test_results.py::test_a_full_disk_leaves_nothing",
    ),
    "F8 k-th file operation": (
        "faults/test_file_operations.py::test_no_failing_operation_leaves_anything_half_written",
    ),
    "F9 process killed again and again": (
        "distributed/test_faults.py::test_a_run_whose_process_always_dies_fails_and_the_others_finish",
    ),
    "F10 CUDA out of memory": (
        "faults/test_machine_faults.py::test_too_little_memory_of_a_gpu_is_said_with_the_size_of_the_batch",
    ),
    "F11 features damaged": (
        "data/test_feature_store.py::test_every_flipped_bit_of_the_features_is_caught",
        "data/test_feature_store.py::test_truncated_files_are_refused_by_name",
        "faults/test_bit_flips.py::test_each_flipped_bit_of_a_feature_store_is_named_and_none_changes_what_is_read",
        "distributed/test_shared_bags.py::test_all_damaged_features_are_reported_at_once",
    ),
    "F12 checkpoint damaged": (
        "training/test_checkpoints.py::test_a_damaged_checkpoint_is_not_used",
        "faults/test_bit_flips.py::test_no_checkpoint_with_a_flipped_bit_is_used",
    ),
    "F13 record damaged": (
        "training/test_results.py::test_a_damaged_record_is_set_aside_and_reported",
        "faults/test_bit_flips.py::test_each_flipped_bit_of_a_result_with_its_weights_is_named",
    ),
    "F14 loss not finite": (
        "training/test_loop.py::test_a_diverging_run_states_where_and_how",
        "training/test_queue.py::test_a_diverged_run_has_a_record",
    ),
    "F15 slide reader hangs": (
        "slides/test_reader.py::test_a_hanging_slide_fails_after_the_timeout_and_its_process_is_killed",
    ),
    "F16 collective hangs": (
        "distributed/test_faults.py::test_a_run_with_a_hanging_train_worker_ends_with_the_same_bits",
    ),
    "F17 SIGTERM": ("distributed/test_studies.py::test_a_stopped_study_states_how_to_resume",),
    "F18 node drained": ("faults/test_nodes.py::test_a_drained_node_costs_time_only",),
    "F19 second signal": ("distributed/test_faults.py::test_signals_in_a_row_lose_nothing",),
    "F20 two drivers": (
        "test_study_commands.py::test_a_second_process_on_the_same_study_is_refused",
        "training/test_results.py::test_a_study_is_locked_against_other_processes",
    ),
    "F21 lock of a dead process": (
        "faults/test_machine_faults.py::test_a_lock_that_a_dead_process_of_another_machine_left_holds_nobody_up",
        "data/test_lock.py::test_without_locks_of_the_file_system_a_process_of_elsewhere_has_to_be_looked_after",
    ),
    "F22 clock jumps back": ("faults/test_machine_faults.py::test_a_clock_that_jumps_back_changes_no_result",),
    "F23 object store full": (
        "faults/test_nodes.py::test_features_that_exceed_the_object_store_cost_time_only",
        "faults/test_nodes.py::test_a_full_disk_below_a_full_object_store_is_named",
    ),
    "F24 connection lost": ("distributed/test_faults.py::test_signals_in_a_row_lose_nothing",),
    "F25 bucket stalls": (
        "faults/test_bucket_faults.py::test_a_busy_bucket_is_read_to_the_end",
        "faults/test_bucket_faults.py::test_a_bucket_without_answers_ends_the_program_with_a_sentence",
        "faults/test_bucket_faults.py::test_a_study_waits_once_for_a_bucket_that_falls_silent",
    ),
    "F26 results read-only": (
        "faults/test_machine_faults.py::test_a_read_only_results_folder_is_refused_before_ray_starts",
        "test_cli.py::test_an_unwritable_destination_exits_with_74",
    ),
    "F27 code or data changed": (
        "training/test_stale.py::test_only_runs_that_read_a_change_are_stale_and_the_message_names_it",
        "training/test_queue.py::test_a_run_on_changed_data_is_trained_again",
    ),
    "F28 versions of nodes differ": ("faults/test_nodes.py::test_a_node_with_another_survq_is_refused",),
}


def test_every_fault_is_in_the_table():
    numbers = [int(name.split()[0][1:]) for name in TABLE]
    assert sorted(numbers) == list(range(1, 29))


@pytest.mark.parametrize("fault", TABLE)
def test_the_tests_of_a_fault_exist(fault):
    for test in TABLE[fault]:
        file, name = test.split("::")
        functions = [node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")]
        assert name in functions, test
