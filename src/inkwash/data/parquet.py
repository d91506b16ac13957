"""Parquet files: a column `image` (bytes, or a struct of bytes and path) and a column `caption` or `text`.

A Parquet file is a list of row groups, each readable alone. The index is the first row of every group; reading an item decodes its
group, and the last groups read stay in memory up to a byte budget. Images and texts are read apart, so captions cost no image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inkwash.data.item import Item, caption_of, fingerprint_of
from inkwash.errors import DataError, UsageError, install


def pyarrow_parquet() -> Any:
    """The module pyarrow.parquet. Raises UsageError `missing_extra` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("missing_extra", f"Parquet needs the package pyarrow; {install('train')}") from None
    return pyarrow.parquet


class Parquet:
    """Source over Parquet files, in the order given."""

    def __init__(self, files: Sequence[Path], *, budget_bytes: int = 192 << 20) -> None:
        parquet = pyarrow_parquet()
        self.files = [Path(file) for file in files]
        self._open: list[Any] = []
        self._columns: list[list[str]] = []
        groups: list[tuple[int, int, int]] = []                                        # file, group, rows
        parts: list[object] = []
        for number, file in enumerate(self.files):
            try:
                handle = parquet.ParquetFile(file)
            except PermissionError:
                raise DataError("data_permission", f"no permission to read {str(file)!r}; allow reading or name another path") from None
            except (OSError, ValueError) as error:
                raise DataError("data_unreadable", f"{str(file)!r} is not a readable Parquet file ({error}); restore it or leave it out") from error
            names = list(handle.schema_arrow.names)
            if "image" not in names:
                raise DataError("data_columns", f"{str(file)!r} has no column 'image'; its columns are {', '.join(names)}; "
                                                "rename the image column to image and the text column to caption")
            self._open.append(handle)
            self._columns.append(names)
            rows = [handle.metadata.row_group(group).num_rows for group in range(handle.num_row_groups)]
            groups += [(number, group, count) for group, count in enumerate(rows)]
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - 4096))
                tail = stream.read().hex()
            parts.append([file.name, file.stat().st_size, rows, tail])
        self._groups = [(file, group) for file, group, _ in groups]
        self._first = np.cumsum([0] + [rows for _, _, rows in groups])                 # (groups + 1,)
        first_group = {file: position for position, (file, group) in enumerate(self._groups) if group == 0}
        self._file_first = {file: int(self._first[position]) for file, position in first_group.items()}
        self.fingerprint = fingerprint_of("parquet", parts)
        self._budget = budget_bytes
        self._tables: OrderedDict[tuple[int, bool], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._first[-1])

    def _place(self, index: int) -> tuple[int, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = int(np.searchsorted(self._first, index, side="right")) - 1
        return position, self._groups[position][0], index - int(self._first[position])

    def _table(self, position: int, image: bool) -> Any:
        file, group = self._groups[position]
        with self._lock:
            slot = (position, image)
            if slot in self._tables:
                self._tables.move_to_end(slot)
                return self._tables[slot]
            columns = [name for name in self._columns[file] if (name == "image") == image]
            try:
                table = self._open[file].read_row_group(group, columns=columns, use_threads=False)
            except (OSError, ValueError) as error:
                raise DataError("data_unreadable", f"row group {group} of {str(self.files[file])!r} cannot be read ({error}); "
                                                   "restore the file or leave it out") from error
            self._tables[slot] = table
            while len(self._tables) > 2 and sum(held.nbytes for held in self._tables.values()) > self._budget:
                self._tables.popitem(last=False)
            return table

    def _fields(self, index: int) -> dict[str, object]:
        position, _, row = self._place(index)
        table = self._table(position, image=False)
        return {name: table.column(name)[row].as_py() for name in table.column_names}

    def __getitem__(self, index: int) -> Item:
        position, _, row = self._place(index)
        value = self._table(position, image=True).column("image")[row].as_py()
        fields = self._fields(index)
        if isinstance(value, dict):
            fields["path"] = value.get("path")
            value = value.get("bytes")
        return Item(self.key(index), value if isinstance(value, bytes) else b"", caption_of(fields), fields)

    def key(self, index: int) -> str:
        _, file, _ = self._place(index)
        return f"{self.files[file].name}:{index - self._file_first[file]}"

    def where(self, index: int) -> str:
        _, file, _ = self._place(index)
        return f"{self.files[file]} row {index - self._file_first[file]}"

    def caption(self, index: int) -> str:
        position, _, row = self._place(index)
        table = self._table(position, image=False)
        return caption_of({name: table.column(name)[row].as_py() for name in ("caption", "text") if name in table.column_names})

    def describe(self) -> str:
        return f"{len(self)} images in {len(self.files)} Parquet file{'s' if len(self.files) != 1 else ''}"
