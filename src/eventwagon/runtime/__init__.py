"""The actors: they carry out what the policy decides, through the contracts."""
