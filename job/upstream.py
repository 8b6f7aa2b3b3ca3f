"""Names of upstream's options, so that a setting is checked in milliseconds without importing TRL."""

# Fields of TRL's configurations that have a variable of their own.
VARIABLE_FOR_TRAINER_ARG = {
    name: f"JOB_{name.upper()}"
    for name in (
        "beta",
        "desirable_weight",
        "eval_steps",
        "gradient_checkpointing",
        "learning_rate",
        "logging_steps",
        "lr_scheduler_kwargs",
        "loss_type",
        "lr_scheduler_type",
        "max_completion_length",
        "max_grad_norm",
        "max_length",
        "max_steps",
        "neftune_noise_alpha",
        "num_generations",
        "num_train_epochs",
        "optim",
        "packing",
        "per_device_train_batch_size",
        "save_steps",
        "save_total_limit",
        "seed",
        "temperature",
        "undesirable_weight",
        "warmup_steps",
        "weight_decay",
    )
} | {"gradient_accumulation_steps": "JOB_GLOBAL_BATCH_SIZE", "activation_checkpointing": "JOB_GRADIENT_CHECKPOINTING"}
VARIABLE_FOR_TRAINER_ARG["reward_weights"] = "JOB_REWARDS"

# Fields that the job sets itself because its promises rest on them: where files go, what is saved and when, precision
# and topology (the plan's), what is logged and to whom, and how rows were prepared.
OWNED_TRAINER_ARGS = frozenset(
    {
        "output_dir", "save_strategy", "save_only_model", "save_on_each_node",
        "enable_jit_checkpoint", "resume_from_checkpoint", "restore_callback_states_from_checkpoint",
        "ignore_data_skip", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "bf16", "fp16", "use_cpu", "local_rank", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed",
        "accelerator_config", "parallelism_config", "auto_find_batch_size", "activation_checkpointing_kwargs",
        "gradient_checkpointing_kwargs", "average_tokens_across_devices",
        "eval_strategy", "eval_on_start", "eval_delay", "per_device_eval_batch_size", "prediction_loss_only",
        "eval_packing", "logging_strategy", "logging_first_step", "logging_nan_inf_filter", "log_level",
        "log_level_replica", "log_on_each_node", "disable_tqdm", "report_to", "run_name", "project",
        "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
        "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
        "hub_revision", "do_train", "do_eval", "do_predict", "trust_remote_code", "model_init_kwargs",
        "chat_template_path", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "eos_token", "pad_token",
        "truncation_mode", "shuffle_dataset", "packing_strategy", "padding_free", "completion_only_loss",
        "assistant_only_loss", "remove_unused_columns", "label_names", "data_seed", "full_determinism",
        "train_sampling_strategy", "length_column_name", "use_liger_kernel", "liger_kernel_config",
        # The reference is the base without the adapter: there is no second model to follow, and nothing is kept of it.
        "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "precompute_ref_log_probs",
        "precompute_ref_batch_size",
        # Answers are drawn once for each step, so that a checkpoint between two steps holds all there is; and by
        # transformers, from prompts that were rendered before.
        "steps_per_generation", "generation_batch_size", "num_iterations", "num_generations_eval",
        "chat_template_kwargs", "max_tool_calling_iterations", "log_completions", "log_completions_hub_repo",
        "log_multimodal", "log_unique_prompts", "num_completions_to_print", "use_transformers_continuous_batching",
        "transformers_continuous_batching_config", "use_transformers_paged", "use_vllm", "vllm_enable_sleep_mode",
        "vllm_gpu_memory_utilization", "vllm_group_port", "vllm_importance_sampling_cap",
        "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
        "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_max_model_length", "vllm_mode",
        "vllm_model_impl", "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout",
        "vllm_structured_outputs_regex", "vllm_tensor_parallel_size",
    }
)  # fmt: skip
