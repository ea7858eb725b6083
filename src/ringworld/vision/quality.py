"""How good a frame tokenizer is: reconstruction and use of the codebook."""

import numpy as np
from jaxtyping import Float64, Int32, UInt8


def psnr(
    frames: UInt8[np.ndarray, "frames height width 3"], others: UInt8[np.ndarray, "frames height width 3"]
) -> Float64[np.ndarray, " frames"]:
    """Return the peak signal-to-noise ratio of each frame in dB, of 8-bit pixels; infinite where equal."""
    error = np.square(frames.astype(np.float64) - others).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def codebook_usage(codes: Int32[np.ndarray, "frames codes"], *, codebook_size: int) -> float:
    """Return the fraction of the codebook that occurs."""
    return len(np.unique(codes)) / codebook_size


def codebook_perplexity(codes: Int32[np.ndarray, "frames codes"]) -> float:
    """Return the exponential of the entropy of the codes: as many evenly used codes would carry as much."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
