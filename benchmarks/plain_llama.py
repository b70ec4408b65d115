"""The same model in plain PyTorch, on one device: what `mai` is measured against, in speed here and in numbers by the
tests. Nothing of `mai` but the recipe's sizes.

Shapes: B sequences, S tokens, H heads, G key and value heads, D head size.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mai.recipe import ModelConfig, Recipe


class Attention(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.num_groups, self.head_size = model.num_kv_heads, model.head_size
        self.heads_per_group = model.num_heads // model.num_kv_heads
        # Rows by group: its query heads, its key head, its value head (Megatron's order).
        self.qkv = nn.Linear(
            model.hidden_size, (model.num_heads + 2 * model.num_kv_heads) * model.head_size, bias=False
        )
        self.out = nn.Linear(model.num_heads * model.head_size, model.hidden_size, bias=False)

    def forward(self, x_BSE: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
        B, S, _ = x_BSE.shape
        qkv = self.qkv(x_BSE).view(B, S, self.num_groups, self.heads_per_group + 2, self.head_size)
        query_BSHD = qkv[..., :-2, :].reshape(B, S, -1, self.head_size)
        key_BSGD, value_BSGD = qkv[..., -2, :], qkv[..., -1, :]
        query, key = (rotate(x, cos_SD, sin_SD).transpose(1, 2) for x in (query_BSHD, key_BSGD))
        out = F.scaled_dot_product_attention(
            query, key, value_BSGD.transpose(1, 2), is_causal=True, enable_gqa=self.heads_per_group > 1
        )
        return self.out(out.transpose(1, 2).reshape(B, S, -1))


class FeedForward(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(model.hidden_size, 2 * model.ffn_hidden_size, bias=False)
        self.down = nn.Linear(model.ffn_hidden_size, model.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(model.hidden_size, eps=model.norm_epsilon)
        self.attention = Attention(model)
        self.feed_forward_norm = nn.RMSNorm(model.hidden_size, eps=model.norm_epsilon)
        self.feed_forward = FeedForward(model)

    def forward(self, x: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos_SD, sin_SD)
        return x + self.feed_forward(self.feed_forward_norm(x))


class PlainLlama(nn.Module):
    def __init__(self, model: ModelConfig, *, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        self.layers = nn.ModuleList(Layer(model) for _ in range(model.num_layers))
        self.norm = nn.RMSNorm(model.hidden_size, eps=model.norm_epsilon)
        self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        frequencies = model.rotary_base ** -(torch.arange(0, model.head_size, 2) / model.head_size)
        angles = torch.outer(torch.arange(max_length), frequencies).repeat(1, 2)
        self.register_buffer("cos_SD", angles.cos(), persistent=False)
        self.register_buffer("sin_SD", angles.sin(), persistent=False)

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Logits [B, S, V]."""
        return self.head(self.norm(self.hidden(tokens_BS)))

    def hidden(self, tokens_BS: Tensor) -> Tensor:
        """What the last layer gives, [B, S, E]."""
        x = self.embedding(tokens_BS)
        cos_SD, sin_SD = self.cos_SD[: tokens_BS.size(1)], self.sin_SD[: tokens_BS.size(1)]
        for layer in self.layers:
            x = layer(x, cos_SD, sin_SD)
        return x


def rotate(x_BSHD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    first, second = x_BSHD.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x_BSHD * cos_SD[:, None, :] + turned * sin_SD[:, None, :]


_NAMES = {
    "embedding.word_embeddings.weight": "embedding.weight",
    "decoder.final_layernorm.weight": "norm.weight",
    "output_layer.weight": "head.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "self_attention.linear_qkv.weight": "attention.qkv.weight",
    "self_attention.linear_proj.weight": "attention.out.weight",
    "pre_mlp_layernorm.weight": "feed_forward_norm.weight",
    "mlp.linear_fc1.weight": "feed_forward.gate_and_up.weight",
    "mlp.linear_fc2.weight": "feed_forward.down.weight",
}


def plain_name(name: str) -> str:
    """`mai`'s name of a parameter -> the name here."""
    if not name.startswith("decoder.layers."):
        return _NAMES[name]
    _, _, layer, rest = name.split(".", maxsplit=3)
    return f"layers.{layer}.{_NAMES[rest]}"


class PlainLoop:
    """Gradient accumulation, clipping and fused AdamW, as one would write it by hand; bf16 by autocast.

    `loss`: tokens and targets [B, S] -> the sum of their losses; None for the cross entropy of the model's logits."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        *,
        device: torch.device,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.recipe = recipe
        self.computes_bf16 = recipe.precision.compute == "bf16"
        self.model = model.to(device)
        self.loss = loss or self._cross_entropy
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        settings = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )

    def step(self, tokens_BS: Tensor, targets_BS: Tensor, *, learning_rate: float) -> tuple[float, float]:
        """One update; returns the mean loss in nats and the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        num_tokens, total = targets_BS.numel(), 0.0
        size = self.recipe.parallel.micro_batch_sequences
        for tokens, targets in zip(tokens_BS.split(size), targets_BS.split(size), strict=True):
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.computes_bf16):
                loss = self.loss(tokens, targets)
            (loss / num_tokens).backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        assert math.isfinite(total)
        return total / num_tokens, float(norm)

    def _cross_entropy(self, tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        logits = self.model(tokens_BS)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets_BS.flatten(), reduction="sum")
