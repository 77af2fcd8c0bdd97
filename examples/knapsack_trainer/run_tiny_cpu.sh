#!/usr/bin/env bash
# The tiny task on a CPU: the same trainer, workers and configuration as on GPUs, in minutes.
#
#   bash examples/knapsack_trainer/run_tiny_cpu.sh                                       # Knapsack-GRPO
#   bash examples/knapsack_trainer/run_tiny_cpu.sh exploration.allocator=homogeneous     # GRPO
#
# Any Hydra override may be appended. Environment: PYTHON, WARM_START (folder of the warm start), RUN_FOLDER (default:
# runs/tiny/knapsack or runs/tiny/homogeneous). Losses are scaled by the micro-batch, as when the results in docs/ were measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/knapsack_trainer/tiny_task.sh

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
WARM_START=${WARM_START:-runs/tiny/warm_start}
# Hydra puts the allocator in: GRPO must not resume from the finished checkpoint of Knapsack-GRPO, and train nothing.
RUN_FOLDER=${RUN_FOLDER:-'runs/tiny/${exploration.allocator}'}

[ -f "$WARM_START/warm_start.json" ] || "$PYTHON" -m recipe.knapsack.warm_start --output "$WARM_START"

set_tiny_task "$WARM_START" "$RUN_FOLDER"
exec "$PYTHON" -m verl.trainer.main_ppo \
    "${TINY_TASK[@]}" \
    trainer.device=cpu \
    trainer.n_gpus_per_node=1 \
    trainer.total_training_steps=240 \
    trainer.test_freq=20 \
    trainer.save_freq=40 \
    trainer.max_actor_ckpt_to_keep=2 \
    trainer.experiment_name=tiny_cpu \
    actor_rollout_ref.model.enable_gradient_checkpointing=false \
    actor_rollout_ref.actor.use_torch_compile=false \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=512 \
    actor_rollout_ref.actor.loss_scale_by=micro_batch \
    actor_rollout_ref.actor.optim.betas=[0.9,0.99] \
    actor_rollout_ref.actor.optim.weight_decay=0.0 \
    actor_rollout_ref.actor.clip_ratio_low=0.2 \
    actor_rollout_ref.actor.clip_ratio_high=0.28 \
    actor_rollout_ref.rollout.name=hf \
    actor_rollout_ref.rollout.dtype=float32 \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1024 \
    actor_rollout_ref.rollout.val_kwargs.n=4 \
    actor_rollout_ref.rollout.val_kwargs.do_sample=true \
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0 \
    "$@"
