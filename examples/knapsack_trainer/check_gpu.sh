#!/usr/bin/env bash
# The first thing to run on a machine with GPUs: Knapsack-GRPO with vLLM on a tiny model, in bf16, in four short runs.
#
#   bash examples/knapsack_trainer/check_gpu.sh [HYDRA OVERRIDES]
#
#   1. one GPU, 4 steps          3. all GPUs, 8 steps
#   2. the same, resumed to 8    4. asynchronous rollouts on all GPUs, 4 steps
#
# It takes about 10 minutes and ends with a verdict for every check and a report to send back; docs/first_gpu_hour.md says
# what each number should be. Exit status 0: all checks passed; 1: one failed.
#
# Environment:
#   OUT              gets the runs and report.md                                     (default: runs/check_gpu)
#   NGPUS_PER_NODE   GPUs of runs 3 and 4        (default: all of this machine, or as many as share 1024 rollouts evenly)
#   DEVICE           cuda, or cpu for a vLLM that has a platform for it              (default: cuda)
#   RUNS             which of "one_gpu resumed all_gpus async" to make               (default: all four)
#   PYTHON           the Python to use                                               (default: as in common.sh)
GPUS=${NGPUS_PER_NODE:-}
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source examples/knapsack_trainer/tiny_task.sh

OUT=$(realpath -m "${OUT:-runs/check_gpu}")
DEVICE=${DEVICE:-cuda}
RUNS=${RUNS:-one_gpu resumed all_gpus async}
PYTHON=$(find_python)
mkdir -p "$OUT"
if [ -z "$GPUS" ]; then
    GPUS=$("$PYTHON" -m recipe.knapsack.gpu_check gpus)
    while ((1024 % GPUS)); do GPUS=$((GPUS - 1)); done
fi
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} VLLM_NO_USAGE_STATS=${VLLM_NO_USAGE_STATS:-1}

[ -f "$OUT/warm_start/warm_start.json" ] || "$PYTHON" -m recipe.knapsack.warm_start --output "$OUT/warm_start"

# Write the first $3 prompts of the file $1 to the file $2.
take_prompts() {
    "$PYTHON" -c "import sys, pandas
source, target, count = sys.argv[1:]
pandas.read_parquet(source).head(int(count)).to_parquet(target)" "$@"
}
# An epoch of two steps: the third has budgets of its own.
take_prompts "$OUT/warm_start/train.parquet" "$OUT/train.parquet" 256
take_prompts "$OUT/warm_start/test.parquet" "$OUT/test.parquet" 64

# Train in the folder $1 on $2 GPUs for $3 steps with the overrides that follow; a failure is left to the report.
train() {
    local folder=$OUT/$1 gpus=$2 steps=$3 status=0
    shift 3
    mkdir -p "$folder"
    echo "$(basename "$folder"): $steps steps on $gpus x $DEVICE; the log is $folder/train.log"
    set_tiny_task "$OUT/warm_start" "$folder"
    "$PYTHON" -m verl.trainer.main_ppo \
        "${TINY_TASK[@]}" \
        trainer.device="$DEVICE" \
        trainer.n_gpus_per_node="$gpus" \
        trainer.total_training_steps="$steps" \
        trainer.val_before_train=true \
        trainer.test_freq=4 \
        trainer.save_freq=4 \
        trainer.experiment_name=check_gpu \
        data.train_files="$OUT/train.parquet" \
        data.val_files="$OUT/test.parquet" \
        actor_rollout_ref.model.use_remove_padding=false \
        actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=128 \
        actor_rollout_ref.rollout.name=vllm \
        actor_rollout_ref.rollout.dtype=bfloat16 \
        actor_rollout_ref.rollout.gpu_memory_utilization=0.3 \
        actor_rollout_ref.rollout.calculate_log_probs=true \
        actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=128 \
        "$@" >"$folder/train.log" 2>&1 || status=$?
    echo "$status" >"$folder/exit_status"
    [ "$status" = 0 ] || tail -n 5 "$folder/train.log"
}

for run in $RUNS; do
    case $run in
        one_gpu) train one_gpu 1 4 "$@" ;;
        resumed) train one_gpu 1 8 "$@" ;;
        all_gpus) [ "$GPUS" = 1 ] || train all_gpus "$GPUS" 8 "$@" ;;
        async)
            train async "$GPUS" 4 \
                actor_rollout_ref.rollout.mode=async data.return_raw_chat=true "$@"
            ;;
        *)
            echo "error: RUNS names '$run': expected some of one_gpu, resumed, all_gpus, async" >&2
            exit 2
            ;;
    esac
done
exec "$PYTHON" -m recipe.knapsack.gpu_check report "$OUT"
