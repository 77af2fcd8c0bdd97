"""Benchmarks: what allocation, dispatch, rollouts, rewards and the whole method cost."""
