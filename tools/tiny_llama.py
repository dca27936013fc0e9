"""A tiny byte-level Llama and its training, for the checkpoints of the miniature family.

Self-contained and deterministic: torch, the source text of Python's standard library, fixed seeds.
"""

from __future__ import annotations

import logging
import math
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

log = logging.getLogger("miniature")

VOCABULARY, HIDDEN, HEADS, KV_HEADS, HEAD, FEED_FORWARD, LAYERS = 256, 64, 4, 2, 16, 96, 6
EPSILON, ROPE_THETA, INIT_STD = 1e-6, 10_000.0, 0.02
BATCH, CONTEXT, WARMUP, WEIGHT_DECAY = 16, 128, 100, 0.1
STDLIB = Path(sysconfig.get_paths()["stdlib"])

Weights = dict[str, Tensor]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (arXiv:2305.13245, arXiv:2104.09864)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, -1, HEAD).transpose(1, 2)

        q, k, v = rotate(heads(self.q_proj(x))), rotate(heads(self.k_proj(x))), heads(self.v_proj(x))
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


def rotate(x: Tensor) -> Tensor:
    """Rotary positions in the row order of the Hugging Face layout: halves, not neighbours. `x` is `[..., t, head]`."""
    frequency = ROPE_THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    angle = torch.arange(x.shape[-2])[:, None] * frequency
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FEED_FORWARD, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FEED_FORWARD, bias=False)
        self.down_proj = nn.Linear(FEED_FORWARD, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, eps=EPSILON)
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=EPSILON)
        self.mlp = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Stack(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.RMSNorm(HIDDEN, eps=EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x)
        return out


class TinyLlama(nn.Module):
    """A byte-level Llama with tied embeddings whose tensors have the names of the Hugging Face layout."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.model = Stack(n_layers(weights))
        self.load_state_dict({name: weight.float() for name, weight in weights.items()})

    def loss(self, text: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte; `text` is `[batch, context + 1]` of bytes."""
        states = self.model(text[:, :-1].long())
        logits = states @ self.model.embed_tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].long().flatten())


def n_layers(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)


def config(weights: Weights) -> dict[str, object]:
    """The `config.json` of these weights."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": INIT_STD,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": n_layers(weights),
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }


def initial_weights(seed: int) -> Weights:
    """Normal(0, 0.02) matrices and unit norms: an untrained checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {f"model.{name}": weight.shape for name, weight in Stack(LAYERS).state_dict().items()}
    return {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * INIT_STD
        for name, shape in shapes.items()
    }


def read_text(chosen: Callable[[str], bool]) -> tuple[Tensor, Tensor]:
    """Source text of the standard library: the files whose top folder (`.` for a module) is `chosen`.

    Returns:
        bytes to train on, and the bytes of every 20th file, held out.
    """
    files = [path for path in sorted(STDLIB.rglob("*.py")) if "site-packages" not in path.parts]
    files = [path for path in files if chosen(path.relative_to(STDLIB).parts[0] if path.parent != STDLIB else ".")]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for position, path in enumerate(files):
        parts[position % 20 == 19].append(path.read_bytes())
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(texts)), dtype=torch.uint8) for texts in parts)
    return train, held_out


def validation_loss(model: TinyLlama, text: Tensor) -> float:
    """Nats per byte on 128 evenly spaced windows of held-out text."""
    starts = torch.linspace(0, len(text) - CONTEXT - 1, 128).long()
    with torch.no_grad():
        return float(model.loss(text[starts[:, None] + torch.arange(CONTEXT + 1)]))


def train(start: Weights, text: tuple[Tensor, Tensor], *, seed: int, steps: int, rate: float) -> Weights:
    """AdamW with a cosine schedule from `start`, on windows in an order determined by `seed`; stored as bfloat16."""
    model = TinyLlama(start)
    decayed = [weight for weight in model.parameters() if weight.ndim == 2]
    kept = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(seed)
    window = torch.arange(CONTEXT + 1)
    for step in range(steps):
        progress = min(1.0, (step + 1) / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * progress
        starts = torch.randint(len(text[0]) - CONTEXT, (BATCH, 1), generator=generator)
        optimizer.zero_grad()
        model.loss(text[0][starts + window]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            log.info("  step %d: validation %.3f nats a byte", step + 1, validation_loss(model, text[1]))
    return {name: weight.detach().bfloat16() for name, weight in model.state_dict().items()}


def correlation(a: Weights, b: Weights) -> dict[str, float]:
    """Correlation of equal positions over all layers, by projection."""
    found = {}
    for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens"):
        x, y = (torch.cat([w.float().flatten() for n, w in side.items() if part in n]) for side in (a, b))
        found[part] = round(float(torch.corrcoef(torch.stack((x, y)))[0, 1]), 3)
    return found
