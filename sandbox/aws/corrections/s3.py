"""S3: a listing is whole while other clients delete."""

from collections.abc import Iterator
from typing import Any

from moto.s3.utils import _VersionedKeyStore


def install() -> None:
    """Puts the correction into moto.

    moto: lists keys of a copy, then looks each up in the original, and fails (HTTP 500) where one was deleted
    meanwhile. AWS: a listing shows the objects that were there.
    """

    def items(store: _VersionedKeyStore) -> Iterator[tuple[str, Any]]:
        return ((key, versions[-1]) for key, versions in dict(store).items() if versions)

    def values(store: _VersionedKeyStore) -> Iterator[Any]:
        return (value for _, value in items(store))

    _VersionedKeyStore.items = _VersionedKeyStore.iteritems = items
    _VersionedKeyStore.values = _VersionedKeyStore.itervalues = values
