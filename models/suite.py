"""The benchmark suite: fourteen architectures exported from configs with a fixed seed, so nothing is downloaded.

Weights are random but plausible: batch-norm statistics come from a forward pass over noise and its scales and shifts are
random, so that folding them changes numbers. Exporting needs the extra `bench` (torch, transformers, onnxscript).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .store import appearing_whole, suite_dir

if TYPE_CHECKING:
    import torch

SEED = 20250117
OPSET = 18


@dataclass(frozen=True, slots=True)
class SuiteModel:
    """One member of the suite.

    Args:
        title: the name that tables print.
        build: makes (module, example inputs); called with torch seeded.
        inputs, outputs: names in the ONNX file, in order.
    """

    title: str
    build: Callable[[], tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def path_of(name: str, batch: int = 1) -> Path:
    """Where the exported file of a suite model lies (it may not exist yet)."""
    if name not in SUITE:
        raise InputError(f"no suite model is called {name!r}", expected="one of " + ", ".join(SUITE))
    return suite_dir() / (f"{name}.onnx" if batch == 1 else f"{name}_batch{batch}.onnx")


def batched(example: tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, ...]:
    """Example inputs of one sample, repeated along the first axis; for models that have it there."""
    return tuple(x.repeat(batch, *[1] * (x.ndim - 1)) if x.shape[0] == 1 else x for x in example)


def export(name: str, *, force: bool = False, batch: int = 1) -> Path:
    """Exports one suite model and returns its file; an existing file is kept unless `force`."""
    path = path_of(name, batch)
    if path.exists() and not force:
        return path
    try:
        import torch
    except ImportError as e:
        raise InputError("exporting the benchmark suite needs torch", remedy="Install it with: pip install 'mlc[bench]'") from e
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    entry = SUITE[name]
    torch.manual_seed(SEED)
    module, example = entry.build()
    example = batched(example, batch)
    module.eval()
    with appearing_whole(path) as partial, torch.no_grad():
        options: dict[str, Any] = {"external_data": False, "dynamo": True}
        if _batch_norms(module):
            # The newer exporter folds batch norms (or, told not to optimize, hides them behind Expand and CastLike);
            # folding them is the compiler's work to show, so these models keep them.
            options = {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE}
        torch.onnx.export(
            module,
            example,
            str(partial),
            input_names=list(entry.inputs),
            output_names=list(entry.outputs),
            opset_version=OPSET,
            verbose=False,
            **options,
        )
    del module
    gc.collect()
    return path


# --- builders ---------------------------------------------------------------------------------------------------------


def _batch_norms(module: torch.nn.Module) -> list[Any]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def _settle_batch_norms(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Gives every batch norm random scales and shifts, and the statistics that a forward pass over noise then measures."""
    import torch

    norms = _batch_norms(module)
    module.eval()
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0.0, 0.1)
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average: the statistics of exactly this pass
            norm.train()
        module(*example)
        for norm in norms:
            norm.eval()
            norm.momentum = 0.1


def _logits(make: Callable[[], Any]) -> torch.nn.Module:
    """Wraps a transformers model so that it maps tensors to one tensor: the logits or the last hidden state."""
    import torch

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make()
            self.model.eval()

        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            return self.model(*args, return_dict=False)[0]

    return First()


def _image_classifier(model: str, config: str, **fields: Any) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    import transformers

    cfg = getattr(transformers, config)(num_labels=1000, **fields)
    module = _logits(lambda: getattr(transformers, model)(cfg))
    example = (torch.randn(1, 3, 224, 224),)
    _settle_batch_norms(module, example)
    return module, example


def _resnet50() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier("ResNetForImageClassification", "ResNetConfig")


def _mobilenet_v2() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier("MobileNetV2ForImageClassification", "MobileNetV2Config")


def _efficientnet_b0() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        dropout_rate=0.2,
    )


def _convnext_t() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier("ConvNextForImageClassification", "ConvNextConfig", depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768])


def _vit_b16() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier("ViTForImageClassification", "ViTConfig", image_size=224, patch_size=16)


def _swin_t() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _image_classifier("SwinForImageClassification", "SwinConfig", image_size=224, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])


def _bert(hidden: int, layers: int, heads: int, tokens: int) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    import transformers

    cfg = transformers.BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden)
    module = _logits(lambda: transformers.BertModel(cfg, add_pooling_layer=False))
    ids = torch.randint(0, cfg.vocab_size, (1, tokens))
    return module, (ids, torch.ones_like(ids), torch.zeros_like(ids))


