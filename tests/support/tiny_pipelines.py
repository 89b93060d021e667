"""Writes pipelines of the catalogue's classes with random weights: run in .venv-diffusers, with a folder and classes.

Each class is assembled from its own parts, as small as their constructors allow: below a million parameters, images of
32 x 32, the same weights every time. Prompts are read letter by letter. Each lies in the folder of its class's name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_diffusion
import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel

WIDTH = 32
"""Of the text encoders."""
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = "{% for message in messages %}<|im_start|>{% if message.content is string %}{{ message.content }}{% else %}" \
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"  # fmt: skip
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
TEXT = {"hidden_size": WIDTH, "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def letters() -> Any:
    """A tokenizer of the Qwen kind, which knows every byte and the marks of a chat."""
    words = [*MARKS, *sorted(ByteLevel.alphabet())]
    made = transformers.Qwen2Tokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    made.chat_template = CHAT
    return made


def decoder(channels: int, **others: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32), latent_channels=channels, norm_num_groups=8, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **others,
    )  # fmt: skip


def flux2_decoder() -> AutoencoderKLFlux2:
    made = AutoencoderKLFlux2(
        block_out_channels=(16, 32), latent_channels=4, norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    made.bn.running_mean.uniform_(-0.5, 0.5)
    made.bn.running_var.uniform_(0.5, 1.5)
    return made


def flux2_denoiser(*, guidance: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )  # fmt: skip


def qwen3(layers: int) -> transformers.Qwen3ForCausalLM:
    sizes = {**TEXT, **ATTENTION, "num_hidden_layers": layers, "vocab_size": len(letters())}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes))


def shifted() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def flux2_klein() -> DiffusionPipeline:
    return Flux2KleinPipeline(
        scheduler=shifted(), vae=flux2_decoder(), text_encoder=qwen3(27), tokenizer=letters(),
        transformer=flux2_denoiser(guidance=False), is_distilled=True,
    )  # fmt: skip


def flux2() -> DiffusionPipeline:
    text = {**TEXT, **ATTENTION, "model_type": "mistral", "num_hidden_layers": 30, "vocab_size": len(letters())}
    sight = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    return Flux2Pipeline(
        scheduler=shifted(), vae=flux2_decoder(), tokenizer=letters(), transformer=flux2_denoiser(guidance=True),
        text_encoder=transformers.Mistral3ForConditionalGeneration(
            transformers.Mistral3Config(text_config=text, vision_config=sight, image_token_index=3)
        ),
    )  # fmt: skip


def z_image() -> DiffusionPipeline:
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=decoder(4), text_encoder=qwen3(2),
        tokenizer=letters(),
        transformer=ZImageTransformer2DModel(
            in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
            axes_dims=[8, 8, 8], axes_lens=[1024, 64, 64],
        ),
    )  # fmt: skip


def qwen_image() -> DiffusionPipeline:
    text = {
        **TEXT, **ATTENTION, "num_hidden_layers": 2, "vocab_size": len(letters()),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": WIDTH}
    return QwenImagePipeline(
        scheduler=shifted(), tokenizer=letters(),
        vae=AutoencoderKLQwenImage(
            base_dim=16, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, -0.4], latents_std=[1.0, 2.0, 1.5, 0.5],
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(text_config=text, vision_config=sight)
        ),
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip


def clip(*, projected: bool) -> Any:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77, "projection_dim": WIDTH}
    return kind(transformers.CLIPTextConfig(**TEXT, **sizes, vocab_size=len(letters())))


def t5(width: int) -> transformers.T5EncoderModel:
    sizes = {"d_model": width, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "pad_token_id": 0}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(letters()), **sizes))


def short() -> Any:
    """A tokenizer for encoders that read at most 77 tokens."""
    made = letters()
    made.model_max_length = 77
    return made


def sd() -> DiffusionPipeline:
    return tiny_diffusion.pipeline()


def sdxl() -> DiffusionPipeline:
    return StableDiffusionXLPipeline(
        vae=decoder(4), text_encoder=clip(projected=False), text_encoder_2=clip(projected=True), tokenizer=short(),
        tokenizer_2=short(), scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        unet=UNet2DConditionModel(
            sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=2 * WIDTH,
            attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
    )  # fmt: skip


def sd3() -> DiffusionPipeline:
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=decoder(4), text_encoder=clip(projected=True),
        text_encoder_2=clip(projected=True), text_encoder_3=t5(2 * WIDTH), tokenizer=short(), tokenizer_2=short(),
        tokenizer_3=letters(),
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
        ),
    )  # fmt: skip


def flux() -> DiffusionPipeline:
    return FluxPipeline(
        scheduler=shifted(), vae=decoder(4), text_encoder=clip(projected=False), tokenizer=short(),
        text_encoder_2=t5(WIDTH), tokenizer_2=letters(),
        transformer=FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
        ),
    )  # fmt: skip


def sana_parts(*, guidance: bool) -> dict[str, Any]:
    return {
        "tokenizer": letters(),
        "text_encoder": transformers.Gemma2Model(
            transformers.Gemma2Config(
                **TEXT, **ATTENTION, num_hidden_layers=2, vocab_size=len(letters()), query_pre_attn_scalar=16
            )
        ),
        "vae": AutoencoderDC(
            latent_channels=4, attention_head_dim=8, scaling_factor=0.4,
            encoder_block_types="ResBlock", decoder_block_types="ResBlock",
            encoder_block_out_channels=(16, 32), decoder_block_out_channels=(16, 32),
            encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
            decoder_norm_types="rms_norm", decoder_act_fns="silu",
        ),
        "transformer": SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16,
            num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=WIDTH,
            sample_size=16, patch_size=1, guidance_embeds=guidance,
            qk_norm="rms_norm_across_heads" if guidance else None,
        ),
    }  # fmt: skip


def sana() -> DiffusionPipeline:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return SanaPipeline(scheduler=scheduler, **sana_parts(guidance=False))


def sana_sprint() -> DiffusionPipeline:
    return SanaSprintPipeline(scheduler=SCMScheduler(prediction_type="trigflow"), **sana_parts(guidance=True))


MAKERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "Flux2KleinPipeline": flux2_klein,
    "Flux2Pipeline": flux2,
    "ZImagePipeline": z_image,
    "QwenImagePipeline": qwen_image,
    "StableDiffusionPipeline": sd,
    "StableDiffusionXLPipeline": sdxl,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "SanaPipeline": sana,
    "SanaSprintPipeline": sana_sprint,
}


def write(name: str, folder: Path) -> None:
    """The pipeline of a class, as its publishers lay it out."""
    torch.manual_seed(0)
    MAKERS[name]().save_pretrained(folder, safe_serialization=True)
    if name == "Flux2Pipeline":
        # Published with a tokenizer that also reads images, which needs a library that is not installed here.
        index = json.loads((folder / "model_index.json").read_text())
        index["tokenizer"] = ["transformers", "PixtralProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    for wanted in sys.argv[2:] or MAKERS:
        write(wanted, Path(sys.argv[1]) / wanted)
