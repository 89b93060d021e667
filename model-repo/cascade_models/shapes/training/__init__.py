"""Makes the shapes models from nothing: ``python -m cascade_models.shapes.training --out DIR --seed 0``.

The only part of the testbed that needs torch. Heavy denoiser, light denoiser (distilled from it), discriminator
(trained on the light one's images), export to safetensors and ONNX, evaluation and the model card.
"""
