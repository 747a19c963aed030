"""Finds in the columns of a table what is text, image and id, and what travels to the output."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from string import Formatter

from trine.runtime.errors import InputError

__all__ = ["KEEP_ALL", "KEEP_NONE", "OUTPUT_COLUMNS", "ColumnOptions"]

KEEP_ALL = "all"
KEEP_NONE = "none"
#: Names of the dataset's own columns.
OUTPUT_COLUMNS = ("id", "embedding", "embeddings", "source", "row", "num_tokens", "truncated")
#: Columns that hold ids where none is named; `_id` is BEIR's.
ID_NAMES = ("id", "_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOptions:
    """What the columns of tables and the fields of JSON lines are.

    Attributes:
        text: the text's column; None for "text", where there is one.
        image: the image's column; None for "image", where there is one.
        id: the id's column; None for "id" or "_id", where there is one.
        keep: columns that travel to the output, or `KEEP_ALL` (those with no other use) or
            `KEEP_NONE`.
        template: makes the text of several columns, e.g. "{title} {text}"; None for one column.
    """

    text: str | None = None
    image: str | None = None
    id: str | None = None
    keep: tuple[str, ...] | str = KEEP_ALL
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None:
            if self.text is not None:
                raise InputError("--template and --text-column both say what the text is; give one")
            if not self.template_fields():
                raise InputError(
                    f"--template is {self.template!r}, which names no column; write for example "
                    '"{title} {text}"'
                )
        if not isinstance(self.keep, str):
            taken = [name for name in self.keep if name in OUTPUT_COLUMNS]
            if taken:
                raise InputError(
                    f"--keep names {taken}, which are columns of every output; leave them out, or "
                    "rename those of the input"
                )

    def template_fields(self) -> list[str]:
        """Return the columns that the template names."""
        if self.template is None:
            return []
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as cause:
            raise InputError(
                f"--template is {self.template!r} ({cause}); write {{column}} for each column"
            ) from cause
        return [name for _, name, _, _ in parts if name is not None]

    def named(self) -> list[str]:
        """Return the columns that a table must have because an option names them."""
        given = [name for name in (self.text, self.image, self.id) if name is not None]
        return [*given, *self.template_fields()]

    def used(self, names: Collection[str]) -> list[str]:
        """Return those of a table's columns that items and ids are made of."""
        texts = self.template_fields() or [self.text or "text"]
        ids = [self.id] if self.id else [name for name in ID_NAMES if name in names][:1]
        wanted = (*texts, self.image or "image", *ids)
        return [name for name in dict.fromkeys(wanted) if name in names]

    def kept(self, names: Collection[str], reserved: Collection[str] = ()) -> list[str]:
        """Return those of a table's columns that travel to the output.

        Args:
            names: of the table.
            reserved: with a meaning of their own, as `used` has them.

        Raises:
            InputError: one has the name of an output's column.
        """
        if self.keep == KEEP_NONE:
            return []
        if not isinstance(self.keep, str):
            return [name for name in self.keep if name in names]
        used = {*self.used(names), *reserved}
        found = [name for name in names if name not in used]
        taken = [name for name in found if name in OUTPUT_COLUMNS]
        if taken:
            raise InputError(
                f"the columns {taken} have names of the output's own; rename them, or name those "
                "to travel with --keep"
            )
        return found

    def id_of(self, record: Mapping[str, object]) -> object:
        """Return what a record's column of ids holds; None if there is none."""
        names = [name for name in ((self.id,) if self.id else ID_NAMES) if name in record]
        return record[names[0]] if names else None

    def fields(self, record: Mapping[str, object], where: str) -> dict[str, object]:
        """Return the fields of `row_from_fields` that a record holds: id, text and image.

        Raises:
            InputError: what an option names is missing or null.
        """
        used = self.used(record)
        found: dict[str, object] = {}
        for role, name in (("text", self.text or "text"), ("image", self.image or "image")):
            if name in used:
                found[role] = record[name]
        if self.template is not None:
            found["text"] = self._templated(record, where)
        if found.get("image") == "":
            del found["image"]
        if isinstance(found.get("image"), dict):
            found["image"] = _struct_image(found["image"])
        found["id"] = self.id_of(record)
        if found["id"] is None and (self.id or set(ID_NAMES) & set(record)):
            raise InputError(f"{where}: its id is null; give every row an id, or no id column")
        if found.get("text") is None and found.get("image") in (None, []):
            raise InputError(
                f"{where}: has neither a text nor an image (columns {list(record)}, all null or "
                "missing); name them with --text-column or --image-column, or --on-error skip"
            )
        return found

    def _templated(self, record: Mapping[str, object], where: str) -> str | None:
        values = {name: record.get(name) for name in self.template_fields()}
        if all(value is None for value in values.values()):
            return None
        wrong = [name for name, value in values.items() if not isinstance(value, str | int | None)]
        if wrong:
            raise InputError(f"{where}: {wrong[0]} is {values[wrong[0]]!r}; give a string")
        filled = {name: "" if value is None else value for name, value in values.items()}
        return Formatter().vformat(self.template or "", (), filled).strip()


def _struct_image(value: object) -> object:
    """Return the bytes or the path of an image as Hugging Face datasets store one."""
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        return value
    return value.get("bytes") or value.get("path")
