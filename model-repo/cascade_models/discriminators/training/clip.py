"""A small network over CLIP's embeddings of image and prompt. It has little to learn, since CLIP knows what both show.

CLIP itself comes from transformers and is not trained. It is read from ``config.json`` and ``model.safetensors`` in a
local folder with the layout of the Hugging Face hub. PickScore and other models of CLIP's architecture work too.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from cascade_models.discriminators.training.rows import RowsError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HIDDEN = 512
TOKENS = ("vocab.json", "merges.txt")


class ClipHead(nn.Module):  # type: ignore[misc]
    """``(image [B, 3, S, S], tokens [B, L]) -> confidence [B]``.

    CLIP's embeddings of both, their product and their difference go through two layers.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self.first = nn.Linear(4 * clip.config.projection_dim + 1, HIDDEN)
        self.dropout = nn.Dropout(0.2)
        self.good = nn.Linear(HIDDEN, 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[B, D]`` of images, each of length 1."""
        return nn.functional.normalize(self.clip.get_image_features(image).pooler_output, dim=1)

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[B, D]`` of prompts, each of length 1."""
        return nn.functional.normalize(self.clip.get_text_features(tokens).pooler_output, dim=1)

    def embedded(self, seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Uncalibrated logits ``[B]`` of embeddings."""
        cosine = (seen * read).sum(dim=1, keepdim=True)
        # The entries of a vector of length 1, and their products, are small, so they are scaled up.
        scale = seen.shape[1] ** 0.5
        parts = torch.cat(
            (seen * scale, read * scale, seen * read * scale**2, (seen - read).abs() * scale, 10 * cosine), 1
        )
        return self.good(self.dropout(nn.functional.gelu(self.first(parts))))[:, 0]

    def logits(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedded(self.seen(image), self.read(tokens))

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.scale * self.logits(image, tokens) + self.offset)


def load(folder: Path) -> nn.Module:
    """The CLIPModel of a folder, for inference; raises RowsError if it is missing or is not CLIP.

    Weights come only from ``model.safetensors``. Other settings in ``config.json`` (a number type, quantisation, an
    attention kernel of the hub) are ignored.
    """
    missing = [name for name in ("config.json", "model.safetensors", *TOKENS) if not (folder / name).is_file()]
    if missing:
        raise RowsError(
            f"--clip: {folder} lacks {', '.join(missing)}: download the whole model, weights as safetensors"
        )
    # Importing it takes two seconds, and the other architecture does not need it.
    from transformers import AutoModel, CLIPConfig

    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if document["model_type"] != CLIPConfig.model_type:
            raise ValueError(f"its model_type is {document['model_type']!r}")
        model = AutoModel.from_config(
            CLIPConfig.from_dict(document), trust_remote_code=False, attn_implementation="sdpa", dtype=torch.float32
        )
    except Exception as error:  # transformers has no common exception for a wrong configuration
        raise RowsError(f"--clip: {folder / 'config.json'} is not CLIP's ({error!r})") from None
    try:
        state = safetensors.torch.load_file(folder / "model.safetensors")
    except safetensors.SafetensorError as error:
        raise RowsError(f"--clip: {folder / 'model.safetensors'} is corrupt ({error}): download it again") from None
    wanted = model.state_dict()
    wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise RowsError(f"--clip: {folder / 'model.safetensors'} lacks {wrong[0]}, or has it in another shape")
    model.load_state_dict({name: state[name] for name in wanted})
    return model.eval().requires_grad_(False)
