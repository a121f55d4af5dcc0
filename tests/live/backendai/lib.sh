# Shared by up, down, status and client; WORK is set.
SERVERS=(pg redis etcd storage-proxy manager)

# Prints the process id of a server if it runs and is ours. Ids are used again after a reboot, and a
# stranger must be neither taken for a server nor stopped; all of ours have WORK or a directory in it
# as their current one.
pid_of() {
  local pid cwd noted=$WORK/run/$1.pid
  # For root, what was started is runuser; the server behind it notes its own id.
  [ "$1" != pg ] || noted=$WORK/pg/postmaster.pid
  pid=$(head -1 "$noted" 2>/dev/null) || return 1
  cwd=$(readlink "/proc/$pid/cwd" 2>/dev/null) || return 1
  case $cwd in "$WORK" | "$WORK"/*) echo "$pid" ;; *) return 1 ;; esac
}
alive() { pid_of "$1" >/dev/null; }

# 23.09 runs on Python 3.11 and nothing newer.
is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
find_python() {
  local candidate
  for candidate in python3.11 python3 /usr/bin/python3.11; do
    if is_311 "$candidate" && makes_venvs "$candidate"; then echo "$candidate" && return; fi
  done
}
