"""A small language model to measure perplexity with: a decoder over bytes, trained here in minutes on what the standard library says.

Its text is the docstrings of the standard library's modules and the manual in `pydoc_data`; parts of each are held out. Sizes are those
of Llama-style decoders in small (RMSNorm, rotary positions, gated SiLU), with matrices of 256 and 512 rows, which groups of all
formats divide. The seed is fixed; weights still depend on Python's text and torch's sums, so tables that are compared come from one run.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .store import appearing_whole, models_dir

if TYPE_CHECKING:
    import torch

SEED = 20260102
NAMES = ("byte_decoder",)
VOCABULARY, CONTEXT, WIDTH, INNER, HEADS, LAYERS = 256, 128, 256, 512, 4, 3
STEPS, BATCH, RATE = 800, 8, 3e-3
_HELD_OUT = 16  # every so many blocks of text, one
_BLOCK = 4096  # bytes


def path_of(name: str) -> Path:
    """Where a trained model lies (it may not exist yet). Raises InputError for an unknown name."""
    if name not in NAMES:
        raise InputError(f"no trained model is called {name!r}", expected="one of " + ", ".join(NAMES))
    return models_dir() / "trained" / f"{name}.onnx"


def export(name: str, *, force: bool = False, steps: int = STEPS, tell: Callable[[int, float], None] | None = None) -> Path:
    """Train the model and return its file: ids i64 [1, S] → logits f32 [1, S, 256]. An existing file is kept unless `force`.

    `tell` is called with the step and its loss, in nats a byte. Raises InputError without torch.
    """
    path = path_of(name)
    if path.exists() and not force:
        return path
    try:
        import torch
    except ImportError as e:
        raise InputError("training needs torch", remedy="pip install 'mlc[bench]'") from e
    model = _trained(steps, tell)
    with appearing_whole(path) as partial, torch.no_grad():
        example = (torch.zeros(1, CONTEXT, dtype=torch.long),)
        names = {"input_names": ["ids"], "output_names": ["logits"]}
        torch.onnx.export(model, example, str(partial), opset_version=18, external_data=False, dynamo=True, verbose=False, **names)
    return path


def pieces(count: int, *, held_out: bool) -> list[np.ndarray]:
    """Bytes i64 [CONTEXT + 1] from all over the text, none of them twice: of what is held out from training, or of the rest."""
    data = _split()[held_out]
    most = len(data) // (CONTEXT + 1)
    if not 0 < count <= most:
        raise InputError(f"{count} pieces of text", expected=f"1 to {most}")
    stride = len(data) // count
    return [data[i * stride : i * stride + CONTEXT + 1].astype(np.int64) for i in range(count)]


def perplexity(logits: np.ndarray, following: np.ndarray) -> float:
    """exp of the mean cross entropy of what follows, i64 [N], under logits f32 [N, V]."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(following)), following]
    return float(np.exp(np.mean(np.log(np.exp(shifted).sum(axis=-1)) - chosen)))


@cache
def _split() -> tuple[np.ndarray, np.ndarray]:
    """Text to train on, and held out; u8. What is said twice counts once, so that little of what is held out is known."""
    text = np.frombuffer("\n\n".join(dict.fromkeys(_texts())).encode(), np.uint8)
    blocks = [text[i : i + _BLOCK] for i in range(0, len(text), _BLOCK)]
    kept, out = (np.concatenate([b for i, b in enumerate(blocks) if (i % _HELD_OUT == 0) == held]) for held in (False, True))
    return kept, out


def _texts() -> Iterator[str]:
    """The manual, then docstrings by file; nothing is imported but the manual."""
    from pydoc_data.topics import topics

    yield from (topics[k] for k in sorted(topics))
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"} & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        yield from (doc for node in ast.walk(tree) if isinstance(node, kinds) and (doc := ast.get_docstring(node)))


def _trained(steps: int, tell: Callable[[int, float], None] | None) -> torch.nn.Module:
    import torch

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    text, _ = _split()
    model = _decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    warm = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * i / steps))) + 0.02)
    )
    for step in range(steps):
        at = rng.integers(0, len(text) - CONTEXT - 1, BATCH)
        rows = torch.from_numpy(np.stack([text[i : i + CONTEXT + 1] for i in at]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if tell is not None:
            tell(step + 1, float(loss.detach()))
    return model.eval()


def _decoder() -> torch.nn.Module:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    size = WIDTH // HEADS
    angles = torch.outer(torch.arange(CONTEXT).float(), 10000.0 ** (-torch.arange(0, size, 2).float() / size))
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def rotated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
            self.gate, self.up = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
            self.down = nn.Linear(INNER, WIDTH, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.before(x)
            q, k, v = (f(h).reshape(*h.shape[:2], HEADS, size).transpose(1, 2) for f in (self.q, self.k, self.v))
            seen = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
            x = x + self.o(seen.transpose(1, 2).reshape(*x.shape))
            h = self.between(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm, self.head = nn.RMSNorm(WIDTH, eps=1e-5), nn.Linear(WIDTH, VOCABULARY, bias=False)
            for p in self.parameters():
                if p.ndim == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    return Decoder()
