"""What the dry run checks on a machine that may have neither GPUs, data nor the model."""
