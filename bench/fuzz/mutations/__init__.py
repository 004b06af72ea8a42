"""Changes of bytes and files."""
