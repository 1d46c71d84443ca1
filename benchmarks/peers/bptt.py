"""The language model of `examples/bptt.py`, whose hidden state goes on from batch to batch."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

from callbacks import ClipGradientCallback
from examples.bptt import N_STEPS, HiddenStateCallback
from learner import Learner


def ours(model, loader, n_epochs):
    Learner(
        model,
        {"train": loader},
        cross_entropy,
        lr=1e-2,
        opt_func=Adam,
        cbs=[HiddenStateCallback(), ClipGradientCallback(1.0)],
    ).fit(n_epochs)


def ignite(model, loader, n_epochs):
    from ignite.contrib.engines.tbptt import create_supervised_tbptt_trainer

    opt = Adam(model.parameters(), lr=1e-2)

    def clip(*_):
        clip_grad_norm_(model.parameters(), 1.0)

    opt.register_step_pre_hook(clip)
    create_supervised_tbptt_trainer(model, opt, cross_entropy, N_STEPS, dim=1).run([uncut(loader)], max_epochs=n_epochs)


def lightning(model, loader, n_epochs):
    import lightning as pl

    class LanguageModel(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def on_train_epoch_start(self):
            self.hidden = None

        def training_step(self, batch, i):
            x, y = batch
            preds, hidden = self.model(x, self.hidden)
            self.hidden = hidden.detach()
            return cross_entropy(preds, y)

        def configure_optimizers(self):
            return Adam(self.parameters(), lr=1e-2)

    pl.Trainer(max_epochs=n_epochs, gradient_clip_val=1.0).fit(LanguageModel(), Held(loader))


def fastai(model, loader, n_epochs):
    from functools import partial

    from fastai.basics import DataLoaders, OptimWrapper
    from fastai.basics import Learner as FastaiLearner
    from fastai.callback.rnn import ModelResetter
    from fastai.callback.training import GradientClip

    class WithState(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def reset(self):
            self.hidden = None

        def forward(self, x):
            preds, hidden = self.model(x, self.hidden)
            self.hidden = hidden.detach()
            return preds

    FastaiLearner(
        DataLoaders(loader, []),
        WithState(),
        cross_entropy,
        lr=1e-2,
        opt_func=partial(OptimWrapper, opt=Adam),
        cbs=[ModelResetter(), GradientClip(1.0)],
    ).fit(n_epochs)


class Held:
    """Batches as Lightning takes one loader: a list it would take for several."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def uncut(batches):
    """Return all of the text as one batch, as Ignite cuts it itself."""
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs, dim=1), torch.cat(ys, dim=1)
