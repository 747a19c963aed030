"""The page at `/docs`: every path with its fields, and a form that sends a request to it."""

import html
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["DOCS_POLICY", "docs_page"]

#: Content-Security-Policy: styles and script stand in the page, requests go to this server only.
DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Characters of an answer that the page shows; a long vector fills no screen.
MAX_SHOWN = 4000

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1c1e; background: #fff; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ccc; }}
details {{ margin: .5rem 0; border: 1px solid #ddd; border-radius: 6px; padding: .5rem 1rem; }}
summary {{ cursor: pointer; }} code, textarea, pre {{ font: 14px/1.4 ui-monospace, monospace; }}
b {{ display: inline-block; width: 3.5rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }}
textarea {{ width: 100%; box-sizing: border-box; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f7; padding: .5rem; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #eee; background: #1c1c1e; }} pre, textarea {{ background: #2c2c2e; color: #eee; }}
}}
</style></head><body>
<h1>{title}</h1>
<p>{description} The document behind this page is <a href="openapi.json">openapi.json</a>.</p>
<p><label>API key, if the server needs one: <input id="key" type="password"></label></p>
"""

_TAIL = """<script>
for (const form of document.querySelectorAll("section")) {
  form.querySelector("button").addEventListener("click", async () => {
    const shown = form.querySelector("pre");
    const key = document.getElementById("key").value;
    const headers = {"content-type": "application/json"};
    if (key) headers.authorization = "Bearer " + key;
    shown.textContent = "…";
    try {
      const body = form.querySelector("textarea").value;
      const answer = await fetch(form.dataset.path, {method: "POST", headers, body});
      const text = await answer.text();
      const cut = text.length > MAX_SHOWN ? text.slice(0, MAX_SHOWN) + " …" : text;
      shown.textContent = answer.status + "\\n" + cut;
    } catch (error) { shown.textContent = String(error); }
  });
}
</script></body></html>
""".replace("MAX_SHOWN", str(MAX_SHOWN))


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document, as HTML that loads nothing from elsewhere."""
    about = document["info"]
    parts = [
        _HEAD.format(
            title=html.escape(about["title"]), description=html.escape(about["description"])
        )
    ]
    tag = None
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"<h2>{html.escape(tag)}</h2>")
            parts.append(_operation(path, method, operation, document["components"]["schemas"]))
    return "".join([*parts, _TAIL])


def _operation(
    path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    head = (
        f"<summary><b>{html.escape(method.upper())}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation['summary'])}</summary>"
    )
    if "requestBody" not in operation:
        return f"<details>{head}<p>Takes no body.</p></details>"
    content = operation["requestBody"]["content"]["application/json"]
    schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td>"
        f"<td>{html.escape(described.get('description', ''))}{_choices(described)}</td></tr>"
        for name, described in schema["properties"].items()
    )
    example = json.dumps(content["example"], ensure_ascii=False, indent=2)
    form = ""
    # Where a part of the path varies, there is nowhere to send the form to.
    if "{" not in path:
        form = (
            f'<section data-path="{html.escape(path)}">'
            f'<textarea aria-label="body" rows="{example.count(chr(10)) + 1}">'
            f"{html.escape(example)}</textarea>"
            "<p><button>Send</button></p><pre></pre></section>"
        )
    else:
        form = f"<pre>{html.escape(example)}</pre>"
    return f"<details>{head}<table>{rows}</table>{form}</details>"


def _choices(described: Mapping[str, Any]) -> str:
    """Return the values that a property may have, where they are listed."""
    values = [value for value in described.get("enum", ()) if value is not None]
    return f"<br><small>{html.escape(', '.join(values))}</small>" if values else ""
