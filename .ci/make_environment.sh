#!/usr/bin/env bash
# Make a virtual environment with the pinned requirements: bash .ci/make_environment.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/find_python.sh
folder=${1:?the folder of the environment}

python=$(find_python 3.10 3.12 python3 python3.12 python3.11 python3.10)
if [ -z "$python" ]; then
    echo "error: Python 3.10, 3.11 or 3.12 is needed and none was found; name one with BASE_PYTHON=/path/to/python" >&2
    exit 2
fi

echo "Making the environment $folder with $("$python" --version) (about 2 minutes, 2 GB)"
rm -rf "$folder"
"$python" -m venv "$folder"
install=("$folder/bin/python" -m pip install -qq --disable-pip-version-check)
echo "Installing torch ..."
torch=$(grep '^torch==' requirements.txt)
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    "${install[@]}" "$torch"
else
    # The CPU build sorts above the one with gigabytes of CUDA libraries wherever this index can be reached.
    "${install[@]}" --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu "$torch" ||
        "${install[@]}" "$torch"
fi
echo "Installing verl, ray, transformers and the rest, all pinned ..."
"${install[@]}" -r requirements.txt -r requirements/dev.txt
"$folder/bin/python" -c "import verl; print('Environment ready: verl', verl.__version__, 'with the Knapsack RL overlay')"
touch "$folder/.complete"
