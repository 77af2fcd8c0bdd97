# What the paper's experiments share (section 5.1, appendix C). Sourced by the run_*.sh scripts of this folder, which
# then call `train_on_dapo_math` with what differs.
#
# On one machine:
#
#   export RAY_DATA_HOME=... RAY_MODEL_HOME=... RAY_SAVE_HOME=...
#   DRY_RUN=1 bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh      # on any machine: check all, print the plan
#   bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh                # train
#   bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh exploration.n_up=64 trainer.total_training_steps=200
#
# Any Hydra override may be appended; it wins over what is set here.
#
# Environment (relative paths are taken from the repository):
#   RAY_DATA_HOME    holds dapo_math_17k/train.parquet and math_evaluation/validation.parquet, which
#                    examples/data_preprocess makes                                           (default: data)
#   RAY_MODEL_HOME   holds the models' folders, such as Qwen2.5-Math-7B                        (default: models)
#   RAY_SAVE_HOME    gets a folder for each run, with checkpoints, metrics and history         (default: runs)
#   NNODES           machines                                                                  (default: 1)
#   NGPUS_PER_NODE   GPUs in each                                                              (default: 8)
#   DRY_RUN=1        check and plan, do not train; GPU_MEMORY_GB (default 80) is what the plan compares with
#   PYTHON           the Python to use    (default: the first with the requirements of python3, if an environment is
#                    activated, .venv/bin/python and python3)
#
# On several machines: start a Ray cluster (`ray start --head --dashboard-host=0.0.0.0` on one, `ray start
# --address=HEAD:6379` on the others), put data, models and results where all of them see them under the same path,
# and submit the script from a checkout that holds nothing big:
#
#   RAY_ADDRESS=http://HEAD:8265 ray job submit --no-wait --working-dir . \
#       --runtime-env-json '{"env_vars": {"NNODES": "4", "RAY_DATA_HOME": "/shared/data", "RAY_MODEL_HOME":
#           "/shared/models", "RAY_SAVE_HOME": "/shared/runs", "WANDB_API_KEY": "..."}}' \
#       -- bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh
#
# The machines need the installed requirements, not the checkout: it travels with the job. The job's environment
# variables, unlike those of your shell, reach the workers on every machine.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/knapsack_trainer/paper_settings.sh

NNODES=${NNODES:-1}
NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}

# Print the absolute path of a folder named by an environment variable, or of its default within the repository.
folder_from_environment() {
    local variable=$1 default=$2
    if [ -z "${!variable:-}" ] && [ "$NNODES" != 1 ]; then
        echo "error: NNODES=$NNODES needs $variable: a folder that all machines see under the same path" >&2
        exit 2
    fi
    realpath -m "${!variable:-$default}"
}

# Whether the Python $1 has what training and the dry run need; nothing of it is imported.
has_requirements() {
    "$1" -c 'import sys; from importlib.util import find_spec as find
sys.exit(not all(map(find, ("hydra", "ray", "torch"))))' >/dev/null 2>&1
}

# Print $PYTHON, or the first Python with the requirements. An activated environment goes before .venv, which has no
# vLLM where `make quickstart` made it; conda's base, which activates itself, may hold none of the requirements.
find_python() {
    local candidate candidates=(.venv/bin/python python3)
    [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || candidates=(python3 .venv/bin/python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if has_requirements "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    candidate=${PYTHON:-python3}
    if ! command -v "$candidate" >/dev/null; then
        echo "error: there is no $candidate; name a Python with PYTHON=/path/to/python" >&2
    else
        echo "error: $candidate lacks the requirements: pip install -r requirements/vllm.txt (GPUs), or run make" \
            "quickstart (laptop)" >&2
    fi
    exit 2
}

# Train the model $1 (its name on the Hugging Face hub) with the paper's settings and the overrides that follow.
train_on_dapo_math() {
    local hub_model=$1 data_home model_home save_home
    local model_name=${hub_model##*/}
    shift
    data_home=$(folder_from_environment RAY_DATA_HOME data)
    model_home=$(folder_from_environment RAY_MODEL_HOME models)
    save_home=$(folder_from_environment RAY_SAVE_HOME runs)

    PYTHON=$(find_python)
    local entry_point=verl.trainer.main_ppo
    if [ "${DRY_RUN:-0}" != 0 ]; then entry_point=recipe.knapsack.step_plan; fi

    set_paper_settings "$data_home" "$model_home/$model_name" "$save_home"

    # The run's folder is named after allocator and preset: no run must resume from another method's checkpoint.
    exec "$PYTHON" -m "$entry_point" \
        "${PAPER_SETTINGS[@]}" \
        actor_rollout_ref.rollout.enforce_eager=false \
        critic.strategy=fsdp2 \
        reward_model.reward_manager=math_verify \
        reward_model.launch_reward_fn_async=true \
        trainer.nnodes="$NNODES" \
        trainer.n_gpus_per_node="$NGPUS_PER_NODE" \
        trainer.experiment_name='${exploration.allocator}${preset_suffix:}_grpo_'"$model_name" \
        "$@"
}
