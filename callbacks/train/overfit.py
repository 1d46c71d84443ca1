"""Train on a few batches again and again: what cannot even learn these by heart has a mistake in it."""

from __future__ import annotations

from learner import Callback, Learner, Loaders
from learner.data.limit import checked_limit, describe_limits, limited
from learner.data.loaders import role_of
from learner.loop.tell import tell


class OverfitCallback(Callback):
    """Let a fit see a part of each loader only, the same batches in every epoch.

    A fit says at its start, in a line on stdout, what it sees (not in a sandbox). All passes while the fit runs see
    that part, a `learn.validate()` in the middle of it too. After the fit, however it ended, `learn.dls` is what it
    was, and the batches are let go of.

    Each fit fetches its batches anew. To have the same ones in several fits, give the learner `BatchLimit` loaders.

    Args:
        limits: by the loader's name: a whole number of batches, at least 1; or a float, the fraction of its batches,
            rounded down, but at least one (0-1]. A loader that is not named gets one batch.

    Reads: in_sandbox.

    Writes: dls, for the length of a fit.

    Raises:
        TypeError, ValueError: if a limit is none; at the start of a fit, if there is no loader of a name, or a fraction
            is of a loader without length.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 1)
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=10)
        >>> learn = Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss)
        >>> learn.fit(50, cbs=OverfitCallback(train=2))
        this fit sees only a part of the data: train 2 of 10 batches, valid 1 of 10
        >>> learn.n_steps, learn.dls is dls
        (100, True)
    """

    order = -90  # before anyone counts batches

    def __init__(self, **limits: int | float) -> None:
        for name, n in limits.items():
            role_of(name)
            checked_limit(n, name)
        self.limits = limits
        self._whole: Loaders | None = None  # there while a fit runs

    def before_fit(self, learn: Learner) -> None:
        """Put limited loaders in the place of the whole ones."""
        part = limited(learn.dls, self.limits)
        if not learn.in_sandbox:
            tell(describe_limits(part))
        self._whole, learn.dls = learn.dls, part  # last: where this method fails, nothing is put back

    def cleanup_fit(self, learn: Learner) -> None:
        """Put the whole loaders back."""
        learn.dls, self._whole = self._whole, None  # type: ignore[assignment]  # `before_fit` has put them there
