"""The comparison with power: methods over many worlds of the tiny task, trained in a plain loop."""
