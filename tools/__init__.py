"""Tools of this repository: checks of its structure, and generators of its documentation. Not shipped."""
