"""Addresses as errors may name them."""

from __future__ import annotations

import pytest

from sfavivit.utils.network import masked_text, masked_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("s3://key:secret@bucket/a@2.mp4", "s3://***@bucket/a@2.mp4"),
        ("http://secret@h:80/a.mp4?x=secret&secret", "http://***@h:80/a.mp4?x=***&***"),
        ("http://u:sec@ret@h/?a=b?c=secret;d=se cret==", "http://***@h/?a=***;d=***"),
        ("a://secret@h::b://secret@h", "a://***@h::b://***@h"),
        ("https://h/a.mp4", "https://h/a.mp4"),
        ("/videos/me@home/what=?a=b.mp4", "/videos/me@home/what=?a=b.mp4"),
    ],
)
def test_a_url_is_named_without_its_secrets(url: str, masked: str) -> None:
    assert masked_url(url) == masked


def test_urls_in_a_text_are_named_without_their_secrets() -> None:
    text = "no file? GET 's3://u:secret@h/a?t=secret' or https://h/?secret: mail me@home"
    assert masked_text(text) == "no file? GET 's3://***@h/a?t=***' or https://h/?*** mail me@home"
