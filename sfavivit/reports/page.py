"""Self-contained HTML pages: a template with its style, its script and its data, and no network access.

Text of videos and labels never becomes HTML: it is JSON that the page's script shows as text. The content
security policy names the one script and the one style by their digests and forbids every address but the file
itself and videos beside it, so injected markup would still not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

_SLOT = re.compile(r"\{\{(\w+)\}\}")


def render_page(name: str, title: str, data: Mapping[str, Any], attachments: Mapping[str, bytes]) -> bytes:
    """Fill the template ``name``.html with its .css and .js, each after the shared ones; returns UTF-8.

    Args:
        name: name of the template.
        title: title of the page.
        data: values that the script shows, ready for JSON.
        attachments: {id: bytes that the script may read}.
    """
    style, script = (_template(f"shared.{kind}") + _template(f"{name}.{kind}") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )
    slots = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "body": _template(f"{name}.html"),
        "data": script_json(data),
        "attachments": "".join(
            f'<script type="text/plain" id="{key}">{base64.b64encode(content).decode()}</script>\n'
            for key, content in attachments.items()
        ),
    }
    # In one pass, so that text that was filled in is never taken for a slot.
    return _SLOT.sub(lambda slot: slots[slot[1]], _template("page.html")).encode()


def script_json(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in, whatever its strings are."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (resources.files("sfavivit.reports") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
