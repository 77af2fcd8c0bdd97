#!/usr/bin/env bash
# Make a virtual environment with verl 0.9 and vLLM for CPUs: bash .ci/make_verl09_environment.sh FOLDER
# Exit status 3 says that the packages cannot be had here (no network, or a machine that they are not built for).
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/vllm_for_cpus.sh
folder=${1:?the folder of the environment}

make_environment_with_vllm "$folder" requirements/verl09-cpu.txt
"$folder/bin/python" -c "
import verl
print('Environment ready: verl', verl.__version__, 'in', verl.__path__[0])"
touch "$folder/.complete"
