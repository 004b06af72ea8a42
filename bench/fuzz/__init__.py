"""Random changes of what a user gives."""