def _bert_base() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _bert(768, 12, 12, 128)


def _minilm_l6() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    return _bert(384, 6, 12, 128)


def _gpt2() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    import transformers

    cfg = transformers.GPT2Config(use_cache=False)
    return _logits(lambda: transformers.GPT2LMHeadModel(cfg)), (torch.randint(0, cfg.vocab_size, (1, 64)),)


def _whisper_tiny_encoder() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    import transformers

    cfg = transformers.WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_layers=1,
        decoder_attention_heads=6,
    )
    # 3000 mel frames; the second convolution halves them to 1500 positions.
    return _logits(lambda: transformers.WhisperModel(cfg).encoder), (torch.randn(1, 80, 3000),)


def _yolos_tiny() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    import transformers

    fields: dict[str, Any] = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    fields |= {"image_size": [256, 256], "patch_size": 16, "num_labels": 91}
    cfg = transformers.YolosConfig(**fields)

    class Yolos(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.YolosForObjectDetection(cfg)

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.model(pixels)
            return out.logits, out.pred_boxes

    return Yolos(), (torch.randn(1, 3, 256, 256),)


def _lstm() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch

    class Lstm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(512, 512, num_layers=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    return Lstm(), (torch.randn(100, 1, 512),)


def _unet() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    from torch import nn

    def block(cin: int, cout: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a in (cin, cout):
            layers += [nn.Conv2d(a, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
            super().__init__()
            self.down = nn.ModuleList(block(a, b) for a, b in zip((3, *widths), widths, strict=False))
            self.pool = nn.MaxPool2d(2)
            self.middle = block(widths[-1], 2 * widths[-1])
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths))
            self.join = nn.ModuleList(block(2 * w, w) for w in reversed(widths))
            self.head = nn.Conv2d(widths[0], 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skips = []
            for stage in self.down:
                x = stage(x)
                skips.append(x)
                x = self.pool(x)
            x = self.middle(x)
            for up, join in zip(self.up, self.join, strict=True):
                x = join(torch.cat([up(x), skips.pop()], dim=1))
            return self.head(x)

    module, example = UNet(), (torch.randn(1, 3, 256, 256),)
    _settle_batch_norms(module, example)
    return module, example


def _mlp() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(1024, 1024), nn.GELU()]
    return nn.Sequential(*layers), (torch.randn(64, 1024),)


_TEXT = ("input_ids", "attention_mask", "token_type_ids")

SUITE: dict[str, SuiteModel] = {
    "resnet50": SuiteModel("ResNet-50", _resnet50, ("x",), ("logits",)),
    "mobilenet_v2": SuiteModel("MobileNetV2", _mobilenet_v2, ("x",), ("logits",)),
    "efficientnet_b0": SuiteModel("EfficientNet-B0", _efficientnet_b0, ("x",), ("logits",)),
    "convnext_t": SuiteModel("ConvNeXt-T", _convnext_t, ("x",), ("logits",)),
    "vit_b16": SuiteModel("ViT-B/16", _vit_b16, ("x",), ("logits",)),
    "swin_t": SuiteModel("Swin-T", _swin_t, ("x",), ("logits",)),
    "bert_base": SuiteModel("BERT-base, 128 tokens", _bert_base, _TEXT, ("hidden",)),
    "minilm_l6": SuiteModel("MiniLM-L6, 128 tokens", _minilm_l6, _TEXT, ("hidden",)),
    "gpt2": SuiteModel("GPT-2, prefill 64", _gpt2, ("input_ids",), ("logits",)),
    "whisper_tiny_encoder": SuiteModel("Whisper-tiny encoder, 1500 frames", _whisper_tiny_encoder, ("mel",), ("hidden",)),
    "yolos_tiny": SuiteModel("YOLOS-tiny, 256²", _yolos_tiny, ("pixels",), ("logits", "boxes")),
    "lstm": SuiteModel("LSTM 2×512, 100 steps", _lstm, ("x",), ("y",)),
    "unet": SuiteModel("U-Net, 4 levels, 256²", _unet, ("x",), ("y",)),
    "mlp": SuiteModel("MLP 4×1024 GELU, batch 64", _mlp, ("x",), ("y",)),
}
