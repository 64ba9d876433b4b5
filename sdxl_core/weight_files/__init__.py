"""Files of weights: single-file checkpoints, LoRA formats, their headers, and what can be made of one another."""
