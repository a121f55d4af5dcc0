"""vfolders for fsspec: ``vfolder://mydata1/x``, without a mount.

pandas, pyarrow, dask, torch and whatever else speaks fsspec find it by that name.
"""

from vfsmount.fsspec.filesystem import VfolderFileSystem
from vfsmount.fsspec.listing import PartialListing, PartialListingWarning

__all__ = ["PartialListing", "PartialListingWarning", "VfolderFileSystem"]
