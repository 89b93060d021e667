"""A small network over CLIP's embeddings of image and prompt: little to train, since CLIP knows what both show.

CLIP itself is read from the ``config.json`` and ``model.safetensors`` of a local folder, in the layout of the Hugging
Face hub (also PickScore and others that were trained as CLIP), and stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from cascade_models.discriminators.training.rows import RowsError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HIDDEN = 512
TOKENS = ("vocab.json", "merges.txt")


@dataclasses.dataclass(frozen=True)
class Tower:
    """Sizes of one of CLIP's two transformers."""

    width: int
    inner: int
    layers: int
    heads: int
    activation: str
    epsilon: float


@dataclasses.dataclass(frozen=True)
class ClipSizes:
    """All sizes of a CLIP model; the image is ``image`` pixels high and wide, in patches of ``patch``."""

    vision: Tower
    text: Tower
    image: int
    patch: int
    vocabulary: int
    length: int
    end: int
    joint: int

    @classmethod
    def read(cls, document: dict[str, Any]) -> ClipSizes:
        """Of a ``config.json``; raises KeyError where it is not CLIP's. Absent values are those of ViT-B/32."""
        vision, text = document["vision_config"], document["text_config"]
        return cls(
            vision=_tower(vision, 768, 12),
            text=_tower(text, 512, 8),
            image=int(vision.get("image_size", 224)),
            patch=int(vision.get("patch_size", 32)),
            vocabulary=int(text.get("vocab_size", 49408)),
            length=int(text.get("max_position_embeddings", 77)),
            end=int(text.get("eos_token_id", 49407)),
            joint=int(document.get("projection_dim", 512)),
        )


