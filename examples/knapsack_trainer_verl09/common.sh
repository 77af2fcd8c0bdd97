# What the scripts of this folder share: the paper's settings (section 5.1, appendix C) for verl 0.9, which is not patched.
# Sourced by the run_*.sh scripts, which then call `train_on_dapo_math` with what differs.
#
#   DRY_RUN=1 bash examples/knapsack_trainer_verl09/run_knapsack_grpo_7b.sh      # check, print the plan of a step; no GPU
#   bash examples/knapsack_trainer_verl09/run_knapsack_grpo_7b.sh                # train
#
# Any Hydra override may be appended; it wins over what is set here.
#
# Environment (relative paths are taken from the repository):
#   RAY_DATA_HOME    holds dapo_math_17k/train.parquet and math_evaluation/validation.parquet, which
#                    examples/data_preprocess makes                                           (default: data)
#   RAY_MODEL_HOME   holds the models' folders, such as Qwen2.5-Math-7B                        (default: models)
#   RAY_SAVE_HOME    gets a folder for each run, with checkpoints, metrics and history         (default: runs)
#   NNODES           machines, which see these folders under the same paths                    (default: 1)
#   NGPUS_PER_NODE   GPUs in each                                                              (default: 8)
#   DRY_RUN=1        check and plan, do not train
#   PYTHON           the Python to use, with verl 0.9 and knapsack_verl09                      (default: python3)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/knapsack_trainer/paper_settings.sh

# Train the model $1 (its name on the Hugging Face hub) with the overrides that follow.
train_on_dapo_math() {
    local model_name=${1##*/} dry_run=false
    shift
    local data_home model_home save_home
    data_home=$(realpath -m "${RAY_DATA_HOME:-data}")
    model_home=$(realpath -m "${RAY_MODEL_HOME:-models}")
    save_home=$(realpath -m "${RAY_SAVE_HOME:-runs}")
    if [ "${DRY_RUN:-0}" != 0 ]; then dry_run=true; fi

    set_paper_settings "$data_home" "$model_home/$model_name" "$save_home"

    # The run's folder is named after allocator and preset: no run must resume from another method's checkpoint.
    exec "${PYTHON:-python3}" -m verl.trainer.main_ppo \
        hydra.searchpath='[pkg://knapsack_verl09.config]' \
        +exploration=knapsack \
        knapsack.dry_run="$dry_run" \
        hydra.output_subdir=null \
        hydra.run.dir=. \
        "${PAPER_SETTINGS[@]}" \
        reward.custom_reward_function.path="$PWD/examples/knapsack_trainer_verl09/math_reward.py" \
        trainer.nnodes="${NNODES:-1}" \
        trainer.n_gpus_per_node="${NGPUS_PER_NODE:-8}" \
        trainer.experiment_name='${exploration.allocator}${preset_suffix:}_grpo_'"$model_name"_verl09 \
        "$@"
}
