"""The actor and the critic of `examples/actor_critic.py`, against a loop by hand."""

import math

import pytest
import torch
from torch.distributions import Categorical

from examples.actor_critic import DISCOUNT, N_CARTS, N_STEPS, make_learner, new_carts, push


def by_hand(n_epochs):
    learn = make_learner()
    actor, critic = learn.model["actor"], learn.model["critic"]
    actor_opt, critic_opt = (
        torch.optim.Adam(actor.parameters(), lr=3e-3),
        torch.optim.Adam(critic.parameters(), lr=6e-3),
    )
    torch.manual_seed(1)
    n_falls = []
    for _ in range(n_epochs):
        carts = new_carts(N_CARTS)
        n_falls.append(0)
        for _ in learn.dls["train"]:
            seen, log_probs, upright = [], [], []
            for _ in range(N_STEPS):
                policy = Categorical(logits=actor(carts))
                actions = policy.sample()
                seen.append(carts)
                log_probs.append(policy.log_prob(actions))
                carts, up = push(carts, actions)
                upright.append(up)
                carts = torch.where(up[:, None], carts, new_carts(N_CARTS))
                n_falls[-1] += int((~up).sum())
            with torch.no_grad():
                returns = [critic(carts)]
                for up in reversed(upright):
                    returns.append(torch.where(up, 1 - DISCOUNT + DISCOUNT * returns[-1], 0.0))
            parts = []
            for i in reversed(range(N_STEPS)):
                advantages = returns[N_STEPS - i] - critic(seen[i])
                parts.append(advantages**2 - log_probs[i] * advantages.detach())
            loss = torch.stack(parts).mean()
            actor_opt.zero_grad()
            critic_opt.zero_grad()
            loss.backward()
            actor_opt.step()
            critic_opt.step()
    n_played = len(learn.dls["train"]) * N_STEPS * N_CARTS
    return learn.model, [1000 * n / n_played for n in n_falls], n_played


def test_it_equals_a_loop_by_hand():
    learn = make_learner()
    model, falls, n_played = by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))
    assert learn.history.to_dict()["train/falls_in_1000_steps"] == pytest.approx(falls)
    assert learn.n_samples == 2 * n_played


def test_carts_move_as_the_equations_of_motion_say():
    """Barto, Sutton & Anderson (1983), appendix, without friction: a cart of 1 kg, a pole of 0.1 kg and 2 * 0.5 m."""
    x, speed, angle, spin, force = 0.3, -0.4, 0.1, 0.7, 10.0
    sin, cos = math.sin(angle), math.cos(angle)
    turn = (9.8 * sin + cos * (-force - 0.1 * 0.5 * spin**2 * sin) / 1.1) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    gain = (force + 0.1 * 0.5 * (spin**2 * sin - turn * cos)) / 1.1
    expected = [x + 0.02 * speed, speed + 0.02 * gain, angle + 0.02 * spin, spin + 0.02 * turn]
    carts, upright = push(torch.tensor([[x, speed, angle, spin]], dtype=torch.float64), torch.tensor([1]))
    assert carts[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert upright.item()


@pytest.mark.parametrize("cart", [(2.5, 0, 0, 0), (-2.5, 0, 0, 0), (0, 0, 0.22, 0), (0, 0, -0.22, 0)])
def test_what_left_the_track_or_fell_is_not_upright(cart):
    assert not push(torch.tensor([cart]), torch.tensor([0]))[1].item()


def test_it_learns_to_balance():
    learn = make_learner()
    learn.fit(4)
    falls = learn.history.to_dict()["train/falls_in_1000_steps"]
    assert falls[-1] < falls[0] / 3
