"""The diffusion model of `examples/diffusion.py`, against a loop by hand."""

import torch
from torch.nn.functional import mse_loss

from examples.diffusion import BETA, KEPT, N_STEPS, make_learner, sample
from tests.examples.by_hand import assert_trains_as, warmup_cosine


def by_hand(model, loader, n_epochs):
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    n_steps = 0
    for _ in range(n_epochs):
        for image in loader:
            step, noise = torch.randint(N_STEPS, (len(image),)), torch.randn_like(image)
            noisy = KEPT[step, None].sqrt() * image + (1 - KEPT[step, None]).sqrt() * noise
            opt.zero_grad()
            mse_loss(model(noisy, step), noise).backward()
            opt.param_groups[0]["lr"] = 4e-3 * warmup_cosine(n_steps, n_epochs * len(loader))
            opt.step()
            n_steps += 1


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2, rtol=1.3e-6, atol=1e-5)


def test_a_model_that_knows_the_noise_gets_the_image_back():
    image = torch.linspace(-1, 1, 64)

    def knows(noisy, step):
        kept = KEPT[step, None]
        return (noisy - kept.sqrt() * image) / (1 - kept).sqrt()

    torch.manual_seed(0)
    torch.testing.assert_close(sample(knows, 3)[-1], image.expand(3, 64), atol=1e-4, rtol=0)
    assert torch.allclose(KEPT[-1], (1 - BETA).prod())
