"""Evaluates checkpoints: responses of every prompt, avg@N and pass@k of every benchmark."""
