"""The actors: they carry policy out, through the contracts."""
