# The paper's settings (section 5.1, appendix C), by the keys that verl 0.5 and 0.9 have in common. Sourced by common.sh of
# this folder and of knapsack_trainer_verl09.

# Set the array PAPER_SETTINGS to Hydra overrides: data below the folder $1, the model in the folder $2, runs below $3.
set_paper_settings() {
    local data_home=$1 model=$2 save_home=$3
    PAPER_SETTINGS=(
        data.train_files="$data_home/dapo_math_17k/train.parquet"
        data.val_files="$data_home/math_evaluation/validation.parquet"
        data.train_batch_size=256
        data.max_prompt_length=1024
        data.max_response_length=3072
        data.filter_overlong_prompts=true
        data.filter_overlong_prompts_workers=8
        data.truncation=error
        exploration.allocator=knapsack
        algorithm.adv_estimator=grpo
        algorithm.adv_clip=5.0
        algorithm.use_kl_in_reward=false
        actor_rollout_ref.model.path="$model"
        actor_rollout_ref.model.use_remove_padding=true
        actor_rollout_ref.model.enable_gradient_checkpointing=true
        actor_rollout_ref.actor.strategy=fsdp2
        actor_rollout_ref.actor.optim.lr=1e-6
        actor_rollout_ref.actor.ppo_mini_batch_size=256
        actor_rollout_ref.actor.use_dynamic_bsz=true
        actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
        actor_rollout_ref.actor.clip_ratio_low=0.2
        actor_rollout_ref.actor.clip_ratio_high=0.28
        actor_rollout_ref.actor.loss_agg_mode=token-mean
        actor_rollout_ref.actor.use_kl_loss=false
        actor_rollout_ref.actor.entropy_coeff=0
        actor_rollout_ref.rollout.name=vllm
        actor_rollout_ref.rollout.n=8
        actor_rollout_ref.rollout.temperature=1.0
        actor_rollout_ref.rollout.top_p=1.0
        actor_rollout_ref.rollout.calculate_log_probs=true
        actor_rollout_ref.rollout.tensor_model_parallel_size=1
        actor_rollout_ref.rollout.gpu_memory_utilization=0.7
        actor_rollout_ref.rollout.max_num_batched_tokens=16384
        actor_rollout_ref.rollout.val_kwargs.n=16
        actor_rollout_ref.rollout.val_kwargs.do_sample=true
        actor_rollout_ref.rollout.val_kwargs.temperature=0.6
        actor_rollout_ref.rollout.val_kwargs.top_p=1.0
        trainer.total_training_steps=1000
        trainer.total_epochs=1000
        trainer.val_before_train=true
        trainer.test_freq=10
        trainer.save_freq=100
        trainer.max_actor_ckpt_to_keep=2
        trainer.logger='[console,wandb]'
        trainer.project_name=knapsack_rl
        trainer.default_local_dir="$save_home/"'${trainer.experiment_name}'
    )
}
