"""The explorer in a trainer of one's own: a softmax policy in NumPy, trained by GRPO without and with the knapsack.

    python examples/explorer_without_verl.py

A prompt is a question with 32 possible answers, of which one is right; the policy has a logit for each. Success rates
start between 0.001 and 0.9. Needs knapsack_rl alone (NumPy and SciPy). docs/extending.md explains the calls.
"""

from pathlib import Path

import numpy as np

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, prompt_id

QUESTIONS, ANSWERS, QUESTIONS_PER_STEP, ROLLOUTS_PER_QUESTION = 512, 32, 64, 8
STEPS_PER_EPOCH = QUESTIONS // QUESTIONS_PER_STEP
LEARNING_RATE, CLIP = 30.0, 5.0


class Training:
    """A policy, its explorer and the number of steps done. The random numbers of a step depend on its number only."""

    def __init__(self, allocator: str, seed: int = 0) -> None:
        config = {"allocator": allocator, "n_up": 64, "success_rate": {"estimator": "beta"}}
        self.explorer = Explorer(ExplorationConfig.from_mapping(config), rollouts_per_prompt=ROLLOUTS_PER_QUESTION)
        self.seed, self.steps_done = seed, 0
        world = np.random.default_rng(seed)
        rates = world.permutation(np.geomspace(0.001, 0.9, QUESTIONS))
        self.right_answers = world.integers(ANSWERS, size=QUESTIONS)
        self.logits = np.zeros((QUESTIONS, ANSWERS))  # wrong answers are equally likely
        self.logits[np.arange(QUESTIONS), self.right_answers] = np.log(rates * (ANSWERS - 1) / (1 - rates))

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.train_step()

    def train_step(self) -> dict[str, float]:
        epoch, position = divmod(self.steps_done, STEPS_PER_EPOCH)
        shuffled = np.random.default_rng([self.seed, 0, epoch]).permutation(QUESTIONS)
        questions = shuffled[position * QUESTIONS_PER_STEP :][:QUESTIONS_PER_STEP]

        # 1. Plan. Row by row, plan.order tells which of the prompts a rollout is of.
        prompts = [prompt_id("questions", f"question {question}") for question in questions]
        plan = self.explorer.plan(prompts, epoch=epoch, step=self.steps_done + 1)

        # 2. Roll out and reward.
        question = questions[plan.order]
        probabilities = self.probabilities(question)
        draws = np.random.default_rng([self.seed, 1, self.steps_done]).random((len(question), 1))
        answers = np.minimum((probabilities.cumsum(axis=1) < draws).sum(axis=1), ANSWERS - 1)
        rewards = (answers == self.right_answers[question]).astype(float)

        # 3. Advantages and update: the gradient of the mean over all rollouts, as verl's.
        advantages = np.clip(grpo_advantages(rewards, plan.order), -CLIP, CLIP)
        gradients = advantages[:, None] * (np.eye(ANSWERS)[answers] - probabilities)
        np.add.at(self.logits, question, LEARNING_RATE * gradients / len(question))

        # 4. Observe what came of the plan.
        has_gradient = self.explorer.adv_estimator.effective_rollouts(rewards, plan.order)
        outcomes = Outcomes(plan.order, rewards, rewards > 0, has_gradient, response_tokens=np.ones(len(question)))
        self.explorer.observe(plan, outcomes)
        self.steps_done += 1
        return self.explorer.metrics([(plan, outcomes)])

    def probabilities(self, questions: np.ndarray) -> np.ndarray:
        weights = np.exp(self.logits[questions] - self.logits[questions].max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def success_rate(self) -> float:
        """Mean over all questions, exact."""
        everything = np.arange(QUESTIONS)
        return float(self.probabilities(everything)[everything, self.right_answers].mean())

    def save(self, file: Path) -> None:
        status = self.explorer.state_dict()["task_status"]
        np.savez(file, logits=self.logits, steps_done=self.steps_done, **status)

    def restore(self, file: Path) -> None:
        with np.load(file) as saved:
            status = dict(saved)
        self.logits, self.steps_done = status.pop("logits"), int(status.pop("steps_done"))
        self.explorer.load_state_dict({"task_status": status})


def grpo_advantages(rewards: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(B,) deviation from the group's mean over its standard deviation; a group is the rollouts of a prompt."""
    rollouts = np.bincount(group)
    deviations = rewards - (np.bincount(group, rewards) / rollouts)[group]
    spread = np.sqrt(np.bincount(group, deviations**2) / (rollouts - 1))
    return deviations / (spread[group] + 1e-6)


if __name__ == "__main__":
    for seed in range(4):
        for allocator in ("homogeneous", "knapsack"):
            training = Training(allocator, seed)
            training.train(20 * STEPS_PER_EPOCH)
            print(f"seed {seed}  {allocator:11}  mean success rate {training.success_rate():.3f}")
