"""Tone mapping of HDR pictures to the standard range, of which models have seen their training videos."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sfavivit.types import Frames

# Luminance in units of the white of a standard picture, 203 cd/m2 (ITU-R BT.2408), and of an HDR display.
_WHITE_NITS = 203.0
_PEAK = 1000.0 / _WHITE_NITS
_KNEE = 0.5  # up to here pictures keep their brightness
_DISPLAY_GAMMA = 2.4  # of a standard display (ITU-R BT.1886)
_OUTPUT_STEPS = 4095

_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT2020_TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_map(pixels: Frames, transfer: str) -> Frames:
    """Return uint8 [..., 3] RGB pictures of a standard display for those of an HDR one.

    ``transfer``: ffmpeg's name of the transfer characteristic. A picture in another than PQ or HLG is
    returned as it is. Primaries are taken for those of BT.2020, with which both are used.
    """
    if transfer not in TRANSFERS:
        return pixels
    light = _light_of(transfer)[pixels] @ _BT2020_TO_BT709.T if transfer == PQ else _hlg_light(pixels)
    np.maximum(light, 0, out=light)
    brightest = light.max(axis=-1, keepdims=True)
    light *= _compress(brightest) / np.maximum(brightest, 1e-6)
    codes = np.minimum(light * _OUTPUT_STEPS + 0.5, _OUTPUT_STEPS).astype(np.int32)
    return np.asarray(_display_codes()[codes])


def _hlg_light(pixels: Frames) -> NDArray[np.float32]:
    """Light of an HLG picture on a display of the peak luminance, whose system gamma is 1.2 (BT.2100)."""
    scene = _light_of(HLG)[pixels]
    luminance = np.maximum(scene @ _LUMINANCE_2020, 1e-6)[..., None]
    return np.asarray(np.matmul(scene * (_PEAK * luminance**0.2), _BT2020_TO_BT709.T))


def _compress(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map light of up to the peak to at most 1: equal up to the knee, from there a Möbius transform.

    a and b of (x + a) / (x + b) follow from value and slope 1 at the knee; it is scaled to be 1 at the peak.
    """
    knee, peak = _KNEE, _PEAK
    a = -knee * knee * (peak - 1) / (knee * knee - 2 * knee + peak)
    b = (knee * knee - 2 * knee * peak + peak) / (peak - 1)
    scale = (b * b + 2 * b * knee + knee * knee) / (b - a)
    return np.where(light <= knee, light, scale * (light + a) / (light + b))


@lru_cache(maxsize=2)
def _light_of(transfer: str) -> NDArray[np.float32]:
    """Linear light of each 8-bit code, float32 [256]."""
    return TRANSFERS[transfer](np.arange(256) / 255.0).astype(np.float32)


def _pq(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of PQ codes (SMPTE ST 2084, electro-optical transfer function)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = codes ** (1 / m2)
    return np.asarray((np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10000 / _WHITE_NITS)


def _hlg(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scene light, 0 to 1, of HLG codes (ITU-R BT.2100, inverse optical-electrical transfer function)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)


PQ, HLG = "smpte2084", "arib-std-b67"
TRANSFERS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {PQ: _pq, HLG: _hlg}


@lru_cache(maxsize=1)
def _display_codes() -> NDArray[np.uint8]:
    """8-bit code of each step of light, for a standard display."""
    light = np.arange(_OUTPUT_STEPS + 1) / _OUTPUT_STEPS
    return np.round(255 * light ** (1 / _DISPLAY_GAMMA)).astype(np.uint8)
