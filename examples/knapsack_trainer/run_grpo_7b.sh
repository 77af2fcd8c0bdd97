#!/usr/bin/env bash
# The baseline: GRPO with 8 rollouts for every prompt on Qwen2.5-Math-7B, all else as in run_knapsack_grpo_7b.sh.
#
#   bash examples/knapsack_trainer/run_grpo_7b.sh [HYDRA OVERRIDES]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train_on_dapo_math Qwen/Qwen2.5-Math-7B exploration.allocator=homogeneous "$@"
