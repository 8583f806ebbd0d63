"""What Kvrocks keeps in a RocksDB directory. The words:

namespace   a tenant's keys; `__namespace` where nobody said otherwise. Every key begins with its namespace.
slot        the hash of a user key, one of 16384. A server in cluster mode puts it into its keys behind the namespace;
            such a directory is slot-encoded. Nothing in the directory says so but the keys themselves.
user key    the key that a client names.
metadata    the entry of a user key in the column family `metadata`: type, time of expiry, version, size; of a string or
            a JSON document also the value.
subkey      an entry of a hash, list, set, … in another column family; its key begins with the user key and a version.
version     a number that a user key gets when it is created. Deleting a key deletes its metadata alone: subkeys belong
            to a key that lives only where they have its version.
live        metadata that is neither expired nor empty, and the subkeys that belong to it.
garbage     subkeys without live metadata of their version; the server's compactions drop them some day.

Integers are big-endian, so that keys sort by them.
"""
