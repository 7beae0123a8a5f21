"""The S3 of this process: output locations, result files, what lies below a table's location."""

from moto.s3.exceptions import MissingBucket
from moto.s3.models import S3Backend, s3_backends
from moto.utilities.utils import get_partition

from ..errors import InvalidRequest


class Storage:
    """Buckets of one account, by `s3://bucket/key` addresses."""

    def __init__(self, account: str, region: str) -> None:
        self._account, self._partition = account, get_partition(region)

    @property
    def _s3(self) -> S3Backend:
        return s3_backends[self._account][self._partition]

    def check_bucket(self, location: str) -> None:
        """The bucket of an output location must exist.

        Raises:
            InvalidRequest: it does not.
        """
        bucket, _ = split_location(location)
        if bucket not in self._s3.buckets:
            raise InvalidRequest(f"Unable to verify/create output bucket {bucket}")

    def write(self, location: str, content: bytes) -> None:
        """Puts an object."""
        bucket, key = split_location(location)
        self._s3.put_object(bucket, key, content)

    def read(self, location: str) -> bytes | None:
        """An object's content, if it exists."""
        bucket, key = split_location(location)
        try:
            found = self._s3.get_object(bucket, key)
        except MissingBucket:
            return None
        return found.value if found else None

    def list(self, location: str) -> list[str]:
        """Addresses of all objects below a location."""
        bucket, prefix = split_location(location)
        if bucket not in self._s3.buckets:
            return []
        prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        keys = [key for key in list(self._s3.buckets[bucket].keys) if key.startswith(prefix)]
        return sorted(f"s3://{bucket}/{key}" for key in keys)


def split_location(location: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` address.

    Raises:
        InvalidRequest: it is none.
    """
    scheme, _, path = location.partition("://")
    bucket, _, key = path.partition("/")
    if scheme not in ("s3", "s3a", "s3n") or not bucket:
        raise InvalidRequest(f"outputLocation is not a valid S3 path. Provided {location}")
    return bucket, key
