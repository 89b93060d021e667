"""Writes a StableDiffusionPipeline with random weights, and a discriminator: run in .venv-diffusers, with a folder.

A few million parameters, images of 32 x 32, the same weights every time. Prompts are read letter by letter.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cascade_models.discriminators import card

WORDS = 32
"""Tokens of a prompt, the two at its ends included."""


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Knows letters, digits and marks, each with and without the end of a word."""
    marks = [chr(code) for code in range(33, 127)]
    tokens = [*marks, *(f"{mark}</w>" for mark in marks), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WORDS)


def pipeline() -> StableDiffusionPipeline:
    """All parts, with weights drawn from one seed."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        words = tokenizer(Path(scratch))
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=WORDS, projection_dim=32, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), latent_channels=4, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=words, unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def judge(folder: Path) -> None:
    """A discriminator whose confidence is the mean brightness of the image."""
    folder.mkdir()
    names, kinds = ("image", "tokens"), (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", *rest])
        for name, kind, rest in zip(names, kinds, ([3, 32, 32], [8]), strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("confidence", onnx.TensorProto.FLOAT, ["batch"])
    mean = onnx.helper.make_node("ReduceMean", ["image", "axes"], ["confidence"], keepdims=0)
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    graph = onnx.helper.make_graph([mean], "judge", inputs, [output], initializer=[axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / card.NETWORK)
    card.Card(
        architecture="efficientnetv2-s", size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), reading="hashed", length=8,
        good="bright", figures={}, training={}, sha256={card.NETWORK: card.digest_of(folder / card.NETWORK)},
    ).write(folder)  # fmt: skip


if __name__ == "__main__":
    place = Path(sys.argv[1])
    pipeline().save_pretrained(place / "model", safe_serialization=True)
    judge(place / "judge")
