#!/usr/bin/env bash
# Knapsack-GRPO on Qwen3-4B-Base.
#
#   bash examples/knapsack_trainer/run_knapsack_grpo_qwen3_4b_base.sh [HYDRA OVERRIDES]
#
# The baseline: append exploration.allocator=homogeneous. Environment, dry run and several machines: see common.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train_on_dapo_math Qwen/Qwen3-4B-Base "$@"
