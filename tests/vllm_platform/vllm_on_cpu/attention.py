"""Attention over vLLM's paged key-value cache in plain PyTorch."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from vllm.v1.attention.backends.cpu_attn import TorchSDPABackend, TorchSDPABackendImpl, TorchSDPAMetadata


class PlainTorchBackend(TorchSDPABackend):
    """vLLM's CPU backend with a cache of a plain layout: (keys and values, blocks, positions, heads, head size)."""

    @classmethod
    def validate_head_size(cls, head_size: int) -> None:
        """Accept any head size."""

    @staticmethod
    def get_impl_cls() -> type["PlainTorchAttention"]:
        return PlainTorchAttention

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int
    ) -> tuple[int, int, int, int, int]:
        return 2, num_blocks, block_size, num_kv_heads, head_size


class PlainTorchAttention(TorchSDPABackendImpl):
    """Causal attention of new tokens over everything that their sequences hold in the cache.

    Raises:
        NotImplementedError: the model asks for a sliding window, ALiBi or a cap on logits.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.need_mask or kwargs.get("logits_soft_cap"):
            raise NotImplementedError("the test platform has no sliding window, ALiBi or cap on logits")

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: TorchSDPAMetadata | None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Write keys and values (tokens, heads * head size) to the cache; return what the queries attend to."""
        if attn_metadata is None:  # vLLM warms up without sequences
            return query
        query = query.view(-1, self.num_heads, self.head_size)
        keys, values = kv_cache.unbind(0)
        slots = attn_metadata.slot_mapping.flatten()
        keys.flatten(0, 1)[slots] = key.view(-1, self.num_kv_heads, self.head_size)
        values.flatten(0, 1)[slots] = value.view(-1, self.num_kv_heads, self.head_size)
        attended = torch.empty_like(query)
        starts = attn_metadata.query_start_loc.long()
        lengths = torch.tensor(attn_metadata.seq_lens)
        prefills = attn_metadata.num_prefills
        # Apart, because a padded batch of both would be as wide as the longest prompt for every decoding sequence.
        parts = (
            (slice(0, prefills), attn_metadata.prefill_block_tables),
            (slice(prefills, None), attn_metadata.block_tables),
        )
        for part, blocks in parts:
            if len(lengths[part]):
                self._attend(
                    query, starts[:-1][part], starts[1:][part], lengths[part], blocks, (keys, values), attended
                )
        return attended.flatten(1)

    def _attend(
        self,
        query: torch.Tensor,
        starts: torch.Tensor,
        ends: torch.Tensor,
        lengths: torch.Tensor,
        blocks: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        attended: torch.Tensor,
    ) -> None:
        """Fill the rows of ``attended`` that belong to some sequences, as one padded batch.

        Args:
            query: (tokens, heads, head size) of all sequences, one after another.
            starts, ends: (sequences,) the rows of ``query`` that are theirs.
            lengths: (sequences,) positions of each in the cache, the new ones included.
            blocks: (sequences, blocks) where those positions are.
            caches: keys and values, (blocks, positions, heads, head size).
            attended: as ``query``.
        """
        offsets = torch.arange(int((ends - starts).max()))
        rows = starts[:, None] + offsets
        is_query = rows < ends[:, None]
        positions = (lengths - (ends - starts))[:, None] + offsets
        cached = torch.arange(int(lengths.max()))
        # What lies behind a sequence's end may be NaN, which not even a weight of zero removes.
        is_behind = (cached >= lengths[:, None])[:, :, None, None]
        gathered = [self._gathered(cache, blocks, len(cached)).masked_fill(is_behind, 0) for cache in caches]
        result = scaled_dot_product_attention(
            query[rows.clamp(max=len(query) - 1)].transpose(1, 2),
            *(tensor.transpose(1, 2) for tensor in gathered),
            attn_mask=(cached <= positions[:, :, None])[:, None],
            scale=self.scale,
            enable_gqa=True,
        )
        attended[rows[is_query]] = result.transpose(1, 2)[is_query]

    @staticmethod
    def _gathered(cache: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
        """Return (sequences, length, heads, head size): the first ``length`` positions that ``blocks`` hold."""
        needed = -(-length // cache.shape[1])
        return cache[blocks[:, :needed].long()].flatten(1, 2)[:, :length]
