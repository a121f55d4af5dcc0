"""``vfsmount doctor``: what stands in the way, and the command that removes it.

`machine` and `api.probe` gather facts and judge nothing; `machine_checks` and `server_checks` judge and
touch nothing, each cause in a small function; `command` runs both and prints. docs/doctor.md has a line
for each cause.
"""
