"""No encoder of its own: the frontend's frames go straight to the heads (S1)."""

from espnet2.asr.encoder.abs_encoder import AbsEncoder


class IdentityEncoder(AbsEncoder):
    """Hand the frontend's frames on unchanged."""

    def __init__(self, input_size: int):
        super().__init__()
        self._output_size = input_size

    def output_size(self) -> int:
        return self._output_size

    def forward(self, xs_pad, ilens, prev_states=None):
        """(B, T, D), (B,) -> the same, and no state."""
        return xs_pad, ilens, None
