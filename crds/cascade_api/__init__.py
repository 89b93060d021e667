"""The vocabulary of Diffusion Cascade: resources, plan, reasons, names and documents. Pure, imports nothing of ours."""
