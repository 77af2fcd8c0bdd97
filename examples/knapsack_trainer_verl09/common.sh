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

# Train the model $1 (its name on the Hugging Face hub) with the overrides that follow.
train_on_dapo_math() {
    local model_name=${1##*/} dry_run=false
    shift
    local data_home model_home save_home
    data_home=$(realpath -m "${RAY_DATA_HOME:-data}")
    model_home=$(realpath -m "${RAY_MODEL_HOME:-models}")
    save_home=$(realpath -m "${RAY_SAVE_HOME:-runs}")
    if [ "${DRY_RUN:-0}" != 0 ]; then dry_run=true; fi

    # The run's folder is named after the allocator: a baseline must not resume from a knapsack run's checkpoint.
    exec "${PYTHON:-python3}" -m verl.trainer.main_ppo \
        hydra.searchpath='[pkg://knapsack_verl09.config]' \
        +exploration=knapsack \
        knapsack.dry_run="$dry_run" \
        hydra.output_subdir=null \
        hydra.run.dir=. \
        data.train_files="$data_home/dapo_math_17k/train.parquet" \
        data.val_files="$data_home/math_evaluation/validation.parquet" \
        data.train_batch_size=256 \
        data.max_prompt_length=1024 \
        data.max_response_length=3072 \
        data.filter_overlong_prompts=true \
        data.filter_overlong_prompts_workers=8 \
        data.truncation=error \
        exploration.allocator=knapsack \
        algorithm.adv_estimator=grpo \
        algorithm.adv_clip=5.0 \
        algorithm.use_kl_in_reward=false \
        actor_rollout_ref.model.path="$model_home/$model_name" \
        actor_rollout_ref.model.use_remove_padding=true \
        actor_rollout_ref.model.enable_gradient_checkpointing=true \
        actor_rollout_ref.actor.strategy=fsdp2 \
        actor_rollout_ref.actor.optim.lr=1e-6 \
        actor_rollout_ref.actor.ppo_mini_batch_size=256 \
        actor_rollout_ref.actor.use_dynamic_bsz=true \
        actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
        actor_rollout_ref.actor.clip_ratio_low=0.2 \
        actor_rollout_ref.actor.clip_ratio_high=0.28 \
        actor_rollout_ref.actor.loss_agg_mode=token-mean \
        actor_rollout_ref.actor.use_kl_loss=false \
        actor_rollout_ref.actor.entropy_coeff=0 \
        actor_rollout_ref.rollout.name=vllm \
        actor_rollout_ref.rollout.n=8 \
        actor_rollout_ref.rollout.temperature=1.0 \
        actor_rollout_ref.rollout.top_p=1.0 \
        actor_rollout_ref.rollout.calculate_log_probs=true \
        actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
        actor_rollout_ref.rollout.gpu_memory_utilization=0.7 \
        actor_rollout_ref.rollout.max_num_batched_tokens=16384 \
        actor_rollout_ref.rollout.val_kwargs.n=16 \
        actor_rollout_ref.rollout.val_kwargs.do_sample=true \
        actor_rollout_ref.rollout.val_kwargs.temperature=0.6 \
        actor_rollout_ref.rollout.val_kwargs.top_p=1.0 \
        reward.custom_reward_function.path="$PWD/examples/knapsack_trainer_verl09/math_reward.py" \
        trainer.nnodes="${NNODES:-1}" \
        trainer.n_gpus_per_node="${NGPUS_PER_NODE:-8}" \
        trainer.total_training_steps=1000 \
        trainer.total_epochs=1000 \
        trainer.val_before_train=true \
        trainer.test_freq=10 \
        trainer.save_freq=100 \
        trainer.max_actor_ckpt_to_keep=2 \
        trainer.logger='[console,wandb]' \
        trainer.project_name=knapsack_rl \
        trainer.experiment_name='${exploration.allocator}_grpo_'"$model_name"_verl09 \
        trainer.default_local_dir="$save_home/"'${trainer.experiment_name}' \
        "$@"
}
