"""Import paths of the integrations; the code is in the package ``grey``."""
