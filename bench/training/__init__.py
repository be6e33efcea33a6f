"""Training: fine-tuning on selected completions, and pretraining the embedded policy from scratch."""
