"""Commands about folders as a whole, as the official client has them in its group ``vfolder``."""
