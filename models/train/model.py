"""The llama architecture, small: RMSNorm, rotary positions, grouped query attention, SwiGLU, tied embeddings.

Attention is written as matrix products (oneDNN's bf16 products are fast on CPUs, PyTorch's fused CPU attention is not).
Rotary pairs are kept as halves (i, i + d/2) here and interleaved (2i, 2i+1), as GGUF's llama wants them, on export.

Besides ordinary causal rows, forward() takes tails: rows that see every token of all the other rows as their past.
Rows are then the chunks of one long context, each attending to itself only, and the tail learns to find things among
8K to 32K real keys at the price of short sequences, with gradients reaching the keys.
"""
import math
from dataclasses import dataclass, asdict

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 4096
    layers: int = 6
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 704
    rope_base: float = 500000.0
    eps: float = 1e-5
    context: int = 32768

    as_dict = asdict


class _Attend(torch.autograd.Function):
    """softmax(q kᵀ) v; the last `rows` keys are causal to the `rows` queries of each of the g query heads of a group.

    q [B, Hkv, g·rows, d], already scaled; k, v [B, Hkv, n, d], n ≥ rows; mask [rows, rows] of 0 and −inf.
    """

    @staticmethod
    def forward(ctx, q, k, v, mask):
        rows = mask.shape[0]
        s = torch.matmul(q, k.transpose(-1, -2))
        b, h, gr, n = s.shape
        s.view(b, h, gr // rows, rows, n)[..., n - rows:].add_(mask)
        p = torch.softmax(s, -1)
        ctx.save_for_backward(q, k, v, p)
        return torch.matmul(p, v)

    @staticmethod
    def backward(ctx, g):
        q, k, v, p = ctx.saved_tensors
        g = g.contiguous()
        dv = torch.matmul(p.transpose(-1, -2), g)
        ds = torch._softmax_backward_data(torch.matmul(g, v.transpose(-1, -2)), p, -1, p.dtype)
        return torch.matmul(ds, k), torch.matmul(ds.transpose(-1, -2), q), dv, None


def _rotate(x, cos, sin):
    """x [.., t, heads, d], cos and sin [.., t, 1, d/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        lin = lambda o, i, gain=1.0: nn.Parameter(torch.randn(o, i) * (gain / math.sqrt(i)))
        out = 1 / math.sqrt(2 * c.layers)
        self.attn_norm = nn.Parameter(torch.ones(c.width))
        self.attn_q = lin(c.heads * c.head_dim, c.width)
        self.attn_k = lin(c.kv_heads * c.head_dim, c.width)
        self.attn_v = lin(c.kv_heads * c.head_dim, c.width)
        self.attn_output = lin(c.width, c.heads * c.head_dim, out)
        self.ffn_norm = nn.Parameter(torch.ones(c.width))
        self.ffn_gate = lin(c.ffn, c.width)
        self.ffn_up = lin(c.ffn, c.width)
        self.ffn_down = lin(c.width, c.ffn, out)

    def qkv(self, h, cos, sin, dtype):
        """h [t, width] -> q [t, H, d] scaled and rotated, k [t, Hkv, d] rotated, v [t, Hkv, d]."""
        c, t = self.c, h.shape[0]
        h = F.rms_norm(h, (c.width,), self.attn_norm, c.eps).to(dtype)
        q = F.linear(h, self.attn_q.to(dtype)).view(t, c.heads, c.head_dim)
        k = F.linear(h, self.attn_k.to(dtype)).view(t, c.kv_heads, c.head_dim)
        v = F.linear(h, self.attn_v.to(dtype)).view(t, c.kv_heads, c.head_dim)
        scale = 1 / math.sqrt(c.head_dim)
        return _rotate(q, cos * scale, sin * scale), _rotate(k, cos, sin), v

    def mlp(self, h, dtype):
        h = F.rms_norm(h, (self.c.width,), self.ffn_norm, self.c.eps).to(dtype)
        gate, up = F.linear(h, self.ffn_gate.to(dtype)), F.linear(h, self.ffn_up.to(dtype))
        return F.linear(F.silu(gate) * up, self.ffn_down.to(dtype))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c = config
        self.embed = nn.Parameter(torch.randn(config.vocab, config.width) * 0.02)
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        half = config.head_dim // 2
        self.register_buffer("freqs", config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half), False)

    def _group(self, q, n, t):
        c, g = self.c, self.c.heads // self.c.kv_heads
        return q.view(n, t, c.kv_heads, g, c.head_dim).permute(0, 2, 3, 1, 4).reshape(n, c.kv_heads, g * t, c.head_dim)

    def _ungroup(self, o, n, t):
        c, g = self.c, self.c.heads // self.c.kv_heads
        return o.view(n, c.kv_heads, g, t, c.head_dim).permute(0, 3, 1, 2, 4).reshape(n * t, c.heads * c.head_dim)

    def forward(self, rows, pos, tails=None, tail_pos=None, dtype=torch.bfloat16):
        """rows, pos [N, T] (each row begins with BOS); tails, tail_pos [M, U] see all rows, the BOS only once.

        Returns hidden states after the last norm, [N·T + M·U, width], rows first. logits() takes them on.
        """
        c = self.c
        n, t = rows.shape
        m, u = tails.shape if tails is not None else (0, 0)
        ids, at = rows.reshape(-1), pos.reshape(-1)
        if m:
            ids, at = torch.cat((ids, tails.reshape(-1))), torch.cat((at, tail_pos.reshape(-1)))
        angle = (at.double()[:, None] * self.freqs).unsqueeze(1)
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        mask = lambda size: torch.full((size, size), -math.inf, dtype=dtype, device=ids.device).triu(1)
        row_mask, tail_mask = mask(t), mask(u)
        h = F.embedding(ids, self.embed)
        for layer in self.blocks:
            q, k, v = layer.qkv(h, cos, sin, dtype)
            kv = lambda x: x[:n * t].view(n, t, c.kv_heads, c.head_dim).transpose(1, 2)
            out = self._ungroup(_Attend.apply(self._group(q[:n * t], n, t), kv(k).contiguous(), kv(v).contiguous(),
                                              row_mask), n, t)
            if m:
                def past_and_own(x):
                    past = x[:n * t].view(n, t, c.kv_heads, c.head_dim)
                    past = torch.cat((past[0, :1], past[:, 1:].reshape(n * (t - 1), c.kv_heads, c.head_dim)))
                    own = x[n * t:].view(m, u, c.kv_heads, c.head_dim)
                    return torch.cat((past.expand(m, -1, -1, -1), own), 1).transpose(1, 2).contiguous()
                tail = _Attend.apply(self._group(q[n * t:], m, u), past_and_own(k), past_and_own(v), tail_mask)
                out = torch.cat((out, self._ungroup(tail, m, u)))
            h = h + F.linear(out, layer.attn_output.to(dtype))
            h = h + layer.mlp(h, dtype)
        return F.rms_norm(h, (c.width,), self.norm, c.eps).to(dtype)

    def logits(self, hidden):
        return F.linear(hidden, self.embed.to(hidden.dtype)).float()
