"""The diffusion model of `examples/diffusion.py`, against a loop by hand."""

import math

import torch
from torch.nn.functional import mse_loss

from examples.diffusion import BETA, KEPT, N_STEPS, make_learner, sample


def by_hand(n_epochs):
    learn = make_learner()
    model, loader = learn.model, learn.dls.train
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    torch.manual_seed(1)
    n, n_steps = n_epochs * len(loader), 0
    n_warmup = round(0.1 * n)
    for _ in range(n_epochs):
        for image in loader:
            step, noise = torch.randint(N_STEPS, (len(image),)), torch.randn_like(image)
            noisy = KEPT[step, None].sqrt() * image + (1 - KEPT[step, None]).sqrt() * noise
            opt.zero_grad()
            mse_loss(model(noisy, step), noise).backward()
            share = (n_steps - n_warmup) / (n - n_warmup)
            factor = (n_steps + 1) / (n_warmup + 1) if n_steps < n_warmup else (1 + math.cos(math.pi * share)) / 2
            opt.param_groups[0]["lr"] = 4e-3 * factor
            opt.step()
            n_steps += 1
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    for p, other in zip(learn.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, other)


def test_a_model_that_knows_the_noise_gets_the_image_back():
    image = torch.linspace(-1, 1, 64)

    def knows(noisy, step):
        kept = KEPT[step, None]
        return (noisy - kept.sqrt() * image) / (1 - kept).sqrt()

    torch.manual_seed(0)
    torch.testing.assert_close(sample(knows, 3)[-1], image.expand(3, 64), atol=1e-4, rtol=0)
    assert torch.allclose(KEPT[-1], (1 - BETA).prod())
