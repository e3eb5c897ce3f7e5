"""The sources of eventwagon itself, one module each. They import no other source."""
