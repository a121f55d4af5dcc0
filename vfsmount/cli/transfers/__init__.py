"""Commands that carry whole files: upload, download, sync. What they do is in `vfsmount.transfer`."""
