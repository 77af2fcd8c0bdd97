#!/usr/bin/env bash
# Knapsack-GRPO on DeepSeek-R1-Distill-Qwen-1.5B, whose long chains of thought get responses of 8k tokens; the prompt's
# 1k tokens come on top, where the other models' 4k hold prompt and response.
#
#   bash examples/knapsack_trainer/run_knapsack_grpo_deepseek_1.5b.sh [HYDRA OVERRIDES]
#
# The baseline: append exploration.allocator=homogeneous. Environment, dry run and several machines: see common.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train_on_dapo_math deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
    data.max_response_length=8192 \
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=18432 \
    "$@"
