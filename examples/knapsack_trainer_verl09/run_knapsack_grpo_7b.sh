#!/usr/bin/env bash
# Knapsack-GRPO on Qwen2.5-Math-7B with verl 0.9: 8 GPUs with 80 GB. Environment and dry run: see common.sh.
#
#   bash examples/knapsack_trainer_verl09/run_knapsack_grpo_7b.sh [HYDRA OVERRIDES]
#
# The baseline: append exploration.allocator=homogeneous.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Prompt and response together may not exceed the 4096 positions of this model.
train_on_dapo_math Qwen/Qwen2.5-Math-7B "$@"
