#!/usr/bin/env bash
# Knapsack-GRPO on Qwen3.5-27B, which verl 0.5 cannot train: 4 machines with 8 GPUs of 80 GB. See common.sh.
#
#   bash examples/knapsack_trainer_verl09/run_knapsack_grpo_qwen3.5.sh [HYDRA OVERRIDES]
#
# The baseline: append exploration.allocator=homogeneous.
NNODES=${NNODES:-4}
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train_on_dapo_math Qwen/Qwen3.5-27B \
    data.max_response_length=8192 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=4 \
    actor_rollout_ref.actor.fsdp_config.param_offload=true \
    actor_rollout_ref.actor.fsdp_config.optimizer_offload=true \
    "$@"
