"""Returns and advantages of reinforcement learning, with episodes that end inside a rollout.

A rollout of T steps in each of several environments, time first. An episode ends by itself (`terminated`) or is cut off
(`truncated`): nothing flows back over either, but the value of the state that was cut off at still counts.

    returns     G_t = r_t + gamma G_{t+1}
    advantages  A_t = delta_t + gamma lambda A_{t+1},   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)

Both are the linear recurrence in reverse, with a `reset` where an episode's last step is (Sutton and Barto 2018,
section 3.3; Schulman et al. 2016, equation 16). In reverse a sequence starts at its last step, so the mask is that of
the ends.

    python examples/returns.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import scanlib

Array = Any


def discounted_returns(
    rewards: Array, ended: Array, gamma: float = 0.99, last_value: Array | None = None
) -> Array:
    """The return of each step.

    Parameters
    ----------
    rewards : array, shape (T, environments)
    ended : boolean array, shape (T, environments)
        Whether a step is the last of its episode.
    last_value : array, shape (environments,), optional
        The value of the state after the last step of the rollout, where an episode goes on behind it.
    """
    return scanlib.linear_recurrence(gamma, rewards, last_value, axis=0, reverse=True, reset=ended)


def advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> Array:
    """Generalised advantage estimates.

    Parameters
    ----------
    rewards, values, next_values : arrays, shape (T, environments)
        `next_values` are those of the states that the steps led to, before any environment began anew.
    terminated, truncated : boolean arrays, shape (T, environments)
        Whether an episode ended with the step by itself, where the next state is worth nothing, or was cut off after
        it.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    return scanlib.linear_recurrence(
        gamma * lam, deltas, axis=0, reverse=True, reset=terminated | truncated
    )


def main() -> None:
    rng = np.random.default_rng(0)
    shape = (2048, 64)
    rewards, values, next_values = rng.normal(size=(3, *shape))
    terminated, truncated = rng.random(shape) < 0.01, rng.random(shape) < 0.002
    found = advantages(rewards, values, next_values, terminated, truncated)
    returns = discounted_returns(rewards, terminated | truncated)
    print(
        f"{np.count_nonzero(terminated | truncated)} episodes ended in {shape[0]} steps of {shape[1]} environments"
    )
    print(f"advantages: mean {found.mean():+.3f}, deviation {found.std():.3f}")
    print(f"returns:    mean {returns.mean():+.3f}, deviation {returns.std():.3f}")


if __name__ == "__main__":
    main()