class Clip(nn.Module):  # type: ignore[misc]
    """Embeddings of images ``[B, 3, S, S]`` and tokens ``[B, L]``, each of length 1; modules named as on the hub."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_model = Vision(sizes)
        self.text_model = Text(sizes)
        self.visual_projection = nn.Linear(sizes.vision.width, sizes.joint, bias=False)
        self.text_projection = nn.Linear(sizes.text.width, sizes.joint, bias=False)

    def image(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.visual_projection(self.vision_model(image)), dim=1)

    def prompt(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.text_projection(self.text_model(tokens)), dim=1)

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """The model of a folder, for inference; raises RowsError where it is not there or no CLIP."""
        missing = [name for name in ("config.json", "model.safetensors", *TOKENS) if not (folder / name).is_file()]
        if missing:
            raise RowsError(
                f"--clip: {folder} lacks {', '.join(missing)}: download the whole model, weights as safetensors"
            )
        try:
            model = cls(ClipSizes.read(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
            state = safetensors.torch.load_file(folder / "model.safetensors")
        except (KeyError, ValueError, TypeError) as error:
            raise RowsError(f"--clip: {folder / 'config.json'} is not CLIP's ({error!r})") from None
        except safetensors.SafetensorError as error:
            raise RowsError(f"--clip: {folder / 'model.safetensors'} is corrupt ({error}): download it again") from None
        wanted = model.state_dict()
        wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
        if wrong:
            raise RowsError(f"--clip: {folder / 'model.safetensors'} lacks {wrong[0]}, or has it in another shape")
        model.load_state_dict({name: state[name].float() for name in wanted})
        model.eval().requires_grad_(False)
        return model


class ClipHead(nn.Module):  # type: ignore[misc]
    """``(image, tokens) -> confidence [B]``: both embeddings, their product and their difference through two layers."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip
        joint = clip.sizes.joint
        self.first = nn.Linear(4 * joint + 1, HIDDEN)
        self.dropout = nn.Dropout(0.2)
        self.good = nn.Linear(HIDDEN, 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def embedded(self, seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Uncalibrated logits ``[B]`` of embeddings."""
        cosine = (seen * read).sum(dim=1, keepdim=True)
        # Entries of a vector of length 1 are small; so are their products.
        scale = seen.shape[1] ** 0.5
        parts = torch.cat(
            (seen * scale, read * scale, seen * read * scale**2, (seen - read).abs() * scale, 10 * cosine), 1
        )
        return self.good(self.dropout(nn.functional.gelu(self.first(parts))))[:, 0]

    def logits(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedded(self.clip.image(image), self.clip.prompt(tokens))

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scale * self.logits(image, tokens) + self.offset)


class Vision(nn.Module):  # type: ignore[misc]
    """CLIP's image transformer."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        tower = sizes.vision
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.randn(tower.width) * 0.02)
        self.embeddings.patch_embedding = nn.Conv2d(3, tower.width, sizes.patch, sizes.patch, bias=False)
        self.embeddings.position_embedding = nn.Embedding((sizes.image // sizes.patch) ** 2 + 1, tower.width)
        self.pre_layrnorm = nn.LayerNorm(tower.width, tower.epsilon)
        self.encoder = Encoder(tower)
        self.post_layernorm = nn.LayerNorm(tower.width, tower.epsilon)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        held = self.embeddings
        patches = held.patch_embedding(image).flatten(2).transpose(1, 2)
        whole = held.class_embedding.expand(patches.shape[0], 1, -1)
        stream = torch.cat((whole, patches), dim=1) + held.position_embedding.weight
        return self.post_layernorm(self.encoder(self.pre_layrnorm(stream), None)[:, 0])


class Text(nn.Module):  # type: ignore[misc]
    """CLIP's text transformer; a prompt is read at its first end."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        tower = sizes.text
        self.end = sizes.end
        self.embeddings = nn.Module()
        self.embeddings.token_embedding = nn.Embedding(sizes.vocabulary, tower.width)
        self.embeddings.position_embedding = nn.Embedding(sizes.length, tower.width)
        self.encoder = Encoder(tower)
        self.final_layer_norm = nn.LayerNorm(tower.width, tower.epsilon)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        stream = self.embeddings.token_embedding(tokens) + self.embeddings.position_embedding.weight[:length]
        mask = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
        stream = self.final_layer_norm(self.encoder(stream, mask))
        # Configurations of the first models name a wrong end, 2; their true one has the largest number.
        ends = tokens if self.end == 2 else (tokens == self.end).to(torch.int32)
        first = ends.argmax(dim=1)
        return stream[torch.arange(stream.shape[0], device=tokens.device), first]


class Encoder(nn.Module):  # type: ignore[misc]
    """A stack of pre-norm layers."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(tower) for _ in range(tower.layers))

    def forward(self, stream: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for layer in self.layers:
            stream = layer(stream, mask)
        return stream


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and two linear maps, each on top of what came in."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.heads = tower.heads
        self.activation = tower.activation
        self.layer_norm1 = nn.LayerNorm(tower.width, tower.epsilon)
        self.layer_norm2 = nn.LayerNorm(tower.width, tower.epsilon)
        self.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self.self_attn, name, nn.Linear(tower.width, tower.width))
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(tower.width, tower.inner)
        self.mlp.fc2 = nn.Linear(tower.inner, tower.width)

    def forward(self, stream: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normal, own = self.layer_norm1(stream), self.self_attn
        split = [self._split(part(normal)) for part in (own.q_proj, own.k_proj, own.v_proj)]
        mixed = nn.functional.scaled_dot_product_attention(*split, attn_mask=mask)
        stream = stream + own.out_proj(mixed.transpose(1, 2).flatten(2))
        inner = self.mlp.fc1(self.layer_norm2(stream))
        active = inner * torch.sigmoid(1.702 * inner) if self.activation == "quick_gelu" else nn.functional.gelu(inner)
        return stream + self.mlp.fc2(active)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, x.shape[2] // self.heads)).transpose(1, 2)


def _tower(document: dict[str, Any], width: int, heads: int) -> Tower:
    width = int(document.get("hidden_size", width))
    return Tower(
        width=width,
        inner=int(document.get("intermediate_size", 4 * width)),
        layers=int(document.get("num_hidden_layers", 12)),
        heads=int(document.get("num_attention_heads", heads)),
        activation=str(document.get("hidden_act", "quick_gelu")),
        epsilon=float(document.get("layer_norm_eps", 1e-5)),
    )
