"""What vLLM's CPU workers need to get new weights from verl 0.9: for tests."""

from __future__ import annotations

from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

import torch  # isort: skip


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    def update_weights_from_ipc(self, peft_config=None, base_sync_done=False, use_shm=False):
        """As verl's; but a CPU build packs the linear layers' weights, so they are reloaded as from a file."""
        received: list[tuple[str, torch.Tensor]] = []
        receiver = BucketedWeightReceiver(
            zmq_handle=self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm
        )
        receiver.receive_weights(
            on_bucket_received=lambda weights, is_last: received.extend(
                (name, weight.clone()) for name, weight in weights
            )
        )
        self.model_runner.reload_weights(weights_iterator=iter(received))
