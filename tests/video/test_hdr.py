"""Tone mapping of HDR videos, against ffmpeg's own filters (zimg and tonemap)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfavivit.types import Frames
from sfavivit.video.hdr import tone_map
from sfavivit.video.reader import VideoReader
from tests.video_files import SIDE, encode, ffmpeg, sampling

TO_LIGHT = "zscale=t=linear:npl=203:p=bt709,tonemap=mobius:param=0.5:desat=0:peak=4.926"
TO_CODES = "zscale=t=bt709:m=bt709:r=pc,format=rgb24"


def colours(*, grey: bool = False) -> Frames:
    """One picture of many colours, or greys, and brightnesses."""
    ramp = np.linspace(0, 255, 8).astype(np.uint8).repeat(SIDE // 8)
    red, blue = (ramp[None], ramp[None]) if grey else (ramp[:, None], ramp[::-1, None])
    red, green, blue, _ = np.broadcast_arrays(red, ramp[None], blue, ramp[:, None])
    return np.repeat(np.stack([red, green, blue], axis=-1)[None], 5, axis=0)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_looks_as_ffmpeg_maps_it(tmp_path: Path, transfer: str) -> None:
    """Greys only for HLG: zimg raises each channel to the system gamma, BT.2100 the luminance."""
    to_hdr = f"tin=linear:pin=bt2020:min=gbr:t={transfer}:p=bt2020:m=bt2020nc:r=tv:npl=1000"
    names = ("-color_trc", transfer, "-color_primaries", "bt2020", "-colorspace", "bt2020nc")
    options = ("-vf", f"format=gbrp,zscale={to_hdr},format=yuv444p10le", *names, "-c:v", "ffv1")
    video = encode(tmp_path / "a.mkv", colours(grey=transfer == "arib-std-b67"), options=options)
    ffmpeg("-i", video, "-frames:v", "1", "-vf", f"{TO_LIGHT},{TO_CODES}", "-f", "rawvideo", tmp_path / "sdr")
    expected = np.fromfile(tmp_path / "sdr", np.uint8).reshape(SIDE, SIDE, 3).astype(int)
    with VideoReader(video, sampling(), chunk_frames=1) as reader:
        difference = np.abs(next(reader)[0].astype(int) - expected)
    assert difference.mean() < 3, "8 bits of the source are coarse, so single ones may differ more"
    assert np.percentile(difference, 95) < 12


def test_a_standard_picture_is_left_alone() -> None:
    picture = colours()[0]
    assert tone_map(picture, "bt709") is picture
    assert tone_map(picture, "") is picture
