"""Stores that neither rocksdict nor ldb can make: comparators, merge operators, user-defined timestamps.

Debian's RocksDB 7.8 through its C interface. It runs in a process of its own, so that its symbols meet no others:
`run_store_script` starts this file as a program and gives it a description as JSON.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import pytest

LIBRARY = "librocksdb.so.7.8"
REVERSE_BYTEWISE = "rocksdb.ReverseBytewiseComparator"

Operation = tuple[str, bytes, bytes]


def run_store_script(
    path: Path,
    operations: Sequence[Operation] = (),
    *,
    comparator: str | None = None,
    merge_operator: str | None = None,
    timestamps: bool = False,
    file_bytes: int | None = None,
    flush: bool = True,
) -> list[tuple[bytes, bytes]]:
    """Opens or makes the store at `path`, applies (`put` | `merge` | `delete` | `flush` | `compact`, key, value), and
    returns all entries in their order when there are no operations.

    `comparator`: a name; that of the reverse bytewise one is RocksDB's own, any other orders ascending.
    `merge_operator`: `uint64add`, or a name that stands for "the last operand wins". With `timestamps` every put gets
    one. With `file_bytes` compactions cut files there, uncompressed, and come only when asked for.
    """
    description = {
        "path": str(path),
        "operations": [(kind, key.hex(), value.hex()) for kind, key, value in operations],
        "comparator": comparator,
        "merge_operator": merge_operator,
        "timestamps": timestamps,
        "file_bytes": file_bytes,
        "flush": flush,
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(description),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(f"{LIBRARY} cannot be loaded: it comes with the package rocksdb-tools")
    assert done.returncode == 0, done.stderr
    return [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in json.loads(done.stdout)]


_COMPARE = CFUNCTYPE(c_int, c_void_p, POINTER(c_ubyte), c_size_t, POINTER(c_ubyte), c_size_t)
_COMPARE_TS = CFUNCTYPE(c_int, c_void_p, POINTER(c_ubyte), c_size_t, POINTER(c_ubyte), c_size_t)
_COMPARE_WITHOUT_TS = CFUNCTYPE(
    c_int, c_void_p, POINTER(c_ubyte), c_size_t, c_ubyte, POINTER(c_ubyte), c_size_t, c_ubyte
)
_NAME = CFUNCTYPE(c_void_p, c_void_p)
_DESTROY = CFUNCTYPE(None, c_void_p)
_FULL_MERGE = CFUNCTYPE(
    c_void_p,
    c_void_p,
    POINTER(c_ubyte),
    c_size_t,
    POINTER(c_ubyte),
    c_size_t,
    POINTER(POINTER(c_ubyte)),
    POINTER(c_size_t),
    c_int,
    POINTER(c_ubyte),
    POINTER(c_size_t),
)
_PARTIAL_MERGE = CFUNCTYPE(
    c_void_p,
    c_void_p,
    POINTER(c_ubyte),
    c_size_t,
    POINTER(POINTER(c_ubyte)),
    POINTER(c_size_t),
    c_int,
    POINTER(c_ubyte),
    POINTER(c_size_t),
)
_DELETE_VALUE = CFUNCTYPE(None, c_void_p, POINTER(c_ubyte), c_size_t)


class _Library:
    """The few calls needed. Callbacks and names are kept alive until the process ends."""

    def __init__(self) -> None:
        self._c = ctypes.CDLL(LIBRARY)
        self._kept: list[Any] = []

    def keep(self, thing: Any) -> Any:
        self._kept.append(thing)
        return thing

    def pointer(self, function: str, *arguments: Any) -> c_void_p:
        call = getattr(self._c, function)
        call.restype = c_void_p
        return c_void_p(call(*arguments))

    def call(self, function: str, *arguments: Any) -> None:
        getattr(self._c, function)(*arguments)

    def checked(self, function: str, *arguments: Any) -> c_void_p:
        error = c_char_p()
        result = self.pointer(function, *arguments, ctypes.byref(error))
        if error.value is not None:
            raise RuntimeError(f"{function}: {error.value.decode()}")
        return result

    def name(self, text: str) -> Any:
        address = ctypes.cast(self.keep(ctypes.create_string_buffer(text.encode())), c_void_p).value
        return self.keep(_NAME(lambda state: address))

    def comparator(self, name: str) -> c_void_p:
        if name == REVERSE_BYTEWISE:
            # The C interface does not offer it, but takes any: what it calls one derives from what this returns.
            return self.pointer("_ZN7rocksdb25ReverseBytewiseComparatorEv")

        def compare(state: Any, a: Any, a_size: int, b: Any, b_size: int) -> int:
            return _order(_bytes(a, a_size), _bytes(b, b_size))

        return self.pointer(
            "rocksdb_comparator_create", None, self._nothing(), self.keep(_COMPARE(compare)), self.name(name)
        )

    def timestamp_comparator(self, name: str) -> c_void_p:
        """Keys ascending, newer timestamps (8 bytes, little-endian, at the end of the key) first."""

        def compare(state: Any, a: Any, a_size: int, b: Any, b_size: int) -> int:
            key_a, key_b = _bytes(a, a_size), _bytes(b, b_size)
            return _order(key_a[:-8], key_b[:-8]) or -_order(key_a[-8:][::-1], key_b[-8:][::-1])

        def compare_ts(state: Any, a: Any, a_size: int, b: Any, b_size: int) -> int:
            return _order(_bytes(a, a_size)[::-1], _bytes(b, b_size)[::-1])

        def without(state: Any, a: Any, a_size: int, a_has: int, b: Any, b_size: int, b_has: int) -> int:
            key_a, key_b = _bytes(a, a_size), _bytes(b, b_size)
            return _order(key_a[:-8] if a_has else key_a, key_b[:-8] if b_has else key_b)

        return self.pointer(
            "rocksdb_comparator_with_ts_create",
            None,
            self._nothing(),
            self.keep(_COMPARE(compare)),
            self.keep(_COMPARE_TS(compare_ts)),
            self.keep(_COMPARE_WITHOUT_TS(without)),
            self.name(name),
            c_size_t(8),
        )

    def last_operand_wins(self, name: str) -> c_void_p:
        def answer(operands: Any, sizes: Any, count: int, success: Any, size: Any) -> int:
            value = _bytes(operands[count - 1], sizes[count - 1])
            success[0], size[0] = 1, len(value)
            address = ctypes.cast(self.keep(ctypes.create_string_buffer(value)), c_void_p).value
            assert address is not None
            return address

        def full(s: Any, k: Any, ks: int, v: Any, vs: int, ops: Any, sizes: Any, n: int, ok: Any, size: Any) -> int:
            return answer(ops, sizes, n, ok, size)

        def partial(s: Any, k: Any, ks: int, ops: Any, sizes: Any, n: int, ok: Any, size: Any) -> int:
            return answer(ops, sizes, n, ok, size)

        return self.pointer(
            "rocksdb_mergeoperator_create",
            None,
            self._nothing(),
            self.keep(_FULL_MERGE(full)),
            self.keep(_PARTIAL_MERGE(partial)),
            self.keep(_DELETE_VALUE(lambda state, value, size: None)),
            self.name(name),
        )

    def _nothing(self) -> Any:
        return self.keep(_DESTROY(lambda state: None))


def _bytes(pointer: Any, size: int) -> bytes:
    return ctypes.string_at(pointer, size)


def _order(a: bytes, b: bytes) -> int:
    return (a > b) - (a < b)


def main() -> int:
    description = json.load(sys.stdin)
    try:
        library = _Library()
    except OSError:
        return 77
    options = library.pointer("rocksdb_options_create")
    library.call("rocksdb_options_set_create_if_missing", options, c_ubyte(1))
    name = description["comparator"]
    if description["timestamps"]:
        library.call("rocksdb_options_set_comparator", options, library.timestamp_comparator(name))
    elif name is not None:
        library.call("rocksdb_options_set_comparator", options, library.comparator(name))
    merge_operator = description["merge_operator"]
    if merge_operator == "uint64add":
        library.call("rocksdb_options_set_uint64add_merge_operator", options)
    elif merge_operator is not None:
        library.call("rocksdb_options_set_merge_operator", options, library.last_operand_wins(merge_operator))
    if description["file_bytes"] is not None:
        library.call("rocksdb_options_set_target_file_size_base", options, c_uint64(description["file_bytes"]))
        library.call("rocksdb_options_set_disable_auto_compactions", options, c_int(1))
        library.call("rocksdb_options_set_compression", options, c_int(0))
    database = library.checked("rocksdb_open", options, description["path"].encode())
    writing = library.pointer("rocksdb_writeoptions_create")
    flushing = library.pointer("rocksdb_flushoptions_create")
    for kind, key_hex, value_hex in description["operations"]:
        key, value = bytes.fromhex(key_hex), bytes.fromhex(value_hex)
        where: tuple[Any, ...] = (database, writing, key, c_size_t(len(key)))
        if description["timestamps"]:
            stamp = (1).to_bytes(8, "little")
            library.checked("rocksdb_put_with_ts", *where, stamp, c_size_t(8), value, c_size_t(len(value)))
        elif kind == "flush":
            library.checked("rocksdb_flush", database, flushing)
        elif kind == "compact":
            library.call("rocksdb_compact_range", database, None, c_size_t(0), None, c_size_t(0))
        elif kind == "delete":
            library.checked("rocksdb_delete", *where)
        else:
            library.checked(f"rocksdb_{kind}", *where, value, c_size_t(len(value)))
    entries = []
    if description["operations"]:
        if description["flush"]:
            library.checked("rocksdb_flush", database, flushing)
    else:
        reading = library.pointer("rocksdb_readoptions_create")
        iterator = library.pointer("rocksdb_create_iterator", database, reading)
        library.call("rocksdb_iter_seek_to_first", iterator)
        size = c_size_t()
        while library.pointer("rocksdb_iter_valid", iterator).value:
            key_at = library.pointer("rocksdb_iter_key", iterator, ctypes.byref(size))
            key = ctypes.string_at(key_at, size.value)
            value_at = library.pointer("rocksdb_iter_value", iterator, ctypes.byref(size))
            entries.append((key.hex(), ctypes.string_at(value_at, size.value).hex()))
            library.call("rocksdb_iter_next", iterator)
        library.checked("rocksdb_iter_get_error", iterator)
        library.call("rocksdb_iter_destroy", iterator)
    library.call("rocksdb_close", database)
    json.dump(entries, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
