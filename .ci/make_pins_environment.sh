#!/usr/bin/env bash
# Make the environment that the README tells GPU users to install, on any x86-64 Linux, with or without a GPU, and the
# test tools: bash .ci/make_pins_environment.sh FOLDER
# Exit status 3 says that it cannot be had here (no network, no room, or a machine that it is not built for).
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/find_python.sh
folder=${1:?the folder of the environment}
requirements=requirements/vllm.txt
tools=requirements/dev.txt
gigabytes_needed=12

unavailable() {
    echo "skipped: the packages of $requirements cannot be had on this machine: $1" >&2
    exit 3
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || unavailable "they are pinned for Linux on x86-64, this is $(uname -sm)"
gigabytes_free=$(df --output=avail --block-size=1G "$(dirname "$folder")" | tail -1 | tr -d ' ')
[ "$gigabytes_free" -ge "$gigabytes_needed" ] ||
    unavailable "they take $gigabytes_needed GB, and $gigabytes_free GB of disk are free"
python=$(find_python 3.10 3.12 python3 python3.12 python3.11 python3.10)
[ -n "$python" ] || unavailable "Python 3.10, 3.11 or 3.12 is needed; name one with BASE_PYTHON=/path/to/python"

uv=""
for candidate in uv .venv/bin/uv; do
    if command -v "$candidate" >/dev/null; then
        uv=$candidate
        break
    fi
done
rm -rf "$folder"
"$python" -m venv "$folder"
install() {
    if [ -n "$uv" ]; then
        # Compiled once here, not in each of the dozen processes of every run.
        "$uv" pip install --quiet --compile-bytecode --python "$folder/bin/python" "$@"
    else
        "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@"
    fi
}
# Where this small package can be had, so can the rest: from then on a failure is one.
reach_index() {
    said=$(UV_HTTP_TIMEOUT=15 UV_HTTP_RETRIES=1 PIP_TIMEOUT=15 PIP_RETRIES=1 install --no-deps packaging 2>&1)
}
# uv does not know an index that pip's configuration names.
if [ -n "$uv" ] && ! reach_index; then uv=""; fi
[ -n "$uv" ] || reach_index || unavailable "no package index answers (${said##*$'\n'})"
echo "Making the environment $folder with $("$python" --version) and ${uv:-pip} (2 minutes with uv, 8 with pip; 10 GB)"
install -r "$requirements" -r "$tools"
VLLM_LOGGING_LEVEL=ERROR "$folder/bin/python" -c "
import verl
from verl.utils.newer_versions import vllm_version
print('Environment ready: vLLM', vllm_version(), 'and verl', verl.__version__, 'with the Knapsack RL overlay')"
touch "$folder/.complete"
