# What every run of the tiny task has in common. Sourced by run_tiny_cpu.sh and check_gpu.sh.

# Set the array TINY_TASK to the Hydra overrides of a run from the warm start in the folder $1 into the run folder $2.
set_tiny_task() {
    TINY_TASK=(
        trainer.nnodes=1
        trainer.total_epochs=1000
        trainer.project_name=knapsack_rl
        trainer.default_local_dir="$2"
        trainer.logger=[]
        data.train_files="$1/train.parquet"
        data.val_files="$1/test.parquet"
        data.train_batch_size=128
        data.max_prompt_length=8
        data.max_response_length=8
        data.dataloader_num_workers=0
        custom_reward_function.path=recipe/knapsack/tiny/tiny_task.py
        custom_reward_function.name=compute_score
        actor_rollout_ref.model.path="$1/model"
        actor_rollout_ref.actor.strategy=fsdp2
        actor_rollout_ref.actor.ppo_mini_batch_size=128
        actor_rollout_ref.actor.optim.lr=4e-4
        actor_rollout_ref.rollout.n=8
        actor_rollout_ref.rollout.tensor_model_parallel_size=1
        critic.strategy=fsdp2
    )
}
