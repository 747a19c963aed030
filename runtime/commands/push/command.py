"""`trine push BUNDLE ORG/NAME`: put a bundle into a repository of the Hub."""

import argparse
import sys
from pathlib import Path

from trine.runtime.errors import BundleError, InputError

__all__ = ["register", "run"]


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `push` to the program's commands."""
    parser = subparsers.add_parser(
        "push",
        help="put a bundle into a repository of the Hub",
        description="Put a bundle into a repository of the Hugging Face Hub, which is made if it "
        "is not there, with a model card that is written from the manifest. Log in first (`hf auth "
        "login`, or HF_TOKEN). The bundle's files are held against their hashes before, and "
        "arrive in one commit.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of `trine export`")
    parser.add_argument("repository", metavar="ORG/NAME", help="on the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", help="branch to commit to (default: main)")
    parser.add_argument(
        "--card",
        type=Path,
        metavar="FILE",
        help="a README.md to push in place of the written model card",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the commit's address."""
    from trine.runtime.bundle.bundle import MANIFEST_NAME, MODULE_FILES, open_bundle
    from trine.runtime.commands.push.model_card import CARD_NAME, model_card
    from trine.runtime.hub import parse_hub_id
    from trine.runtime.libraries import import_hub_client, one_line

    named = parse_hub_id(arguments.repository)
    if named is None or named[1] is not None:
        raise InputError(f"the repository is {arguments.repository!r}; give ORG/NAME")
    bundle = open_bundle(arguments.bundle)
    problems = bundle.check_hashes()
    if problems:
        raise BundleError(f"{bundle.folder}: {'; '.join(problems)}; export the bundle again")
    card = (
        model_card(bundle, arguments.repository).encode()
        if arguments.card is None
        else arguments.card.read_bytes()
    )
    hub = import_hub_client("hub", "to push a bundle")
    beside = [name for name in MODULE_FILES if bundle.path(name).is_file()]
    names = [MANIFEST_NAME, *beside, *bundle.manifest.files]
    files = {name: str(bundle.path(name)) for name in names} | {CARD_NAME: card}
    try:
        api = hub.HfApi()
        api.create_repo(arguments.repository, private=arguments.private or None, exist_ok=True)
        commit = api.create_commit(
            arguments.repository,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Trine bundle of {bundle.manifest.source.id}",
            revision=arguments.revision,
        )
    except Exception as cause:  # the client raises its own, httpx's and OSError alike
        raise BundleError(
            f"{arguments.repository}: the bundle cannot be pushed: {one_line(cause)}; log in with "
            "`hf auth login`, check the name and the network, and run again: files that arrived "
            "are not sent again"
        ) from cause
    print(f"pushed {len(files)} files to {arguments.repository}", file=sys.stderr)
    print(commit.commit_url)
    return 0
