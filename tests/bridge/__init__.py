"""The bridge: the mapping, the sources on real servers, and the command."""
