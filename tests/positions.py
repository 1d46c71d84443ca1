"""What changes batches at random must do so by position: show it by runs that are stopped and go on elsewhere."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner
from tests.resuming import seed_all, stopped_and_resumed, uninterrupted


def image_learner(cbs, n_workers=0, is_validated=True):
    """Return a learner of small images; an epoch is 4 shuffled training batches, and a validation maybe."""
    seed_all(0)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(14, 1, 16, 16, generator=generator), torch.randint(3, (14,), generator=generator)
    dls = {"train": DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True, num_workers=n_workers)}
    if is_validated:
        dls["valid"] = [(x, y)]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    return Learner(model, dls, nn.functional.cross_entropy, 0.1, cbs=cbs)


def weights_of(learn):
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach()


def assert_by_position(make_cbs, folder):
    """Stop in the middle of an epoch and go on, with 0 and 2 workers, with and without validation: the same weights.

    `make_cbs()` makes the callbacks to be looked at.
    """
    whole = weights_of(uninterrupted(lambda cbs: image_learner([*cbs, *make_cbs()]), 3, folder / "whole"))
    plain = weights_of(uninterrupted(image_learner, 3, folder / "plain"))
    assert not torch.equal(whole, plain)  # they do something
    for n_workers, is_validated in ((0, True), (0, False), (2, True), (2, False)):

        def make(cbs, n_workers=n_workers, is_validated=is_validated):
            return image_learner([*cbs, *make_cbs()], n_workers, is_validated)

        place = folder / f"{n_workers}-{is_validated}"
        learn = stopped_and_resumed(make, 3, 7 if is_validated else 6, place)  # at batch 2 of epoch 1
        assert torch.equal(weights_of(learn), whole), (n_workers, is_validated)
