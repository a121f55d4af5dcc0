"""The holder: a small process that owns a mount, behind which daemons come and go.

It keeps the descriptor of ``/dev/fuse``, the kernel's first request with its answer, and the journal: a piece
of memory (memfd_create(2)) that outlives each daemon and dies with the mount. One daemon, called a
generation, serves; another stands by, with everything loaded but the state. When the serving one dies, the
kernel is asked to send again what that one had read, and the next one goes on: programs see a pause.

It stays small because everything ends with it: no network, no threads, no libraries, one loop. What needs
privilege is done here (mount, unmount, the kernel's readahead), so that the daemons need none.

`kernel` speaks to the kernel, `wire` to the daemons, `child` starts one, `holder` decides. The daemon's side
is `fuse.keeper`. This package imports the standard library only, and little of it.
"""
