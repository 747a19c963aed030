"""Paths of administration: with the key and a folder only."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx

#: `Served` of conftest.py, which tests cannot import.
Served = Any
Serve = Callable[..., AbstractContextManager[Served]]

EMBEDDINGS = "/v1/embeddings"
ONE = {"input": "a chess game"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_administration_loads_and_unloads(
    golden_runtime_bundle: Path,
    serve: Serve,
    tmp_path: Path,
    write_peft: Callable[..., Path],
    random_adapter: Callable[..., Any],
) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    write_peft(folder / "one", ("", random_adapter(4, 1)))
    root = {"authorization": "Bearer root"}
    with serve(golden_runtime_bundle, adapter_folder=folder, admin_key=digest("root")) as opened:

        def ask(method: str, path: str = "", headers: Any = root, **options: Any) -> httpx.Response:
            found = opened.request(method, f"/admin/adapters{path}", headers=headers, **options)
            assert isinstance(found, httpx.Response)
            return found

        body = {"name": "legal", "folder": "one"}
        assert ask("GET", headers={}).status_code == 401
        assert ask("POST", headers={"x-api-key": "one"}, json=body).status_code == 403
        loaded = ask("POST", json=body)
        assert loaded.status_code == 201
        assert ask("GET").json()["adapters"]["legal"] == loaded.json()["hash"]
        made = opened.request("POST", EMBEDDINGS, json=ONE | {"task": "legal"})
        assert made.headers["x-trine-adapter"] == f"legal={loaded.json()['hash']}"
        assert ask("POST", json=body | {"extra": 1}).status_code == 400
        assert ask("POST", content=b"{").status_code == 400
        assert ask("POST", content=b'{"name": "\xff", "folder": "one"}').status_code == 400
        assert ask("DELETE", "/legal").status_code == 204
        assert ask("DELETE", "/legal").status_code == 404
        assert opened.request("POST", EMBEDDINGS, json=ONE | {"task": "legal"}).status_code == 422


def test_administration_is_off_by_default(served: Served) -> None:
    assert served.request("GET", "/admin/adapters").status_code == 404
