"""Structures in an ASE database, read one by one as they are needed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload
from weakref import WeakValueDictionary

import numpy as np

if TYPE_CHECKING:
    import ase
    from ase.db.row import AtomsRow

RowReader: TypeAlias = "Callable[[int], AtomsRow]"


class ASEDatabase(Sequence["ase.Atoms"]):
    """The rows of an ASE database as a sequence of structures, in the order of their ids.

    ``.db`` (SQLite) and ``.aselmdb`` files are read row by row on access, so that they may be
    larger than memory; ``.json`` files are read at once. Databases written by SchNetPack can
    be read. Entries of ``data`` and ``key_value_pairs`` go to ``atoms.arrays`` where they are
    arrays with one row per atom, and to ``atoms.info`` otherwise; values are expected in ASE's
    units. Instances may be pickled and may be shared by the workers of a data loader.

    Parameters
    ----------
    path
        A ``.db``, ``.json`` or ``.aselmdb`` file. The last kind needs the package
        ase-db-backends, which ``pip install 'graph-pes[aselmdb]'`` brings.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, is no ASE database or can't be read.

    Examples
    --------
    >>> import tempfile, ase.db
    >>> from ase.build import molecule
    >>> path = tempfile.mkdtemp() + "/molecules.db"
    >>> with ase.db.connect(path) as database:
    ...     _ = database.write(molecule("H2O"), data={"energy": -14.2})
    >>> structures = ASEDatabase(path)
    >>> len(structures), structures[0].info["energy"]
    (1, -14.2)
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = existing_file(path)
        if self.path.suffix not in _READERS:
            raise ValueError(
                f"{self.path}: expected the name of an ASE database to end in one of "
                f"{list(_READERS)}"
            )
        try:
            self._ids, self._read_row = _READERS[self.path.suffix](self.path)
        except ImportError:
            raise
        except Exception as error:
            raise unreadable(self.path, error) from error

    @overload
    def __getitem__(self, index: int) -> ase.Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[ase.Atoms]: ...
    def __getitem__(self, index: int | slice) -> ase.Atoms | list[ase.Atoms]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return _atoms_with_labels(self._read_row(self._ids[index]))

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"ASEDatabase({str(self.path)!r}, structures={len(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ASEDatabase, (self.path,)  # each process opens the file itself


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path, ``~`` expanded, of a file that exists and is not empty.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file (looked from {Path.cwd()})")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: expected at least one structure")
    return path


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error that names a file that can't be read, and why."""
    return ValueError(
        f"{path} can't be read, it may be truncated or of another format: "
        f"{type(error).__name__}: {error}"
    )


def _atoms_with_labels(row: AtomsRow) -> ase.Atoms:
    atoms = row.toatoms()
    for key, value in {**row.data, **row.key_value_pairs}.items():
        if key in ("numbers", "positions"):
            continue
        if isinstance(value, np.ndarray):
            value = value.copy()  # arrays decoded by ASE can be read-only
            if value.ndim > 0 and len(value) == len(atoms):
                atoms.arrays[key] = value
                continue
        atoms.info[key] = value
    return atoms


def _sqlite_rows(path: Path) -> tuple[list[int], RowReader]:
    import ase.db

    # Read-only, as ASE would turn any other SQLite file into a database of its own.
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        ids = [id for (id,) in connection.execute("SELECT id FROM systems ORDER BY id")]
    finally:
        connection.close()
    # ASE opens the file for each query: nothing is shared between processes.
    return ids, ase.db.connect(str(path), use_lock_file=False).get


def _json_rows(path: Path) -> tuple[list[int], RowReader]:
    import ase.db

    # ASE reads the whole of the file whatever row is asked for.
    rows = {row.id: row for row in ase.db.connect(str(path), use_lock_file=False).select()}
    return sorted(rows), rows.__getitem__


#: Open databases by path: LMDB may open a file only once in each process.
_lmdb_databases: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def _lmdb_rows(path: Path) -> tuple[list[int], RowReader]:
    path = path.resolve()
    database = _lmdb_databases.get(path)
    if database is None:
        database = _lmdb_databases[path] = _open_lmdb(path)

    def read_row(id: int) -> AtomsRow:
        if database._env_pid != os.getpid():
            # This is a worker. As long as the environment that it inherited is open, LMDB
            # refuses the one that the database opens in a new process.
            database._env.close()
        return database.get(id)

    return list(database.ids), read_row


def _open_lmdb(path: Path) -> Any:
    try:
        import lmdb
        from ase_db_backends.aselmdb import LMDBDatabase
    except ImportError as error:
        raise ImportError(
            "Reading .aselmdb files needs ase-db-backends: pip install 'graph-pes[aselmdb]'"
        ) from error
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < needed:
        # Reading on would not raise, but end the process with a bus error.
        raise ValueError(f"it has {path.stat().st_size} of {needed} bytes")
    return LMDBDatabase(str(path), readonly=True)


_READERS: Final[dict[str, Callable[[Path], tuple[list[int], RowReader]]]] = {
    ".db": _sqlite_rows,
    ".json": _json_rows,
    ".aselmdb": _lmdb_rows,
}

#: Endings of the names of files that are ASE databases.
DATABASE_SUFFIXES: Final[tuple[str, ...]] = tuple(_READERS)
