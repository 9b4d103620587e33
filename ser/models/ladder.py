"""Semi-supervised ladder network over one vector per utterance (S10)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ser.errors import UserError
from ser.models.base import AbsEncoder
from ser.models.pooling import MeanPooling

EPSILON = 1e-5  # added to a variance


class LadderEncoder(AbsEncoder):
    """Linear layers, and a decoder that takes noise off each of them (Rasmus et al., 2015).

    The mean over frames, of functionals the one there is, is normalised as in training and
    clipped: z_0. In layer l, z_l = BN(W_l h_{l-1}) and h_l = relu(gamma (z_l + beta)); a second
    pass adds noise to each z_l, and in training the head sees its h. From the top down,
    u_l = BN(V_{l+1} z^_{l+1}) and z^_l = g(z~_l, u_l), see Denoiser. ``own_loss`` is the sum over l
    of lambda_l times the mean of (z_l - (z^_l - m_l) / s_l)^2, where m_l and s_l are those that BN
    took off z_l. It needs no labels; evaluation is the pass without noise.

    Args:
        input_size: Values of a frame.
        sizes: Of the layers.
        noise: Standard deviation; z_l has 1.
        denoising: lambda_l, that of z_0 first.
        clip: Standard deviations beyond which a value of z_0 is cut.

    Raises:
        UserError: the number of factors is not the number of layers plus one.
    """

    one_frame = True  # per utterance, so CTC is rejected
    semi_supervised = True

    def __init__(
        self,
        input_size: int,
        sizes: Sequence[int] = (256, 256),
        noise: float = 0.3,
        denoising: Sequence[float] = (1.0, 0.1, 0.1),
        clip: float = 5.0,
    ):
        super().__init__()
        if len(denoising) != len(sizes) + 1:
            raise UserError(
                f"encoder_conf.denoising: found {len(denoising)} factors; expected "
                f"{len(sizes) + 1}, for the input and each of the sizes"
            )
        widths = [input_size, *sizes]
        pairs = list(zip(widths[:-1], sizes, strict=True))
        self.mean = MeanPooling(input_size)
        self.scale = torch.nn.BatchNorm1d(input_size, affine=False)
        self.up = torch.nn.ModuleList(torch.nn.Linear(a, b, bias=False) for a, b in pairs)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm1d(b, affine=False) for b in sizes)
        self.gamma = torch.nn.ParameterList(torch.ones(b) for b in sizes)
        self.beta = torch.nn.ParameterList(torch.zeros(b) for b in sizes)
        self.down = torch.nn.ModuleList(torch.nn.Linear(b, a, bias=False) for a, b in pairs)
        self.denoisers = torch.nn.ModuleList(Denoiser(width) for width in widths)
        self.noise, self.denoising, self.clip = noise, tuple(denoising), clip
        self._output_size = widths[-1]
        self.own_loss: torch.Tensor | None = None  # of the last training batch

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, F), (B,) -> (B, 1, D), (B,) of ones, and no state."""
        values = self.scale(self.mean(xs_pad, ilens)).clamp(-self.clip, self.clip)
        hidden, clean, moments = self._rise(values)
        if self.training:
            hidden, noisy, _ = self._rise(values, self.noise)
            self.own_loss = self._denoise(hidden, clean, noisy, moments)
        return hidden.unsqueeze(1), torch.ones_like(ilens), None

    def _rise(self, values: torch.Tensor, noise: float | None = None):
        """Return the last h, each z_l and (m_l, s_l); without ``noise``, the clean pass."""
        hidden = values + (noise or 0.0) * torch.randn_like(values)
        layers, moments = [hidden], [(0.0, 1.0)]
        for up, norm, gamma, beta in zip(self.up, self.norms, self.gamma, self.beta, strict=True):
            product = up(hidden)
            z = norm(product) if noise is None else normalise(product)
            z = z + (noise or 0.0) * torch.randn_like(z)
            hidden = (gamma * (z + beta)).relu()
            deviation = (product.var(dim=0, correction=0) + EPSILON).sqrt()
            layers.append(z)
            moments.append((product.mean(dim=0), deviation))
        return hidden, layers, moments

    def _denoise(self, hidden, clean, noisy, moments) -> torch.Tensor:
        signal, loss = hidden, hidden.new_zeros(())
        for number in reversed(range(len(clean))):
            estimate = self.denoisers[number](noisy[number], normalise(signal))
            mean, deviation = moments[number]
            error = (clean[number] - (estimate - mean) / deviation).square().mean()
            loss = loss + self.denoising[number] * error
            signal = self.down[number - 1](estimate) if number else None
        return loss


class Denoiser(torch.nn.Module):
    """g(z, u) = (z - m(u)) v(u) + m(u), element-wise.

    m(u) = a_1 sigmoid(a_2 u + a_3) + a_4 u + a_5, and v(u) likewise with a_6 .. a_10. a_2 and a_7
    are initialised to 1, the others to 0.
    """

    def __init__(self, width: int):
        super().__init__()
        start = torch.zeros(10, width)
        start[[1, 6]] = 1.0
        self.a = torch.nn.Parameter(start)

    def forward(self, noisy: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        """z and u, both (B, D) -> (B, D)."""
        m, v = (
            a[0] * torch.sigmoid(a[1] * signal + a[2]) + a[3] * signal + a[4]
            for a in self.a.split(5)
        )
        return (noisy - m) * v + m


def normalise(values: torch.Tensor) -> torch.Tensor:
    """Normalise to mean 0 and variance 1 over the batch (B, D)."""
    return F.batch_norm(values, None, None, training=True, eps=EPSILON)
