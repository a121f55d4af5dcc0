"""Whole files and trees between this machine and a vfolder, for commands: no mount takes part.

`uploads` and `downloads` carry one file each, and go on where an earlier try was stopped; `sending`,
`fetching` and `sync` say which files, and `crew` has many of them carried at once. What happened is in
a `report`.
"""
