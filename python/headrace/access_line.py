"""One line of the access log."""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["access_line"]

_PLAIN = re.compile(r"[\w.:/\-\[\]]*", re.ASCII)


def _show(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def access_line(entry: Mapping[str, Any]) -> str:
    """One call as key=value text. What the client chose is quoted where it is not plain, so that it stays one line."""
    headers = "".join(f" header.{name}={_show(value)}" for name, value in entry["headers"])
    return (
        f"peer={_show(entry['peer'])} path={_show(entry['path'])} model={_show(entry['model'])} "
        f"version={_show(entry['version'])} id={_show(entry['request_id'])} code={entry['code']} "
        f"request_bytes={entry['request_bytes']} response_bytes={entry['response_bytes']} rows={entry['rows']} "
        f"batch_rows={entry['batch_rows']} queue_us={entry['queue_ns'] // 1000} "
        f"compute_us={entry['compute_ns'] // 1000} total_us={entry['total_ns'] // 1000}{headers}"
    )
