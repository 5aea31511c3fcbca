"""Training: fine-tuning with distillation or quantization, and training before a search."""
